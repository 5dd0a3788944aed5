//! Profiles of certificates (draft-ietf-acme-profiles). Debian's Pebble knows none, and ignores what an order says of them.

use pangolin_core::issuance::StandingKind;
use serde_json::Value;

use crate::{
    front::Asked,
    lab::{Lab, PATIENCE, skipped},
    pebble::Behaviour,
};

/// The profiles of the orders so far.
fn ordered(lab: &Lab) -> Vec<Option<String>> {
    let orders = lab.front.ordered();
    orders.iter().map(|said| said["profile"].as_str().map(str::to_owned)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_of_the_issuers_profile_and_of_none_where_it_has_none() {
    if skipped() {
        return;
    }
    let lab = Lab::start(1, Behaviour::exact()).await;
    // The directory lists none: what is configured is for the authority to judge.
    lab.add_issuer("pebble", &lab.front, &["--profile", "shortlived"]);
    let first = lab.issued_by("pebble", 1, PATIENCE).await;
    assert_eq!(ordered(&lab), [Some("shortlived".to_owned())], "it is in what was signed");
    assert!(lab.ctl_ok(&["cert", "issuer", "list"]).contains("shortlived"));
    let names: Vec<Value> = lab.front.ordered()[0]["identifiers"].as_array().cloned().unwrap_or_default();
    assert_eq!(names.len(), 2, "beside the names");
    lab.add_issuer("pebble", &lab.front, &[]);
    lab.ctl_ok(&["cert", "renew", "demo.test"]);
    lab.issued_by("pebble", first.generation.expect("one") + 1, PATIENCE).await;
    assert_eq!(ordered(&lab), [Some("shortlived".to_owned()), None]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_that_the_directory_does_not_list_is_refused_before_anything_is_ordered() {
    if skipped() {
        return;
    }
    let lab = Lab::start(1, Behaviour::exact()).await;
    lab.front.list_profiles(&["classic", "tlsserver"]);
    lab.add_issuer("pebble", &lab.front, &["--profile", "shortlived"]);
    let parked = lab.until("it is parked", |certificate| certificate.state == StandingKind::Parked).await;
    let told = "invalidProfile: there is no profile shortlived; there is classic, tlsserver";
    assert!(parked.reason.contains(told), "{}", parked.reason);
    assert!(lab.ctl_ok(&["cert", "why", "demo.test"]).contains(told));
    assert_eq!(lab.front.seen(Asked::NewOrder), 0, "nothing was ordered");
    assert_eq!(parked.surplus_orders, 0);
    // One that it lists is ordered as soon as it is set.
    lab.add_issuer("pebble", &lab.front, &["--profile", "tlsserver"]);
    lab.issued_by("pebble", 1, PATIENCE).await;
    assert_eq!(ordered(&lab), [Some("tlsserver".to_owned())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_that_the_authority_refuses_waits_for_the_operator() {
    if skipped() {
        return;
    }
    let lab = Lab::start(1, Behaviour::exact()).await;
    lab.front.refuse_profiles();
    lab.add_issuer("pebble", &lab.front, &["--profile", "shortlived"]);
    let parked = lab.until("it is parked", |certificate| certificate.state == StandingKind::Parked).await;
    assert!(parked.reason.contains("invalidProfile: this profile is not known here"), "{}", parked.reason);
    assert_eq!(lab.front.seen(Asked::NewOrder), 1, "it was asked once");
    lab.add_issuer("pebble", &lab.front, &[]);
    lab.issued_by("pebble", 1, PATIENCE).await;
}
