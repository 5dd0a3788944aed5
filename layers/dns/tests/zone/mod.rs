//! A plan with every kind of record, and messages as text.
#![allow(dead_code, reason = "each test program uses a part")]

use std::{collections::BTreeMap, fmt::Write, net::SocketAddr};

use domain::{
    base::{
        Message, MessageBuilder, Name, Rtype, ToName,
        iana::{Class, OptRcode},
    },
    rdata::AllRecordData,
};
use pangolin_core::{
    Timestamp,
    dns::ZoneKey,
    id::Revision,
    name::HostName,
    plan::{DnsPlan, PlannedSet, ZonePlan},
    record::{RecordData, Sealed},
};
use pangolin_dns::{
    Context, CookieSecret, Outcome, Policy, Secret, Signers, Store, Transport, answer, delegation_signer,
    new_zone_key,
};

pub(crate) fn host(name: &str) -> HostName {
    name.parse().expect("a host name")
}

pub(crate) fn at(index: u64) -> Revision {
    Revision { lineage: 1, index }
}

/// Record sets from lines of `OWNER TTL DATA`.
pub(crate) fn zone(apex: &str, serial: u32, sets: &[(&str, u32, Vec<RecordData>)]) -> ZonePlan {
    let mut by_name: BTreeMap<HostName, BTreeMap<_, _>> = BTreeMap::new();
    for (owner, ttl, data) in sets {
        let set = PlannedSet { ttl: *ttl, data: data.clone() };
        by_name.entry(host(owner)).or_default().insert(data[0].kind(), set);
    }
    ZonePlan {
        apex: host(apex),
        primary: host(&format!("n1.{apex}")),
        contact: host(&format!("hostmaster.{apex}")),
        serial,
        negative_ttl: 30,
        sets: by_name,
        regional: BTreeMap::new(),
        fail_open: BTreeMap::new(),
        key: None,
        secondaries: Vec::new(),
        next_key: None,
    }
}

pub(crate) fn a(address: &str) -> RecordData {
    RecordData::A(address.parse().expect("IPv4"))
}

pub(crate) fn aaaa(address: &str) -> RecordData {
    RecordData::Aaaa(address.parse().expect("IPv6"))
}

pub(crate) fn txt(text: &[u8]) -> RecordData {
    RecordData::Txt(text.to_vec())
}

pub(crate) fn cname(name: &str) -> RecordData {
    RecordData::Cname(host(name))
}

pub(crate) fn ns(name: &str) -> RecordData {
    RecordData::Ns(host(name))
}

/// Two zones with every kind of record and every shape of name.
pub(crate) fn plan(serial: u32) -> DnsPlan {
    let many: Vec<RecordData> = (0..100).map(|n| txt(format!("value number {n:04}").as_bytes())).collect();
    let crowd: Vec<RecordData> = (1..=30).map(|n| ns(&format!("server-{n}.crowd.z.test"))).collect();
    let mut sets = vec![
        ("z.test", 3600, vec![ns("n1.z.test"), ns("n2.z.test")]),
        (
            "z.test",
            300,
            vec![RecordData::Mx(10, host("mail.z.test")), RecordData::Mx(20, host("mx.else.test"))],
        ),
        ("z.test", 300, vec![RecordData::Caa(0, "issue".into(), b"ca.test".to_vec())]),
        ("n1.z.test", 3600, vec![a("192.0.2.1")]),
        ("n1.z.test", 3600, vec![aaaa("2001:db8::1")]),
        ("n2.z.test", 3600, vec![a("192.0.2.2")]),
        ("app.z.test", 30, vec![a("192.0.2.2"), a("192.0.2.1")]),
        ("mail.z.test", 30, vec![a("192.0.2.9")]),
        ("_sip._tcp.z.test", 30, vec![RecordData::Srv(1, 2, 5060, host("app.z.test"))]),
        ("_imap._tcp.z.test", 30, vec![RecordData::NullSrv(0, 0, 0)]),
        ("silent.z.test", 30, vec![RecordData::NullMx]),
        ("deep.er.ent.z.test", 30, vec![txt(b"deep")]),
        ("alias.z.test", 60, vec![cname("app.z.test")]),
        ("alias2.z.test", 60, vec![cname("alias.z.test")]),
        ("out.z.test", 60, vec![cname("www.else.test")]),
        ("other.z.test", 60, vec![cname("www.y.test")]),
        ("dangling.z.test", 60, vec![cname("nothing.z.test")]),
        ("to-ent.z.test", 60, vec![cname("ent.z.test")]),
        ("loop1.z.test", 60, vec![cname("loop2.z.test")]),
        ("loop2.z.test", 60, vec![cname("loop1.z.test")]),
        ("to-sub.z.test", 60, vec![cname("www.sub.z.test")]),
        ("*.wild.z.test", 30, vec![a("192.0.2.7")]),
        ("*.wild.z.test", 30, vec![txt(b"any")]),
        ("real.wild.z.test", 30, vec![txt(b"real")]),
        ("*.aliased.z.test", 30, vec![cname("app.z.test")]),
        ("sub.z.test", 3600, vec![ns("ns.sub.z.test"), ns("n2.z.test"), ns("ns.else.test")]),
        ("ns.sub.z.test", 3600, vec![a("198.51.100.1")]),
        ("hidden.sub.z.test", 3600, vec![a("198.51.100.2")]),
        ("sub.sub.z.test", 3600, vec![ns("ns.else.test")]),
        ("crowd.z.test", 3600, crowd),
        ("_acme-challenge.app.z.test", 0, vec![txt(b"token-1"), txt(b"token-2")]),
        ("long.z.test", 30, vec![txt(&[b'x'; 300])]),
        ("empty.z.test", 30, vec![txt(b"")]),
        ("many.z.test", 30, many),
        ("twice.z.test", 30, vec![a("192.0.2.3"), a("192.0.2.3")]),
        ("bad.z.test", 30, vec![RecordData::Caa(0, "not a tag".into(), vec![])]),
        ("bad.z.test", 30, vec![a("192.0.2.4")]),
        ("mixed.z.test", 30, vec![cname("app.z.test")]),
        ("mixed.z.test", 30, vec![a("192.0.2.5")]),
    ];
    let servers: Vec<(String, RecordData)> =
        (1..=30).map(|n| (format!("server-{n}.crowd.z.test"), a(&format!("198.51.100.{n}")))).collect();
    for (name, address) in &servers {
        sets.push((name, 3600, vec![address.clone()]));
    }
    DnsPlan {
        zones: vec![
            zone("z.test", serial, &sets),
            zone("y.test", serial, &[("www.y.test", 30, vec![a("192.0.2.8")])]),
        ],
        ..DnsPlan::default()
    }
}

