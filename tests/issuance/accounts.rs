//! Accounts: their keys are exchanged, and several stand at one directory.

use std::time::Instant;

use pangolin_chaos::cluster::START_PATIENCE;
use pangolin_wire::{CertificateIssuer, IssuerList};
use tokio::time::sleep;

use crate::{
    front::{Asked, Side},
    hosts,
    lab::{Lab, PATIENCE, skipped},
    pebble::Behaviour,
};

async fn issuer(lab: &Lab, name: &str) -> Option<CertificateIssuer> {
    let node = lab.cluster.any_node().ok()?;
    let list: IssuerList = node.client().get("/certificate-issuers").await.ok()?;
    list.issuers.into_iter().find(|issuer| issuer.name.as_str() == name)
}

/// Waits until the account at an issuer has its next key; its address.
async fn exchanged(lab: &Lab, name: &str) -> String {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(issuer) = issuer(lab, name).await.filter(|issuer| !issuer.key_exchange) {
            return issuer.account.expect("it is registered");
        }
        assert!(Instant::now() < end, "the issuer does not take the key: {}", lab.pebble.tail());
        sleep(std::time::Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_of_an_account_is_exchanged_and_the_account_stays_whoever_leads() {
    if skipped() {
        return;
    }
    let mut lab = Lab::start(3, Behaviour::exact()).await;
    lab.use_pebble();
    let first = lab.issued(1).await.generation.expect("one");
    let account = exchanged(&lab, "pebble").await;
    let told = lab.ctl_ok(&["cert", "issuer", "rollover", "pebble"]);
    assert!(told.contains("gets another key"), "{told}");
    assert_eq!(exchanged(&lab, "pebble").await, account);
    assert_eq!(lab.front.seen(Asked::KeyChange), 1);
    lab.ctl_ok(&["cert", "renew", "demo.test"]);
    lab.issued(first + 1).await;

    // The authority has taken the key, and the leader dies before the log knows.
    lab.front.trap(Asked::KeyChange, Side::After);
    lab.ctl_ok(&["cert", "issuer", "rollover", "pebble"]);
    assert!(lab.front.caught(1, PATIENCE).await, "it was not asked: {}", lab.pebble.tail());
    let status = hosts::leads(&lab.cluster, 0).await;
    let leader = status.leader.as_ref().expect("a leader").node_id;
    let leader = lab.cluster.position(&status, leader).expect("one of these");
    lab.cluster.nodes[leader].kill();
    assert_eq!(exchanged(&lab, "pebble").await, account);
    assert_eq!(lab.front.seen(Asked::KeyChange), 2, "a key that was taken is not sent again");
    lab.cluster.nodes[leader].start_ready().await.expect("it runs again");
    lab.cluster.healthy(START_PATIENCE).await.expect("all are back");
    lab.ctl_ok(&["cert", "renew", "demo.test"]);
    lab.issued(first + 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn issuers_with_the_same_directory_have_accounts_of_their_own_and_caa_names_both() {
    if skipped() {
        return;
    }
    let lab = Lab::start(1, Behaviour::exact()).await;
    lab.use_pebble();
    let first = lab.issued(1).await.generation.expect("one");
    let roots = lab.cluster.dir().join("roots.pem");
    let mut words = vec!["cert", "issuer", "set", "shop", "--directory", &lab.front.directory, "--first"];
    words.extend(["--roots", roots.to_str().expect("text"), "--account", "shop", "--caa", "ca.test"]);
    lab.ctl_ok(&words);
    lab.ctl_ok(&["cert", "renew", "demo.test"]);
    let renewed = lab
        .until("the other account is used", |certificate| {
            certificate.issuer.as_deref() == Some("shop") && certificate.order.is_none()
        })
        .await;
    assert!(renewed.generation > Some(first), "{renewed:?}");
    let own = issuer(&lab, "shop").await.and_then(|issuer| issuer.account).expect("an account");
    let other = issuer(&lab, "pebble").await.and_then(|issuer| issuer.account).expect("an account");
    assert_ne!(own, other);
    assert_eq!(lab.front.seen(Asked::NewAccount), 2);
    let clash = lab.ctl(&["cert", "issuer", "set", "third", "--directory", &lab.front.directory]);
    assert!(!clash.success && clash.stderr.contains("the name or the directory"), "{clash:?}");
    // Pebble tells no name for CAA records: both issuers get one, and the records name both accounts.
    let mut words = vec!["cert", "issuer", "set", "pebble", "--directory", &lab.front.directory];
    words.extend(["--roots", roots.to_str().expect("text"), "--caa", "ca.test"]);
    lab.ctl_ok(&words);
    let end = Instant::now() + PATIENCE;
    loop {
        let shown = lab.ctl_ok(&["dns", "query", "demo.test", "CAA"]);
        let named = |account: &str| {
            shown.contains(&format!("ca.test; accounturi={account}; validationmethods=dns-01"))
        };
        if named(&own) && named(&other) {
            return;
        }
        assert!(Instant::now() < end, "{shown}");
        sleep(std::time::Duration::from_millis(100)).await;
    }
}
