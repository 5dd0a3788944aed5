//! What fuzz targets call: a query as anybody may send it. Compiled for fuzzing and for tests alone: here the target
//! also runs over random bytes.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, LazyLock},
};

use domain::{base::Message, rdata::tsig::Time48, tsig::ClientTransaction};
use pangolin_core::{
    Timestamp,
    dns::ZoneKey,
    id::Revision,
    name::HostName,
    plan::{DnsPlan, PlannedSet, ZonePlan},
    record::{RecordData, RecordKind, Sealed},
};

use crate::{
    Context, CookieSecret, Outcome, Policy, Store, Transport, ZoneSigner, answer, new_zone_key,
    transfer::{TransferKey, Transfers, again},
};

/// Largest reply over UDP without what the client allows (RFC 9715 §3.2: no fragments).
const UDP_REPLY_MAX: usize = 1232;
/// Largest reply at all.
const TCP_REPLY_MAX: usize = 65_535;
/// When all this is asked, in seconds since 1970.
const NOW: u32 = 1_700_000_000;

static SERVED: LazyLock<Served> = LazyLock::new(served);

/// What is served, and what clients ask for that are asked to prove who they are.
struct Served {
    store: Store,
    transfers: Transfers,
    /// A secondary's key.
    key: TransferKey,
}

fn host(name: &str) -> HostName {
    name.parse().expect("a host name")
}

fn sets(records: Vec<(&str, RecordData)>) -> BTreeMap<HostName, BTreeMap<RecordKind, PlannedSet>> {
    let mut sets: BTreeMap<HostName, BTreeMap<_, _>> = BTreeMap::new();
    for (owner, data) in records {
        let set = PlannedSet { ttl: 30, data: vec![data.clone()] };
        sets.entry(host(owner)).or_default().insert(data.kind(), set);
    }
    sets
}

fn zone(apex: &str, records: Vec<(&str, RecordData)>) -> ZonePlan {
    ZonePlan {
        apex: host(apex),
        primary: host("n1.z.test"),
        contact: host("hostmaster.z.test"),
        serial: 7,
        negative_ttl: 30,
        sets: sets(records),
        regional: BTreeMap::new(),
        fail_open: BTreeMap::new(),
        key: None,
        secondaries: Vec::new(),
        next_key: None,
    }
}

fn served() -> Served {
    let a = |last| RecordData::A([192, 0, 2, last].into());
    let ns = |name: &str| RecordData::Ns(host(name));
    // Signed: what denies, refers and is proved.
    let signed = zone(
        "z.test",
        vec![
            ("z.test", RecordData::Caa(0, "issue".into(), b"ca.test".to_vec())),
            ("z.test", ns("n1.z.test")),
            ("a.z.test", a(1)),
            ("a.z.test", RecordData::Other(65, vec![0, 1, 0, 0, 1, 0, 3, 2, b'h', b'2'])),
            ("b.z.test", RecordData::Other(65, b"\0\x01\x01a\x01z\x04test\0".to_vec())),
            ("x.z.test", RecordData::Other(64, vec![0, 1, 63, 1])),
            ("m.z.test", RecordData::Mx(10, host("a.z.test"))),
            ("*.w.z.test", a(2)),
            ("c.z.test", RecordData::Cname(host("a.z.test"))),
            ("loop.z.test", RecordData::Cname(host("loop.z.test"))),
            ("t.z.test", RecordData::Txt(vec![b'x'; 2000])),
            ("_acme-challenge.a.z.test", RecordData::Txt(b"token".to_vec())),
            ("s.z.test", ns("n.s.z.test")),
            ("n.s.z.test", a(3)),
            ("d.z.test", ns("n.else.test")),
            ("d.z.test", RecordData::Other(43, vec![0, 1, 13, 2, 0xaa])),
            ("to-s.z.test", RecordData::Cname(host("x.s.z.test"))),
        ],
    );
    // Not signed: what depends on where a client is, and what secondaries take.
    let mut regional = zone(
        "y.test",
        vec![
            ("a.y.test", a(1)),
            ("c.y.test", RecordData::Cname(host("a.y.test"))),
            ("t.y.test", RecordData::Txt(vec![b'y'; 20_000])),
        ],
    );
    let near = [("eu", 4), ("us", 5)].map(|(region, last)| {
        let of_region = sets(vec![("a.y.test", a(last))]).remove(&host("a.y.test")).unwrap_or_default();
        (region.parse().expect("a region"), of_region)
    });
    regional.regional = [(host("a.y.test"), near.into())].into();
    regional.fail_open = sets(vec![("a.y.test", RecordData::Aaaa([0x20, 1, 0xd, 0xb8, 0, 0, 0, 1].into()))]);
    regional.secondaries = vec![(([192, 0, 2, 53], 53).into(), host("transfer.key"))];

    let (private, public) = new_zone_key().expect("a key");
    let signer = ZoneSigner::new(&signed.apex, &private, &public).expect("a signer");
    let signers = [(signed.apex.clone(), Arc::new(signer))].into();
    // What is sealed is not looked at: the signer and the transfer key are there.
    let sealed = Sealed { kek: 0, wrapped_key: Vec::new(), content: Vec::new() };
    let key = Some(ZoneKey { public, private: sealed, made_at: Timestamp(0) });
    let rules = [("10.0.0.0/8", "eu"), ("2001:db8::/32", "us")];
    let rules =
        rules.map(|(net, region)| (net.parse().expect("a network"), region.parse().expect("a region")));
    let zones = vec![ZonePlan { key, ..signed }, regional];
    let plan = DnsPlan { zones, regions: rules.to_vec(), ..DnsPlan::default() };
    let store = Store::build(Revision { lineage: 1, index: 7 }, &plan, &signers).expect("a store");
    let key = TransferKey::new(&host("transfer.key"), &[7; 32]).expect("a key");
    let keys = [key.entry()].into();
    Served { store, transfers: Transfers { plan: Arc::new(plan), keys }, key }
}

