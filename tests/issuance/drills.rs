//! What the cluster does when the authority says no.

use std::{sync::atomic::Ordering, time::Duration};

use pangolin_core::issuance::StandingKind;
use tokio::time::sleep;

use crate::{
    front::Asked,
    hosts,
    lab::{Lab, skipped},
    pebble::Behaviour,
};

/// Long enough for an eager client to ask again.
const A_WHILE: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_that_wants_to_be_left_alone_is() {
    if skipped() {
        return;
    }
    let lab = Lab::start(1, Behaviour::default()).await;
    lab.front.set_limited(true);
    lab.use_pebble();
    let waiting = lab.until("it waits", |certificate| certificate.failures > 0).await;
    assert!(waiting.reason.contains("rateLimited: too many certificates"), "{}", waiting.reason);
    let asked = lab.front.seen(Asked::NewOrder);
    sleep(A_WHILE).await;
    assert_eq!((asked, lab.front.seen(Asked::NewOrder)), (1, 1), "it is asked once, and then left alone");
    assert!(lab.ctl_ok(&["cert", "why", "demo.test"]).contains("rateLimited"));
    // The internal certificate is served meanwhile.
    assert_eq!(waiting.issuer.as_deref(), Some("internal"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_cannot_be_proved_is_not_tried_again_at_once() {
    if skipped() {
        return;
    }
    let lab = Lab::start(1, Behaviour::exact()).await;
    lab.resolver.broken.store(true, Ordering::Relaxed);
    lab.use_pebble();
    let failed = lab.until("it fails", |certificate| certificate.failures > 0).await;
    assert!(
        failed.reason.contains("the last attempt failed") && failed.reason.contains("the next one is at"),
        "{failed:?}"
    );
    assert_eq!(failed.surplus_orders, 1);
    sleep(A_WHILE).await;
    assert_eq!(lab.front.seen(Asked::NewOrder), 1, "one order, and then a pause");
    // Nothing was issued, so that an operator who mends it need not wait.
    lab.resolver.broken.store(false, Ordering::Relaxed);
    lab.ctl_ok(&["cert", "renew", "demo.test"]);
    lab.issued(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_that_wants_an_external_account_waits_for_the_operator() {
    if skipped() {
        return;
    }
    let lab = Lab::start(1, Behaviour { external: true, ..Behaviour::exact() }).await;
    lab.use_pebble();
    let parked = lab.until("it is parked", |certificate| certificate.state == StandingKind::Parked).await;
    assert!(parked.reason.contains("externalAccountRequired"), "{}", parked.reason);
    sleep(Duration::from_secs(2)).await;
    assert_eq!(lab.front.seen(Asked::NewAccount), 1, "it is asked once");
    lab.use_external();
    lab.issued(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn own_certificates_are_served_and_those_that_cannot_be_are_refused_with_the_reason() {
    if skipped() {
        return;
    }
    let lab = Lab::start(1, Behaviour::default()).await;
    let dir = lab.cluster.dir().to_owned();
    let import = |name: &str, staple: bool| {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).expect("names");
        if staple {
            let feature = vec![0x30, 3, 2, 1, 5];
            let feature = rcgen::CustomExtension::from_oid_content(&[1, 3, 6, 1, 5, 5, 7, 1, 24], feature);
            params.custom_extensions.push(feature);
        }
        let certificate = params.self_signed(&key).expect("signed").pem();
        let (chain, key_file) = (dir.join("own.pem"), dir.join("own.key"));
        std::fs::write(&chain, &certificate).expect("written");
        std::fs::write(&key_file, key.serialize_pem()).expect("written");
        let words = ["--chain", chain.to_str().expect("text"), "--key", key_file.to_str().expect("text")];
        (hosts::pangolinctl(&lab.cluster, 0, &[&["cert", "import"], &words[..]].concat()), certificate)
    };
    let (foreign, _) = import("www.example.org", false);
    assert!(!foreign.success && foreign.stderr.contains("lies in no domain"), "{foreign:?}");
    let (stapled, _) = import("own.demo.test", true);
    assert!(!stapled.success && stapled.stderr.contains("stapled"), "{stapled:?}");
    let (taken, certificate) = import("own.demo.test", false);
    assert!(taken.success, "{taken:?}");
    let visitor = pangolin_chaos::https::Https::trusting(&certificate).expect("a client");
    let end = tokio::time::Instant::now() + crate::lab::PATIENCE;
    let (at, patience) = (lab.cluster.nodes[0].https(), Duration::from_secs(5));
    while let Err(error) = visitor.get(at, "own.demo.test", "/", patience).await {
        assert!(tokio::time::Instant::now() < end, "not served: {error:#}");
        sleep(Duration::from_millis(100)).await;
    }
    let listed = lab.ctl_ok(&["cert", "list"]);
    assert!(listed.contains("imported") && listed.contains("own.demo.test"), "{listed}");
    let renewed = lab.ctl(&["cert", "renew", "own.demo.test"]);
    assert!(!renewed.success && renewed.stderr.contains("imported"), "{renewed:?}");
    lab.ctl_ok(&["cert", "delete", "own.demo.test"]);
    assert!(!lab.ctl_ok(&["cert", "list"]).contains("imported"));
}
