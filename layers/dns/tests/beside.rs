//! What comes beside an answer of a signed zone: addresses, and signatures of theirs that hold (RFC 4035 §3.1.1).
#![allow(clippy::print_stdout, reason = "a test that is skipped says so")]

mod engine;
mod zone;

use std::collections::BTreeMap;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use domain::base::{Message, Name, Rtype, iana::Rcode, name::ToName as _, rdata::UnknownRecordData};
use engine::{Ours, ask, ask_once, query};
use pangolin_core::{
    dns::ZoneKey,
    plan::{DnsPlan, ZonePlan},
    record::RecordData,
};
use zone::{a, aaaa, cname, host, new_key, ns};

/// Bytes of an RRSIG before the signer's name (RFC 4034 §3.1), and of an ECDSA P-256 signature (RFC 6605 §4).
const RRSIG_FIXED: usize = 18;
const SIGNATURE: usize = 64;

/// A record set of a section: its owner in lower case, its type, its TTL and the data of its records. Addresses and
/// signatures have no names in their data that could be compressed.
type Sets = BTreeMap<(Name<Vec<u8>>, Rtype), (u32, Vec<Vec<u8>>)>;

fn additional(reply: &Message<Vec<u8>>) -> Sets {
    let mut sets = Sets::new();
    for record in reply.additional().expect("a section") {
        let record = record.expect("a record");
        if record.rtype() == Rtype::OPT {
            continue;
        }
        let owner = record.owner().to_canonical_name::<Vec<u8>>();
        let ttl = record.ttl().as_secs();
        let data = record.to_record::<UnknownRecordData<&[u8]>>().expect("record data").expect("any type");
        let set = sets.entry((owner, record.rtype())).or_insert_with(|| (ttl, Vec::new()));
        set.1.push(data.data().data().to_vec());
    }
    sets
}

/// Checks that each set of addresses has one signature by the zone's key that holds, and that there is no other; how
/// many there are.
fn proven(sets: &Sets, key: &ZoneKey) -> usize {
    let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, [&[4], &key.public[..]].concat());
    let mut covered = 0;
    let addresses = sets.iter().filter(|((_, kind), _)| *kind != Rtype::RRSIG);
    for ((owner, kind), (ttl, data)) in addresses {
        assert!(matches!(*kind, Rtype::A | Rtype::AAAA), "{owner} {kind}");
        let signatures = sets.get(&(owner.clone(), Rtype::RRSIG)).map_or(&[][..], |(_, data)| data);
        let of_kind = |data: &&Vec<u8>| data[..2] == kind.to_int().to_be_bytes();
        let [signature] = signatures.iter().filter(of_kind).collect::<Vec<_>>()[..] else {
            panic!("{owner} {kind} has not one signature: {signatures:?}")
        };
        let (head, signature) = signature.split_at(signature.len() - SIGNATURE);
        assert_eq!(&head[RRSIG_FIXED..], b"\x01z\x04test\0", "the signer of {owner} {kind}");
        assert_eq!(
            usize::from(head[3]),
            owner.label_count() - 1,
            "{owner} {kind} is signed as it stands here"
        );
        assert_eq!(head[4..8], ttl.to_be_bytes(), "the TTL of {owner} {kind}");
        // RFC 4034 §3.1.8.1.
        let mut signed = head.to_vec();
        let mut sorted = data.clone();
        sorted.sort_unstable();
        for data in &sorted {
            signed.extend_from_slice(owner.as_slice());
            signed.extend_from_slice(&kind.to_int().to_be_bytes());
            signed.extend_from_slice(&[0, 1]);
            signed.extend_from_slice(&head[4..8]);
            signed.extend_from_slice(&u16::try_from(data.len()).expect("short").to_be_bytes());
            signed.extend_from_slice(data);
        }
        public.verify(&signed, signature).unwrap_or_else(|_| panic!("the signature of {owner} {kind}"));
        covered += 1;
    }
    let signatures = sets.iter().filter(|((_, kind), _)| *kind == Rtype::RRSIG);
    let signatures: usize = signatures.map(|(_, (_, data))| data.len()).sum();
    assert_eq!(signatures, covered, "a signature belongs to what stands beside it");
    covered
}

fn names(sets: &Sets) -> Vec<(String, Rtype)> {
    sets.keys().map(|(owner, kind)| (owner.to_string(), *kind)).collect()
}

fn https(priority: u8, target: &[u8]) -> RecordData {
    RecordData::Other(65, [&[0, priority][..], target, &[0, 1, 0, 3, 2, b'h', b'2']].concat())
}