/// A query over UDP and over TCP, as it is and signed with a secondary's key. A reply is a DNS message within its limits,
/// and answers the query.
pub fn query(bytes: &[u8]) {
    let policy = Policy { nsid: b"n1".to_vec(), cookie_secrets: vec![CookieSecret([7; 16])], regions: None };
    let signed = sign(bytes);
    for (transport, limit) in [(Transport::Udp, UDP_REPLY_MAX), (Transport::Tcp, TCP_REPLY_MAX)] {
        for leader_contact in [true, false] {
            let context = Context {
                policy: &policy,
                client: IpAddr::from([10, 0, 2, 99]),
                transport,
                now: NOW,
                leader_contact,
            };
            let mut reply = Vec::new();
            if let Outcome::Answered(_) = answer(&SERVED.store, &context, bytes, &mut reply) {
                check(bytes, &reply, limit);
            }
            for bytes in std::iter::once(bytes).chain(signed.as_deref()) {
                // The signature stands beside what fits.
                let transfers = &SERVED.transfers;
                let mut reply = Vec::new();
                if let Some(Outcome::Answered(_)) =
                    transfers.answer_signed(&SERVED.store, &context, bytes, &mut reply)
                {
                    check(bytes, &reply, TCP_REPLY_MAX);
                }
                for message in transfers.answer_transfer(&context, bytes).into_iter().flatten() {
                    check(bytes, &message, TCP_REPLY_MAX);
                }
            }
        }
    }
}

/// The same message with a signature that is good.
fn sign(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut builder = again(bytes)?;
    let now = Time48::from_u64(u64::from(NOW));
    ClientTransaction::request(Arc::clone(SERVED.key.key()), &mut builder, now).ok()?;
    Some(builder.finish())
}

fn check(query: &[u8], reply: &[u8], limit: usize) {
    assert!(reply.len() <= limit, "{} bytes", reply.len());
    let message = Message::from_octets(reply).expect("a whole header");
    assert_eq!(Some(&reply[..2]), query.get(..2), "the query's id");
    assert!(message.header().qr(), "a reply");
    for section in message
        .sections()
        .map(|(_, answer, authority, additional)| [answer, authority, additional])
        .expect("sections can be read")
    {
        for record in section {
            record.expect("records can be read");
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_bytes_make_the_target_fail(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            kind in prop::sample::select(vec![1_u8, 2, 5, 6, 15, 16, 28, 43, 46, 47, 64, 65, 251, 252, 255]),
            name in prop::sample::select(vec![
                "t.z.test", "a.z.test", "b.z.test", "m.z.test", "x.w.z.test", "loop.z.test", "x.s.z.test", "s.z.test",
                "d.z.test", "to-s.z.test", "none.z.test", "y.test", "a.y.test", "c.y.test", "t.y.test",
            ]),
        ) {
            query(&bytes);
            // The same bytes behind a header and a question that are in order.
            let mut begun = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
            for label in name.split('.') {
                begun.push(label.len() as u8);
                begun.extend(label.bytes());
            }
            begun.extend([0, 0, kind, 0, 1]);
            // Without anything behind them, so that they can be signed.
            let mut whole = begun.clone();
            whole[11] = 0;
            query(&whole);
            query(&begun);
            let mut signed = begun.clone();
            signed.extend([0, 0, 41, 4, 208, 0, 0, 0x80, 0, 0, 0]);
            query(&signed);
            // For a client whose resolver says where it is.
            let mut subnet = begun.clone();
            subnet.extend([0, 0, 41, 4, 208, 0, 0, 0x80, 0, 0, 11, 0, 8, 0, 7, 0, 1, 24, 0, 10, 1, 2]);
            query(&subnet);
            begun.extend(bytes);
            query(&begun);
        }
    }

    #[test]
    fn the_target_reaches_transfers_and_signed_answers() {
        let context = |policy| Context {
            policy,
            client: IpAddr::from([10, 0, 2, 99]),
            transport: Transport::Tcp,
            now: NOW,
            leader_contact: true,
        };
        let policy = Policy::default();
        let asked = |kind: u8| {
            let mut asked = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, b'y', 4];
            asked.extend(b"test\0\0");
            asked.extend([kind, 0, 1]);
            sign(&asked).expect("a signed query")
        };
        let messages = SERVED.transfers.answer_transfer(&context(&policy), &asked(252)).expect("a transfer");
        assert!(messages.len() > 1, "{}", messages.len());
        let mut reply = Vec::new();
        let answered =
            SERVED.transfers.answer_signed(&SERVED.store, &context(&policy), &asked(6), &mut reply);
        assert!(matches!(answered, Some(Outcome::Answered(_))));
        assert_eq!(Message::from_octets(reply).expect("a reply").header_counts().arcount(), 1, "a signature");
    }
}
