//! What fuzz targets call: a query as anybody may send it. Compiled for fuzzing and for tests alone: here the target
//! also runs over random bytes.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, LazyLock},
};

use domain::base::Message;
use pangolin_core::{
    Timestamp,
    dns::ZoneKey,
    id::Revision,
    name::HostName,
    plan::{DnsPlan, PlannedSet, ZonePlan},
    record::{RecordData, Sealed},
};

use crate::{Context, CookieSecret, Outcome, Policy, Store, Transport, ZoneSigner, answer, new_zone_key};

/// Largest reply over UDP without what the client allows (RFC 9715 §3.2: no fragments).
const UDP_REPLY_MAX: usize = 1232;
/// Largest reply at all.
const TCP_REPLY_MAX: usize = 65_535;

static STORE: LazyLock<Store> = LazyLock::new(store);

fn store() -> Store {
    let host = |name: &str| name.parse::<HostName>().expect("a host name");
    let records = [
        ("z.test", RecordData::Caa(0, "issue".into(), b"ca.test".to_vec())),
        ("a.z.test", RecordData::A([192, 0, 2, 1].into())),
        ("*.w.z.test", RecordData::A([192, 0, 2, 2].into())),
        ("c.z.test", RecordData::Cname(host("a.z.test"))),
        ("loop.z.test", RecordData::Cname(host("loop.z.test"))),
        ("t.z.test", RecordData::Txt(vec![b'x'; 2000])),
        ("_acme-challenge.a.z.test", RecordData::Txt(b"token".to_vec())),
    ];
    let mut sets: BTreeMap<HostName, BTreeMap<_, _>> = BTreeMap::new();
    for (owner, data) in records {
        let set = PlannedSet { ttl: 30, data: vec![data.clone()] };
        sets.entry(host(owner)).or_default().insert(data.kind(), set);
    }
    let zone = ZonePlan {
        apex: host("z.test"),
        primary: host("n1.z.test"),
        contact: host("hostmaster.z.test"),
        serial: 7,
        negative_ttl: 30,
        sets,
        regional: BTreeMap::new(),
        fail_open: BTreeMap::new(),
        key: None,
        secondaries: Vec::new(),
        next_key: None,
    };
    let (private, public) = new_zone_key().expect("a key");
    let signer = ZoneSigner::new(&zone.apex, &private, &public).expect("a signer");
    let signers = [(zone.apex.clone(), Arc::new(signer))].into();
    // What is sealed is not looked at: the signer is there.
    let sealed = Sealed { kek: 0, wrapped_key: Vec::new(), content: Vec::new() };
    let key = Some(ZoneKey { public, private: sealed, made_at: Timestamp(0) });
    let zones = vec![ZonePlan { key, ..zone }];
    let plan = DnsPlan { zones, ..DnsPlan::default() };
    Store::build(Revision { lineage: 1, index: 7 }, &plan, &signers).expect("a store")
}

/// A query over UDP and over TCP. A reply is a DNS message within its limits, and answers the query.
pub fn query(bytes: &[u8]) {
    let policy = Policy { nsid: b"n1".to_vec(), cookie_secrets: vec![CookieSecret([7; 16])], regions: None };
    for (transport, limit) in [(Transport::Udp, UDP_REPLY_MAX), (Transport::Tcp, TCP_REPLY_MAX)] {
        for leader_contact in [true, false] {
            let context = Context {
                policy: &policy,
                client: IpAddr::from([192, 0, 2, 99]),
                transport,
                now: 1_700_000_000,
                leader_contact,
            };
            let mut reply = Vec::new();
            if let Outcome::Answered(_) = answer(&STORE, &context, bytes, &mut reply) {
                assert!(reply.len() <= limit, "{} bytes over {transport:?}", reply.len());
                let message = Message::from_octets(&reply[..]).expect("a whole header");
                assert_eq!(Some(&reply[..2]), bytes.get(..2), "the query's id");
                assert!(message.header().qr(), "a reply");
                for record in message.answer().expect("sections can be read") {
                    record.expect("records can be read");
                }
            }
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
            kind in prop::sample::select(vec![1_u8, 5, 6, 16, 28, 255]),
        ) {
            query(&bytes);
            // The same bytes behind a header and a question that are in order.
            let mut begun = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1, 1, b't', 1, b'z', 4];
            begun.extend(*b"test");
            begun.extend([0, 0, kind, 0, 1]);
            query(&begun);
            let mut signed = begun.clone();
            signed.extend([0, 0, 41, 4, 208, 0, 0, 0x80, 0, 0, 0]);
            query(&signed);
            begun.extend(bytes);
            query(&begun);
        }
    }
}
