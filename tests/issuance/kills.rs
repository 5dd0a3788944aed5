//! The leader is killed at each step of an order: the next one finishes it, and no generation is finalised twice.

use std::time::{Duration, Instant};

use pangolin_chaos::cluster::START_PATIENCE;
use pangolin_core::issuance::Phase;
use pangolin_wire::{CertificateList, ClusterStatus};
use tokio::time::sleep;

use crate::{
    front::{Asked, Side},
    hosts,
    lab::{Lab, skipped},
    pebble::Behaviour,
};

/// How long another leader may take until the order is done.
const DONE_WITHIN: Duration = Duration::from_secs(30);

/// How the leader is caught in the middle of a step.
#[derive(Clone, Copy, Debug)]
enum Caught {
    /// The order is planned, and its account is being registered.
    Planned(Side),
    /// The proofs are in the log, and a name server does not show them: its node stands still.
    Published,
    /// In the middle of a request.
    At(Asked, Side),
}

/// The steps, by the request that the leader is in the middle of when it dies. What the authority has seen and the log
/// does not know is on the side `After`.
const STEPS: [(Asked, Side); 9] = [
    (Asked::NewOrder, Side::Before),
    (Asked::NewOrder, Side::After),
    (Asked::Authorization, Side::Before),
    (Asked::Challenge, Side::Before),
    (Asked::Challenge, Side::After),
    (Asked::Finalize, Side::Before),
    (Asked::Finalize, Side::After),
    (Asked::Certificate, Side::Before),
    (Asked::Certificate, Side::After),
];

impl Caught {
    fn all() -> impl Iterator<Item = Self> {
        let first = [Self::Planned(Side::After), Self::Planned(Side::Before), Self::Published];
        first.into_iter().chain(STEPS.map(|(asked, side)| Self::At(asked, side)))
    }
}

/// Waits until the order is published as the leader sees it, while a node stands still that is to show the proofs.
async fn published(lab: &Lab, leader: usize) {
    let end = Instant::now() + crate::lab::PATIENCE;
    loop {
        let list = lab.cluster.nodes[leader].client().get::<CertificateList>("/certificates").await;
        let orders = list.map(|list| list.certificates).unwrap_or_default().into_iter();
        if orders.filter_map(|c| c.order).any(|order| order.phase == Phase::TxtPublished) {
            return;
        }
        assert!(Instant::now() < end, "the order is not published: {}", lab.pebble.tail());
        sleep(Duration::from_millis(20)).await;
    }
}

/// Has an order begun, and the leader caught in it. Its place, and the node that stands still.
async fn catch(lab: &mut Lab, how: Caught, requests: &mut usize) -> (usize, Option<usize>) {
    let leads = |status: &ClusterStatus, lab: &Lab| {
        let leader = status.leader.as_ref().expect("a leader").node_id;
        lab.cluster.position(status, leader).expect("one of these")
    };
    let (asked, side) = match how {
        Caught::At(asked, side) => (asked, side),
        Caught::Planned(side) => (Asked::NewAccount, side),
        Caught::Published => {
            let leader = leads(&hosts::leads(&lab.cluster, 0).await, lab);
            // The first one that runs is asked by `ctl`.
            let still = (0..lab.cluster.nodes.len()).rev().find(|node| *node != leader).expect("another one");
            lab.cluster.nodes[still].process().expect("it runs").freeze();
            lab.ctl_ok(&["cert", "renew", "demo.test"]);
            published(lab, leader).await;
            return (leader, Some(still));
        }
    };
    lab.front.trap(asked, side);
    match how {
        Caught::Planned(Side::After) => lab.use_pebble(),
        Caught::Planned(Side::Before) => {
            // Another account, so that one is registered again.
            lab.use_account("second");
            lab.ctl_ok(&["cert", "renew", "demo.test"]);
        }
        _ => drop(lab.ctl_ok(&["cert", "renew", "demo.test"])),
    }
    *requests += 1;
    let caught = lab.front.caught(*requests, crate::lab::PATIENCE).await;
    assert!(caught, "{how:?} was not asked: {}", lab.pebble.tail());
    (leads(&hosts::leads(&lab.cluster, 0).await, lab), None)
}

#[tokio::test(flavor = "multi_thread")]
async fn whenever_the_leader_dies_the_next_one_finishes_and_no_generation_is_finalised_twice() {
    if skipped() {
        return;
    }
    let mut lab = Lab::start(3, Behaviour::default()).await;
    let mut generation = lab.of_zone().await.and_then(|certificate| certificate.generation).unwrap_or(0);
    let (mut slowest, mut requests) = (Duration::ZERO, 0);
    for (before, how) in Caught::all().enumerate() {
        let (leader, still) = catch(&mut lab, how, &mut requests).await;
        lab.cluster.nodes[leader].kill();
        let died = Instant::now();
        if let Some(still) = still {
            lab.cluster.nodes[still].process().expect("it runs").thaw();
        }
        generation += 1;
        let certificate = lab.issued(generation).await;
        let took = died.elapsed();
        slowest = slowest.max(took);
        println!("{how:?}: generation {generation} after {took:?}, {:?}", lab.pebble.counts());
        assert!(took <= DONE_WITHIN, "{how:?} took {took:?}");
        assert_eq!(certificate.generation, Some(generation), "{how:?}: one generation, not more");
        let seen = lab.pebble.counts();
        assert_eq!(seen.issued, before + 1, "{how:?}: one certificate for each generation");
        assert_eq!(lab.front.finalized(), before + 1, "{how:?}: one order finalised for each");
        lab.cluster.nodes[leader].start_ready().await.expect("it runs again");
        lab.cluster.healthy(START_PATIENCE).await.expect("all are back");
    }
    let seen = lab.pebble.counts();
    println!(
        "{} generations, {} orders placed, {} of them surplus; slowest {slowest:?}",
        seen.issued,
        seen.orders,
        seen.orders - seen.issued
    );
    assert!(seen.orders - seen.issued <= 2, "an order is lost only between its placing and the log");
    lab.served_everywhere("control.demo.test").await;
}
