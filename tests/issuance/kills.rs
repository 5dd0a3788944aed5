//! The leader is killed at each step of an order: the next one finishes it, and no generation is finalised twice.

use std::time::{Duration, Instant};

use pangolin_chaos::cluster::START_PATIENCE;

use crate::{
    front::{Asked, Side},
    hosts,
    lab::{Lab, skipped},
    pebble::Behaviour,
};

/// How long another leader may take until the order is done.
const DONE_WITHIN: Duration = Duration::from_secs(30);

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

#[tokio::test(flavor = "multi_thread")]
async fn whenever_the_leader_dies_the_next_one_finishes_and_no_generation_is_finalised_twice() {
    if skipped() {
        return;
    }
    let mut lab = Lab::start(3, Behaviour::default()).await;
    let steps = std::iter::once((Asked::NewAccount, Side::After)).chain(STEPS);
    let mut generation = lab.of_zone().await.and_then(|certificate| certificate.generation).unwrap_or(0);
    let mut slowest = Duration::ZERO;
    for (caught, (asked, side)) in steps.enumerate() {
        lab.front.trap(asked, side);
        match asked {
            Asked::NewAccount => lab.use_pebble(),
            _ => drop(lab.ctl_ok(&["cert", "renew", "demo.test"])),
        }
        assert!(
            lab.front.caught(caught + 1, crate::lab::PATIENCE).await,
            "{asked:?} was not asked: {}",
            lab.pebble.tail()
        );
        let status = hosts::leads(&lab.cluster, 0).await;
        let leader = status.leader.as_ref().expect("a leader").node_id;
        let leader = lab.cluster.position(&status, leader).expect("one of these");
        lab.cluster.nodes[leader].kill();
        let died = Instant::now();
        generation += 1;
        let certificate = lab.issued(generation).await;
        let took = died.elapsed();
        slowest = slowest.max(took);
        println!("{asked:?} {side:?}: generation {generation} after {took:?}, {:?}", lab.pebble.counts());
        assert!(took <= DONE_WITHIN, "{asked:?} {side:?} took {took:?}");
        assert_eq!(certificate.generation, Some(generation), "{asked:?} {side:?}: one generation, not more");
        let seen = lab.pebble.counts();
        assert_eq!(seen.issued, caught + 1, "{asked:?} {side:?}: one certificate for each generation");
        assert_eq!(lab.front.finalized(), caught + 1, "{asked:?} {side:?}: one order finalised for each");
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
