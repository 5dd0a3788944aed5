//! A real resolver in front: unbound, which minimises names, mixes their case, and validates.
#![allow(clippy::print_stdout, reason = "a test that is skipped says so")]

mod engine;
mod zone;

use domain::base::{Message, Rtype, iana::Rcode};
use engine::{Engine, Ours, ask, is_there, query};
use pangolin_core::{Timestamp, dns::ZoneKey, plan::DnsPlan, record::Sealed};
use pangolin_dns::{delegation_signer, new_zone_key};

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

/// The plan of the other tests, its first zone signed, and the DS record of that.
fn signed(serial: u32) -> (DnsPlan, String) {
    let (private, public) = new_zone_key().expect("a key");
    let mut plan = zone::plan(serial);
    let signer = delegation_signer(&plan.zones[0].apex, &public);
    // In these tests what is sealed lies open.
    let private = Sealed { kek: 0, wrapped_key: Vec::new(), content: private };
    plan.zones[0].key = Some(ZoneKey { public, private, made_at: Timestamp(0) });
    (plan, signer)
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