/// A signed zone with everything that brings addresses along.
fn signed(more: &[(&str, u32, Vec<RecordData>)]) -> (DnsPlan, ZoneKey) {
    let sets = [
        ("z.test", 3600, vec![ns("n1.z.test"), ns("n2.z.test")]),
        (
            "z.test",
            300,
            vec![RecordData::Mx(10, host("app.z.test")), RecordData::Mx(20, host("mx.else.test"))],
        ),
        ("n1.z.test", 3600, vec![a("192.0.2.1")]),
        ("n1.z.test", 3600, vec![aaaa("2001:db8::1")]),
        ("n2.z.test", 3600, vec![a("192.0.2.2")]),
        ("app.z.test", 30, vec![a("192.0.2.2"), a("192.0.2.1")]),
        ("app.z.test", 30, vec![aaaa("2001:db8::2")]),
        ("app.z.test", 60, vec![https(1, b"\0")]),
        ("alias.z.test", 60, vec![cname("app.z.test")]),
        ("other.z.test", 60, vec![https(1, b"\x03App\x01z\x04test\0")]),
        ("*.wild.z.test", 30, vec![a("192.0.2.7")]),
        ("*.wild.z.test", 30, vec![https(1, b"\0")]),
        ("_sip._tcp.z.test", 30, vec![RecordData::Srv(1, 2, 5060, host("app.z.test"))]),
        ("sub.z.test", 60, vec![ns("ns.sub.z.test"), ns("n1.z.test")]),
        ("ns.sub.z.test", 60, vec![a("192.0.2.9")]),
        ("glue.z.test", 60, vec![RecordData::Mx(10, host("ns.sub.z.test"))]),
    ];
    let key = new_key();
    let zone = zone::zone("z.test", 7, &[&sets[..], more].concat());
    let zone = ZonePlan { key: Some(key.clone()), ..zone };
    (DnsPlan { zones: vec![zone], ..DnsPlan::default() }, key)
}

#[test]
fn addresses_beside_an_answer_are_signed_for_who_wants_signatures() {
    let (plan, key) = signed(&[]);
    let ours = Ours::start(&plan);
    for (name, kind, sets) in [
        ("app.z.test", Rtype::HTTPS, 2),
        ("alias.z.test", Rtype::HTTPS, 2),
        ("other.z.test", Rtype::HTTPS, 2),
        ("x.wild.z.test", Rtype::HTTPS, 1),
        ("z.test", Rtype::MX, 2),
        ("_sip._tcp.z.test", Rtype::SRV, 2),
        ("z.test", Rtype::NS, 3),
    ] {
        let reply = ask(ours.address(), &query(name, kind, true, 7));
        assert!(reply.header().aa() && reply.header().rcode() == Rcode::NOERROR, "{name} {kind}");
        let beside = additional(&reply);
        assert_eq!(proven(&beside, &key), sets, "{name} {kind}");
        // The same without signatures for who does not want them.
        let plain = additional(&ask(ours.address(), &query(name, kind, false, 7)));
        let addresses = beside.into_iter().filter(|((_, kind), _)| *kind != Rtype::RRSIG).collect::<Sets>();
        assert_eq!(plain, addresses, "{name} {kind}");
    }
}

#[test]
fn addresses_below_a_delegation_are_not_signed_and_those_beside_it_are() {
    let (plan, key) = signed(&[]);
    let ours = Ours::start(&plan);
    let mut beside = additional(&ask(ours.address(), &query("www.sub.z.test", Rtype::A, true, 7)));
    let glue: Name<Vec<u8>> = "ns.sub.z.test".parse().expect("a name");
    assert!(beside.remove(&(glue, Rtype::A)).is_some());
    assert_eq!(proven(&beside, &key), 2, "of n1.z.test");
    let beside = additional(&ask(ours.address(), &query("glue.z.test", Rtype::MX, true, 7)));
    assert_eq!(names(&beside), [("ns.sub.z.test".to_owned(), Rtype::A)]);
}

#[test]
fn signatures_that_do_not_fit_are_left_out_and_are_no_reason_to_come_by_tcp() {
    // With all of their signatures, the addresses of the servers have no room in a datagram.
    let servers: Vec<String> = (1..=12).map(|n| format!("server-{n}.z.test")).collect();
    let mut more: Vec<(&str, u32, Vec<RecordData>)> =
        servers.iter().map(|name| (name.as_str(), 60, vec![a("192.0.2.3")])).collect();
    more.push(("many.z.test", 60, servers.iter().map(|name| RecordData::Mx(10, host(name))).collect()));
    // An address set that fits, and its signature beside it does not.
    let wide: Vec<RecordData> = (1..=64).map(|n| a(&format!("198.51.100.{n}"))).collect();
    more.push(("wide.z.test", 60, wide));
    more.push(("wide.z.test", 60, vec![https(1, b"\0")]));
    let (plan, key) = signed(&more);
    let ours = Ours::start(&plan);
    let once = |name: &str, kind, signatures| {
        let asked = query(name, kind, signatures, 7);
        let by_udp = ask_once(ours.address(), &asked, engine::ANSWER).expect("a reply");
        let by_tcp = engine::by_tcp(ours.address(), &asked).expect("a reply");
        (by_udp, by_tcp)
    };
    let (by_udp, by_tcp) = once("many.z.test", Rtype::MX, true);
    let sets = additional(&by_udp);
    let addresses = sets.keys().filter(|(_, kind)| *kind == Rtype::A).count();
    assert_eq!(addresses, 12, "every address");
    let complete: Sets = sets
        .iter()
        .filter(|((owner, _), _)| sets.contains_key(&(owner.clone(), Rtype::RRSIG)))
        .map(|(at, set)| (at.clone(), set.clone()))
        .collect();
    assert!((1..12).contains(&proven(&complete, &key)), "as many signatures as fit");
    assert!(by_udp.as_slice().len() <= 1232);
    assert_eq!(proven(&additional(&by_tcp), &key), 12, "all by TCP");
    // Addresses of a service come whole or not at all.
    let (by_udp, by_tcp) = once("wide.z.test", Rtype::HTTPS, true);
    assert!(additional(&by_udp).is_empty() && by_udp.header_counts().ancount() == 2);
    assert_eq!(proven(&additional(&by_tcp), &key), 1);
    let (by_udp, _) = once("wide.z.test", Rtype::HTTPS, false);
    assert_eq!(additional(&by_udp).len(), 1, "without its signature there is room");
}
