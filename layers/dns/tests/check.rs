//! What `dns check` finds: at a parent, at servers whose names lie in another zone, and at names that are aliases.
#![allow(clippy::print_stdout, reason = "the engines that it shares say what is skipped")]

mod engine;
mod zone;

use engine::Ours;
use pangolin_core::plan::{DnsPlan, ZonePlan};
use pangolin_dns::{Alias, Checked, check_zone};
use tokio::runtime::Runtime;
use zone::{a, cname, host, ns};

/// The cluster's zone, and one of an organisation whose servers have their names in the cluster's.
fn zones() -> Vec<ZonePlan> {
    vec![
        zone::zone(
            "demo.test",
            7,
            &[
                ("demo.test", 3600, vec![ns("n1.demo.test")]),
                ("n1.demo.test", 3600, vec![a("127.0.0.1")]),
                ("control.demo.test", 30, vec![a("127.0.0.1")]),
                ("mail.demo.test", 30, vec![a("192.0.2.25")]),
                ("*.apps.demo.test", 30, vec![cname("control.demo.test")]),
            ],
        ),
        zone::zone(
            "shop.test",
            7,
            &[("shop.test", 3600, vec![ns("n1.demo.test")]), ("shop.test", 30, vec![a("127.0.0.1")])],
        ),
    ]
}

/// The zone above both, with these records.
fn parent(sets: &[(&str, u32, Vec<pangolin_core::record::RecordData>)]) -> Ours {
    let zone = zone::zone("test", 1, &[&[("test", 3600, vec![ns("ns.else.example")])], sets].concat());
    Ours::start(&DnsPlan { zones: vec![zone], ..DnsPlan::default() })
}

fn checked(parent: &Ours, alias: bool) -> Checked {
    let zones = zones();
    let ours = Ours::start(&DnsPlan { zones: zones.clone(), ..DnsPlan::default() });
    let alias = alias.then(|| Alias {
        target: host("control.demo.test"),
        challenge: host("_acme-challenge.shop.test.demo.test"),
    });
    let checking =
        check_zone(&zones[1], &zones, alias.as_ref(), Some(parent.address()), Some(ours.address().port()));
    Runtime::new().expect("a runtime").block_on(checking)
}

const ALIASES: [&str; 2] = [
    "shop.test. 3600 IN CNAME control.demo.test.",
    "_acme-challenge.shop.test. 3600 IN CNAME _acme-challenge.shop.test.demo.test.",
];

#[test]
fn servers_whose_names_lie_in_another_zone_are_asked() {
    let parent = parent(&[("shop.test", 3600, vec![ns("n1.demo.test")])]);
    let checked = checked(&parent, false);
    assert_eq!(checked.bad, Vec::<String>::new());
    assert!(checked.good[0].contains("says what the zone says"), "{:?}", checked.good);
    assert!(checked.good[1].starts_with("n1.demo.test (127.0.0.1:"), "{:?}", checked.good);
    assert!(checked.good[1].ends_with("answers by UDP and TCP, serial 7"), "{:?}", checked.good);
    assert_eq!(checked.enter, ["shop.test. 3600 IN NS n1.demo.test."], "names elsewhere need no glue");
}

#[test]
fn a_name_that_is_an_alias_is_compared_with_where_it_is_to_lead() {
    let alias = |to: &str| ("shop.test", 60, vec![cname(to)]);
    let proof = |to: &str| ("_acme-challenge.shop.test", 60, vec![cname(to)]);
    let own = "_acme-challenge.shop.test.demo.test";
    // what the parent has; what is wrong with it
    let cases = [
        (vec![alias("control.demo.test"), proof(own)], vec![]),
        (vec![alias("shop.apps.demo.test"), proof(own)], vec![]),
        (vec![alias("mail.demo.test"), proof(own)], vec!["alias of mail.demo.test, which does not lead"]),
        (vec![alias("www.else.example"), proof(own)], vec!["alias of www.else.example, which does not lead"]),
        (vec![alias("control.demo.test")], vec!["_acme-challenge.shop.test is no alias"]),
        (vec![alias("control.demo.test"), proof("x.demo.test")], vec!["is an alias of x.demo.test"]),
    ];
    for (sets, wrong) in cases {
        let checked = checked(&parent(&sets), true);
        assert_eq!(checked.bad.len(), wrong.len(), "{sets:?}: {:?}", checked.bad);
        assert!(checked.bad.iter().zip(&wrong).all(|(bad, wrong)| bad.contains(wrong)), "{:?}", checked.bad);
        assert_eq!(checked.good.len(), usize::from(wrong.is_empty()), "{:?}", checked.good);
        assert_eq!(checked.enter, ALIASES, "the exact lines");
    }
    let unpublished = checked(&parent(&[alias("control.demo.test")]), false);
    assert!(unpublished.bad[0].contains("nothing is published"), "{:?}", unpublished.bad);
    // A name without either may have both.
    let nothing = checked(&parent(&[]), true);
    assert!(nothing.bad[0].contains("nothing is delegated"), "{:?}", nothing.bad);
    assert_eq!(nothing.enter.last().map(String::as_str), Some(ALIASES[1]), "{:?}", nothing.enter);
    assert!(nothing.enter[0].contains(" IN NS n1.demo.test."), "{:?}", nothing.enter);
}
