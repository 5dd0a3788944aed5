//! A real resolver in front: unbound, which minimises names, mixes their case, and validates.
#![allow(clippy::print_stdout, reason = "a test that is skipped says so")]

mod engine;
mod zone;

use domain::base::{Message, Rtype, iana::Rcode};
use engine::{Engine, Ours, ask, is_there, query};
use pangolin_core::{
    dns::ZoneKey,
    plan::{DnsPlan, ZonePlan},
    record::{RecordData, RecordKind},
};
use pangolin_dns::{ask_parent, delegation_signer, read_value};
use zone::{new_key, signed};

/// Names of every shape, and what a resolver finds there.
const CASES: &[(&str, Rtype, Rcode, usize)] = &[
    ("app.z.test", Rtype::A, Rcode::NOERROR, 2),
    ("n1.z.test", Rtype::AAAA, Rcode::NOERROR, 1),
    ("z.test", Rtype::MX, Rcode::NOERROR, 2),
    ("z.test", Rtype::CAA, Rcode::NOERROR, 1),
    ("z.test", Rtype::SOA, Rcode::NOERROR, 1),
    ("_sip._tcp.z.test", Rtype::SRV, Rcode::NOERROR, 1),
    ("deep.er.ent.z.test", Rtype::TXT, Rcode::NOERROR, 1),
    ("alias2.z.test", Rtype::A, Rcode::NOERROR, 4),
    ("x.wild.z.test", Rtype::A, Rcode::NOERROR, 1),
    ("x.y.wild.z.test", Rtype::TXT, Rcode::NOERROR, 1),
    ("x.aliased.z.test", Rtype::A, Rcode::NOERROR, 3),
    // More than a datagram carries.
    ("many.z.test", Rtype::TXT, Rcode::NOERROR, 100),
    ("app.z.test", Rtype::AAAA, Rcode::NOERROR, 0),
    ("er.ent.z.test", Rtype::A, Rcode::NOERROR, 0),
    ("x.wild.z.test", Rtype::MX, Rcode::NOERROR, 0),
    ("nope.z.test", Rtype::A, Rcode::NXDOMAIN, 0),
    ("x.app.z.test", Rtype::A, Rcode::NXDOMAIN, 0),
    ("a.b.c.nope.z.test", Rtype::A, Rcode::NXDOMAIN, 0),
    ("dangling.z.test", Rtype::A, Rcode::NXDOMAIN, 1),
];

fn answers(reply: &Message<Vec<u8>>) -> usize {
    let records = reply.answer().expect("a section").map(|record| record.expect("a record"));
    records.filter(|record| record.rtype() != Rtype::RRSIG).count()
}

#[test]
fn a_resolver_that_minimises_names_and_mixes_their_case_resolves_everything() {
    if !is_there("unbound") {
        return;
    }
    let ours = Ours::start(&zone::plan(7));
    let lines = "  use-caps-for-id: yes\n  qname-minimisation: yes\n  qname-minimisation-strict: yes\n  \
                 harden-below-nxdomain: yes\n  domain-insecure: \"test\"\n";
    let mut unbound = Engine::unbound(ours.address(), lines);
    unbound.wait("z.test", Rtype::SOA);
    for (name, kind, rcode, count) in CASES {
        let reply = ask(unbound.address, &query(name, *kind, false, 7));
        assert_eq!((reply.header().rcode(), answers(&reply)), (*rcode, *count), "{name} {kind}");
    }
}

#[test]
fn a_validating_resolver_finds_every_answer_of_a_signed_zone_secure() {
    if !is_there("unbound") {
        return;
    }
    let (plan, signer) = signed(7);
    let ours = Ours::start(&plan);
    let lines =
        format!("  trust-anchor: \"{signer}\"\n  qname-minimisation: yes\n  harden-below-nxdomain: yes\n");
    let mut unbound = Engine::unbound(ours.address(), &lines);
    unbound.wait("z.test", Rtype::SOA);
    let more: &[(&str, Rtype, Rcode, usize)] = &[
        ("z.test", Rtype::DNSKEY, Rcode::NOERROR, 1),
        ("z.test", Rtype::CDS, Rcode::NOERROR, 1),
        ("z.test", Rtype::CDNSKEY, Rcode::NOERROR, 1),
        ("z.test", Rtype::NS, Rcode::NOERROR, 2),
        ("sub.z.test", Rtype::DS, Rcode::NOERROR, 0),
        ("x.y.z.nope.z.test", Rtype::TXT, Rcode::NXDOMAIN, 0),
    ];
    for (name, kind, rcode, count) in CASES.iter().chain(more) {
        let reply = ask(unbound.address, &query(name, *kind, true, 9));
        let header = reply.header();
        // RFC 9824 §3: to a resolver that does not know of it, a name that is not there has no data. unbound does not.
        let expected = if *rcode == Rcode::NXDOMAIN { Rcode::NOERROR } else { *rcode };
        assert!(
            [expected, *rcode].contains(&header.rcode()),
            "{name} {kind}: {}\n{}",
            header.rcode(),
            unbound.log()
        );
        assert_eq!(answers(&reply), *count, "{name} {kind}");
        assert!(header.ad(), "{name} {kind} is not secure\n{}", unbound.log());
    }
}

#[test]
fn a_validating_resolver_refuses_the_answers_of_another_key() {
    if !is_there("unbound") {
        return;
    }
    let (plan, _) = signed(7);
    let (_, other) = signed(7);
    let ours = Ours::start(&plan);
    let unbound = Engine::unbound(ours.address(), &format!("  trust-anchor: \"{other}\"\n"));
    let start = std::time::Instant::now();
    loop {
        let asked = query("app.z.test", Rtype::A, true, 9);
        if let Some(reply) = engine::ask_once(unbound.address, &asked, engine::ANSWER) {
            assert_eq!(reply.header().rcode(), Rcode::SERVFAIL);
            return;
        }
        assert!(start.elapsed() < engine::PATIENCE, "unbound does not start");
    }
}

