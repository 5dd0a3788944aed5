//! Certificates from beginning to end, through a cluster of three nodes.

use std::{sync::atomic::Ordering, time::Duration};

use pangolin_core::issuance::StandingKind;
use tokio::time::sleep;

use crate::{
    front::Asked,
    lab::{Lab, skipped},
    pebble::Behaviour,
};

#[tokio::test(flavor = "multi_thread")]
async fn wildcard_and_apex_are_issued_through_the_own_dns_and_served_by_every_node() {
    if skipped() {
        return;
    }
    // Half of all nonces are refused, and it takes its time to look.
    let behaviour = Behaviour { nonce_reject: Some(50), slow: Some(2), ..Behaviour::default() };
    let mut lab = Lab::start(3, behaviour).await;
    lab.ctl_ok(&["org", "create", "shop"]);
    lab.ctl_ok(&["domain", "create", "shop.test"]);
    lab.use_pebble();
    let first = lab.issued(1).await;
    assert_eq!(first.names.iter().map(ToString::to_string).collect::<Vec<_>>(), ["*.demo.test", "demo.test"]);
    assert!(lab.resolver.answered.load(Ordering::Relaxed) > 0, "the authority asked our DNS, by UDP");
    lab.served_everywhere("control.demo.test").await;
    lab.served_everywhere("anything.demo.test").await;
    lab.served_everywhere("shop.test").await;

    // By TCP, and with proofs that the authority remembers from now on.
    lab.resolver.tcp.store(true, Ordering::Relaxed);
    lab.ctl_ok(&["cert", "renew", "demo.test"]);
    let generation = first.generation.expect("one");
    let second = lab.issued(generation + 1).await;
    assert_eq!(second.generation, Some(generation + 1));
    assert_eq!(second.surplus_orders, 0);

    // The authority loses its accounts and orders.
    lab.pebble.restart();
    let accounts = lab.front.seen(Asked::NewAccount);
    lab.ctl_ok(&["cert", "renew", "demo.test"]);
    let third = lab.issued(generation + 2).await;
    assert_eq!(third.generation, Some(generation + 2));
    assert!(lab.front.seen(Asked::NewAccount) > accounts, "it was registered again");

    let why = lab.ctl_ok(&["cert", "why", "demo.test"]);
    for told in ["of the issuer pebble", "is issued, generation", "every name server shows the proofs"] {
        assert!(why.contains(told), "{told}:\n{why}");
    }
    let shown = lab.ctl_ok(&["cert", "show", "demo.test"]);
    assert!(shown.contains("pebble") && shown.contains("valid"), "{shown}");
    assert!(lab.ctl_ok(&["cert", "issuer", "list"]).contains("/my-account/"));
}

#[tokio::test(flavor = "multi_thread")]
async fn proofs_that_the_authority_remembers_are_not_asked_for_again() {
    if skipped() {
        return;
    }
    let lab = Lab::start(1, Behaviour { reuse: 100, ..Behaviour::default() }).await;
    lab.use_pebble();
    let first = lab.issued(1).await;
    let challenges = lab.front.seen(Asked::Challenge);
    lab.ctl_ok(&["cert", "renew", "demo.test"]);
    lab.issued(first.generation.expect("one") + 1).await;
    assert_eq!(lab.front.seen(Asked::Challenge), challenges, "every name was taken as proved");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_that_wants_a_certificate_renewed_gets_it_renewed_within_seconds_and_told_so() {
    if skipped() {
        return;
    }
    let lab = Lab::start(1, Behaviour::default()).await;
    lab.front.tell_when_to_renew();
    lab.use_pebble();
    let first = lab.until("issued", |certificate| certificate.issuer.as_deref() == Some("pebble")).await;
    let began = tokio::time::Instant::now();
    let second = lab.issued(first.generation.expect("one") + 1).await;
    println!("renewed {:?} after it was issued", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(30));
    assert_eq!(lab.front.replacing(), 1, "the new order named the certificate that it replaces");
    // The new one may stay: it is due on the day that was drawn.
    let left = second.renew_at.expect("a time").0.since(pangolin_core::Timestamp(0)).as_secs();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a time").as_secs();
    sleep(Duration::from_secs(2)).await;
    let after = lab.of_zone().await.expect("it is there");
    let due = after.renew_at.expect("a time").0.since(pangolin_core::Timestamp(0)).as_secs();
    assert!(
        (30..=31).contains(&((due - now) / 86_400)),
        "due in {} days, at first {}",
        (due - now) / 86_400,
        left
    );
    assert_eq!((after.generation, after.state), (second.generation, StandingKind::Valid));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_revoked_at_the_authority_and_replaced() {
    if skipped() {
        return;
    }
    let lab = Lab::start(1, Behaviour::default()).await;
    lab.use_pebble();
    let first = lab.issued(1).await;
    let before = lab.pebble.counts();
    lab.ctl_ok(&["cert", "revoke", "demo.test", "--reason", "key-compromise"]);
    lab.issued(first.generation.expect("one") + 1).await;
    assert_eq!(lab.pebble.counts().issued, before.issued + 1);
    let end = tokio::time::Instant::now() + crate::lab::PATIENCE;
    while !lab.ctl_ok(&["cert", "why", "demo.test"]).contains("revocation of generation 1 -> done")
        && !lab.ctl_ok(&["events"]).contains("the issuer has declared it void")
    {
        assert!(tokio::time::Instant::now() < end, "not revoked: {}", lab.pebble.tail());
        sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_registers_the_account_again_that_the_authority_has_forgotten() {
    if skipped() {
        return;
    }
    let mut lab = Lab::start(1, Behaviour::exact()).await;
    lab.use_pebble();
    lab.issued(1).await;
    assert_eq!(lab.front.seen(Asked::NewAccount), 1);
    lab.pebble.restart();
    // The order of the successor does not get far enough to find out.
    lab.front.die_for(Some(Asked::NewOrder));
    lab.ctl_ok(&["cert", "revoke", "demo.test", "--reason", "key-compromise"]);
    let end = tokio::time::Instant::now() + crate::lab::PATIENCE;
    while lab.front.seen(Asked::NewAccount) < 2 {
        assert!(tokio::time::Instant::now() < end, "not registered again: {}", lab.pebble.tail());
        sleep(Duration::from_millis(100)).await;
    }
}