pub(crate) fn new_key() -> ZoneKey {
    let (private, public) = new_zone_key().expect("a key");
    // In these tests what is sealed lies open.
    let private = Sealed { kek: 0, wrapped_key: Vec::new(), content: private };
    ZoneKey { public, private, made_at: Timestamp(0) }
}

/// The plan above, its first zone signed, and the DS record of that.
pub(crate) fn signed(serial: u32) -> (DnsPlan, String) {
    let mut plan = plan(serial);
    let key = new_key();
    let signer = delegation_signer(&plan.zones[0].apex, &key.public);
    plan.zones[0].key = Some(key);
    (plan, signer)
}

/// For plans without keys.
pub(crate) fn no_keys(secret: Secret<'_>) -> Result<Vec<u8>, String> {
    Err(format!("there is no key for {secret:?}"))
}

pub(crate) fn store() -> Store {
    Store::build(at(7), &plan(7), &Signers::new()).expect("a plan that can be served")
}

pub(crate) fn policy() -> Policy {
    let cookie_secrets = vec![CookieSecret(*b"sixteen bytes ok")];
    Policy { nsid: b"n1".to_vec(), cookie_secrets, regions: None }
}

pub(crate) const CLIENT: &str = "192.0.2.200";
pub(crate) const NOW: u32 = 1_800_000_000;

pub(crate) fn context(policy: &Policy, transport: Transport) -> Context<'_> {
    let client = CLIENT.parse().expect("an address");
    Context { policy, client, transport, now: NOW, leader_contact: true }
}

/// A query with an OPT record of this payload size.
pub(crate) fn query(name: &str, kind: Rtype, payload: Option<u16>) -> Vec<u8> {
    let mut builder = MessageBuilder::new_vec();
    builder.header_mut().set_id(0x1234);
    builder.header_mut().set_rd(true);
    let mut question = builder.question();
    let name: Name<Vec<u8>> = name.parse().expect("a name");
    question.push((name, kind, Class::IN)).expect("room");
    let mut additional = question.additional();
    if let Some(payload) = payload {
        additional
            .opt(|opt| {
                opt.set_udp_payload_size(payload);
                Ok(())
            })
            .expect("room");
    }
    additional.finish()
}

/// Answers by TCP rules with the store of [`plan`].
pub(crate) fn ask(name: &str, kind: Rtype) -> String {
    show(&reply_to(&store(), Transport::Tcp, &query(name, kind, None)).expect("a reply"))
}

pub(crate) fn reply_to(store: &Store, transport: Transport, message: &[u8]) -> Option<Vec<u8>> {
    let policy = policy();
    let mut reply = Vec::new();
    match answer(store, &context(&policy, transport), message, &mut reply) {
        Outcome::Dropped => None,
        Outcome::Answered(_) => Some(reply),
    }
}

/// `RCODE flags`, then a line for each record: section, owner, TTL, type and data.
pub(crate) fn show(reply: &[u8]) -> String {
    let message = Message::from_octets(reply).expect("a header");
    let header = message.header();
    assert!(header.qr() && !header.ra() && !header.z() && !header.ad() && !header.cd());
    let rcode = message.opt().map_or(header.rcode().into(), |opt| opt.rcode(header));
    let mut out = OptRcode::to_mnemonic_str(rcode).unwrap_or("?").to_owned();
    for (set, name) in [(header.aa(), " aa"), (header.tc(), " tc")] {
        out.push_str(if set { name } else { "" });
    }
    let (_, answer, authority, additional) = message.sections().expect("sections");
    let mut end = 0;
    for (letter, section) in [("an", answer), ("ns", authority), ("ar", additional)] {
        let mut section = section;
        for record in section.by_ref() {
            let record = record.expect("a record");
            if record.rtype() == Rtype::OPT {
                assert_eq!(letter, "ar");
                continue;
            }
            let record = record.to_any_record::<AllRecordData<_, _>>().expect("record data");
            let ttl = record.ttl().as_secs();
            let line =
                format!("{} {ttl} {} {}", record.owner().fmt_with_dot(), record.rtype(), record.data());
            write!(out, "\n{letter} {line}").expect("a string");
        }
        end = section.pos();
    }
    assert_eq!(end, reply.len(), "bytes behind the last record");
    out
}

/// Addresses with a port of the system's choice.
pub(crate) fn loopback(addresses: &[&str]) -> Vec<SocketAddr> {
    addresses.iter().map(|a| SocketAddr::new(a.parse().expect("an address"), 0)).collect()
}