/// The zone above, signed with its own key, with the DS records of these keys of `z.test`.
fn above(serial: u32, own: &ZoneKey, of_child: &[&ZoneKey]) -> DnsPlan {
    let (test, child) = (zone::host("test"), zone::host("z.test"));
    let signer = |key: &&ZoneKey| -> RecordData {
        let line = delegation_signer(&child, &key.public);
        let value = line.split_once(" DS ").expect("a DS record").1;
        read_value(&test, RecordKind::DS, value).expect("a value")
    };
    let signers: Vec<RecordData> = of_child.iter().map(signer).collect();
    let mut sets = vec![
        ("test", 60, vec![zone::ns("ns.test")]),
        ("ns.test", 60, vec![zone::a("127.0.0.1")]),
        ("z.test", 60, vec![zone::ns("n1.z.test")]),
        ("n1.z.test", 60, vec![zone::a("192.0.2.1")]),
    ];
    if !signers.is_empty() {
        sets.push(("z.test", 600, signers));
    }
    let zone = ZonePlan { key: Some(own.clone()), ..zone::zone("test", serial, &sets) };
    DnsPlan { zones: vec![zone], ..DnsPlan::default() }
}

#[test]
fn a_validating_resolver_finds_everything_secure_while_a_key_is_exchanged() {
    if !is_there("unbound") {
        return;
    }
    let (own, first, next) = (new_key(), new_key(), new_key());
    let child = |serial, keys: &[&ZoneKey]| {
        let mut plan = zone::plan(serial);
        plan.zones[0].key = keys.first().map(|key| (*key).clone());
        plan.zones[0].next_key = keys.get(1).map(|key| (*key).clone());
        plan
    };
    let parent = Ours::start(&above(1, &own, &[&first]));
    let ours = Ours::start(&child(1, &[&first]));
    let anchor = delegation_signer(&zone::host("test"), &own.public);
    // What has to be waited for in the world lasts a second here.
    let lines = format!(
        "  trust-anchor: \"{anchor}\"\n  cache-max-ttl: 1\n  cache-max-negative-ttl: 1\nstub-zone:\n  name: \"test\"\n  \
         stub-addr: 127.0.0.1@{}\n",
        parent.address().port()
    );
    let mut unbound = Engine::unbound(ours.address(), &lines);
    unbound.wait("z.test", Rtype::SOA);
    let phases: [(&str, &[&ZoneKey], &[&ZoneKey]); 5] = [
        ("before", &[&first], &[&first]),
        ("started", &[&first, &next], &[&first]),
        ("entered at the parent", &[&first, &next], &[&first, &next]),
        ("finished", &[&next], &[&first, &next]),
        ("the former record is removed at the parent", &[&next], &[&next]),
    ];
    for (number, (phase, keys, entered)) in (2..).zip(phases) {
        ours.serve(number, &child(7 + number as u32, keys));
        parent.serve(number, &above(7 + number as u32, &own, entered));
        std::thread::sleep(std::time::Duration::from_millis(2500));
        for (name, kind, count) in [
            ("app.z.test", Rtype::A, 2),
            ("z.test", Rtype::DNSKEY, keys.len()),
            ("z.test", Rtype::CDS, keys.len()),
            ("x.wild.z.test", Rtype::A, 1),
            ("many.z.test", Rtype::TXT, 100),
            ("app.z.test", Rtype::AAAA, 0),
            ("nope.z.test", Rtype::A, 0),
        ] {
            let reply = ask(unbound.address, &query(name, kind, true, 9));
            assert_eq!(answers(&reply), count, "{phase}: {name} {kind}\n{}", unbound.log());
            assert!(reply.header().ad(), "{phase}: {name} {kind} is not secure\n{}", unbound.log());
        }
        let signed = ask(ours.address(), &query("app.z.test", Rtype::A, true, 9));
        let signatures = signed.answer().expect("a section").filter_map(Result::ok);
        let signatures = signatures.filter(|record| record.rtype() == Rtype::RRSIG).count();
        assert_eq!(signatures, keys.len(), "{phase}: every key signs");
    }
}

#[test]
fn a_parent_says_which_keys_it_knows_and_nobody_else_does() {
    let (own, first, next) = (new_key(), new_key(), new_key());
    let mut plan = zone::plan(7);
    (plan.zones[0].key, plan.zones[0].next_key) = (Some(first.clone()), Some(next.clone()));
    let child = plan.zones[0].clone();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let cases: [(&[&ZoneKey], _); 5] = [
        (&[], (false, false, false, None)),
        (&[&first], (true, false, true, Some(600))),
        (&[&next], (false, true, true, Some(600))),
        (&[&first, &next], (true, true, true, Some(600))),
        (&[&own], (false, false, true, Some(600))),
    ];
    for (entered, expected) in cases {
        let parent = Ours::start(&above(1, &own, entered));
        let found = runtime.block_on(ask_parent(&child, Some(parent.address()))).expect("an answer");
        assert_eq!((found.current, found.next, found.any, found.ttl), expected);
    }
    let ours = Ours::start(&plan);
    let own_word = runtime.block_on(ask_parent(&child, Some(ours.address()))).expect_err("no parent");
    assert!(own_word.contains("does not speak for the zone above"), "{own_word}");
}
