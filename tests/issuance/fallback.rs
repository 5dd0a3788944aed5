//! A second issuer stands in while the first one fails, and only so long.

use std::time::Duration;

use http::StatusCode;
use pangolin_wire::Certificate;

use crate::{
    front::{Asked, Front},
    lab::{Lab, PATIENCE, skipped},
    pebble::Behaviour,
};

/// An issuer that is away is asked again after a minute before another one stands in.
const AWAY: Duration = Duration::from_secs(240);

/// A lab with the issuer `first`, which fails, and `second`, which does not.
async fn lab(first: impl FnOnce(&Lab) -> Front) -> (Lab, Front) {
    let lab = Lab::start(1, Behaviour::exact()).await;
    let first = first(&lab);
    lab.add_issuer("first", &first, &[]);
    lab.add_issuer("second", &lab.front, &[]);
    (lab, first)
}

/// The second one issues, everybody is told why, and the first one is asked when it is well again.
async fn stands_in(lab: &Lab, first: &Front, patience: Duration, because: &str) -> Certificate {
    let made = lab.issued_by("second", 1, patience).await;
    let why = lab.ctl_ok(&["cert", "why", "demo.test"]);
    assert!(why.contains("second stands in for first: ") && why.contains(because), "{why}");
    assert_eq!(lab.front.seen(Asked::NewOrder), 1, "the second was asked for one certificate");
    lab.served_everywhere("control.demo.test").await;
    first.open();
    first.break_with(None);
    first.set_limited(false);
    made
}

/// Renewals are for the first issuer again.
async fn first_again(lab: &Lab, made: &Certificate) {
    lab.ctl_ok(&["cert", "renew", "demo.test"]);
    let generation = made.generation.expect("one") + 1;
    let renewed = lab.issued_by("first", generation, PATIENCE).await;
    assert_eq!((renewed.generation, renewed.surplus_orders), (Some(generation), 0));
    assert_eq!(lab.front.seen(Asked::NewOrder), 1, "nothing more of the second");
    let why = lab.ctl_ok(&["cert", "why", "demo.test"]);
    assert!(why.contains("of the issuer first"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_that_refuses_connections_is_stood_in_for_and_used_again_later() {
    if skipped() {
        return;
    }
    let (lab, first) = lab(|lab| Front::refusing(&lab.pebble)).await;
    let made = stands_in(&lab, &first, AWAY, "efused").await;
    first_again(&lab, &made).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_that_is_out_of_order_is_stood_in_for_and_used_again_later() {
    if skipped() {
        return;
    }
    let broken = |lab: &Lab| {
        let front = Front::start(&lab.pebble);
        front.break_with(Some(StatusCode::SERVICE_UNAVAILABLE));
        front
    };
    let (lab, first) = lab(broken).await;
    let made = stands_in(&lab, &first, AWAY, "out of order").await;
    assert_eq!(first.seen(Asked::NewOrder), 0);
    first_again(&lab, &made).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_that_wants_to_be_left_alone_is_stood_in_for_at_once() {
    if skipped() {
        return;
    }
    let limited = |lab: &Lab| {
        let front = Front::start(&lab.pebble);
        front.set_limited(true);
        front
    };
    let (lab, first) = lab(limited).await;
    let made = stands_in(&lab, &first, PATIENCE, "rateLimited: too many certificates").await;
    assert_eq!(first.seen(Asked::NewOrder), 1, "it was asked once, and then left alone");
    // It wanted an hour of rest, and what is good for long can wait for it.
    lab.ctl_ok(&["cert", "renew", "demo.test"]);
    let waiting = lab.until("it waits", |certificate| certificate.reason.contains("left alone")).await;
    assert_eq!(waiting.generation, made.generation);
    assert_eq!(lab.front.seen(Asked::NewOrder), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_an_issuer_does_not_finish_is_given_up_and_its_generation_skipped() {
    if skipped() {
        return;
    }
    let dead = |lab: &Lab| {
        let front = Front::start(&lab.pebble);
        front.die_for(Some(Asked::Finalize));
        front
    };
    let (lab, first) = lab(dead).await;
    let waiting = lab.until("it waits", |certificate| certificate.reason.contains("dead for this")).await;
    let next = waiting.generation.unwrap_or(0) + 1;
    let made = lab.issued_by("second", next + 1, AWAY).await;
    assert_eq!(
        (made.generation, made.surplus_orders),
        (Some(next + 1), 1),
        "the first may have issued the other one"
    );
    let why = lab.ctl_ok(&["cert", "why", "demo.test"]);
    assert!(why.contains("second stands in for first: ") && why.contains("dead for this"), "{why}");
    assert_eq!(
        (first.seen(Asked::NewOrder), first.finalized()),
        (1, 0),
        "one order, which it never finished"
    );
    assert_eq!((lab.front.seen(Asked::NewOrder), lab.front.finalized()), (1, 1), "one more");
    lab.served_everywhere("control.demo.test").await;
    first.die_for(None);
    let renewed = {
        lab.ctl_ok(&["cert", "renew", "demo.test"]);
        lab.issued_by("first", next + 2, PATIENCE).await
    };
    assert_eq!((renewed.generation, first.finalized(), lab.front.finalized()), (Some(next + 2), 1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_at_an_issuer_that_is_deleted_goes_on_at_another_one_at_once() {
    if skipped() {
        return;
    }
    let lab = Lab::start(1, Behaviour::exact()).await;
    let first = Front::start(&lab.pebble);
    first.die_for(Some(Asked::Finalize));
    lab.add_issuer("first", &first, &[]);
    let waiting = lab.until("it waits", |certificate| certificate.reason.contains("dead for this")).await;
    let next = waiting.generation.unwrap_or(0) + 1;
    lab.add_issuer("second", &lab.front, &[]);
    lab.ctl_ok(&["cert", "issuer", "delete", "first"]);
    let made = lab.issued_by("second", next + 1, PATIENCE).await;
    assert_eq!((made.generation, made.surplus_orders), (Some(next + 1), 1));
    assert_eq!((first.finalized(), lab.front.finalized()), (0, 1));
    lab.served_everywhere("control.demo.test").await;
}
