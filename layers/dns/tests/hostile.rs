//! Whatever comes in: no panic, no amplification, replies that parse.

mod zone;

use std::{cell::RefCell, time::Instant};

use domain::base::{Message, Rtype, iana::Opcode};
use pangolin_dns::{Outcome, Store, Transport, answer};
use proptest::{collection::vec, prelude::*};
use zone::{context, policy, query, store};

/// Largest UDP reply.
const UDP_MAX: usize = 1232;

/// Answers by both transports and checks what must hold for every message.
fn check(store: &Store, message: &[u8]) {
    thread_local!(static REPLY: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) });
    let policy = policy();
    for transport in [Transport::Udp, Transport::Tcp] {
        REPLY.with_borrow_mut(|reply| {
            let outcome = answer(store, &context(&policy, transport), message, reply);
            let is_query = message.len() >= 12 && message[2] & 0x80 == 0;
            let Outcome::Answered(answered) = outcome else {
                assert!(!is_query, "a query is answered");
                return;
            };
            assert!(is_query, "nothing else is");
            assert_eq!(reply[..2], message[..2], "the id");
            assert!(answered.question_end <= message.len());
            assert_eq!(reply[12..answered.question_end], message[12..answered.question_end], "the question");
            zone::show(reply);
            let header = Message::from_octets(reply.as_slice()).expect("a header").header();
            assert_eq!(header.opcode(), Opcode::from_int(message[2] >> 3 & 0xf));
            let mnemonic = answered.rcode.to_mnemonic_str().expect("a known code");
            if matches!(mnemonic, "FORMERR" | "NOTIMP") {
                let opt = if reply.len() > answered.question_end { 11 + 4 + 2 + 4 + 24 } else { 0 };
                assert!(reply.len() <= message.len().max(answered.question_end + opt));
            }
            if transport == Transport::Udp {
                assert!(reply.len() <= UDP_MAX);
                let edns = Message::from_octets(message).expect("a header").opt().is_some();
                assert!(edns || reply.len() <= 512);
            }
        });
    }
}

fn kinds() -> impl Strategy<Value = Rtype> {
    prop_oneof![
        any::<u16>().prop_map(Rtype::from_int),
        prop::sample::select(vec![Rtype::A, Rtype::NS, Rtype::TXT, Rtype::ANY, Rtype::SOA, Rtype::SRV]),
    ]
}

fn names() -> impl Strategy<Value = String> {
    let label = prop::sample::select(vec![
        "app",
        "alias",
        "alias2",
        "loop1",
        "wild",
        "*",
        "sub",
        "ns",
        "crowd",
        "ent",
        "er",
        "many",
        "x",
        "nope",
        "aliased",
        "to-sub",
        "bad",
        "_acme-challenge",
        "server-7",
        "dangling",
    ]);
    let apex = prop::sample::select(vec!["z.test.", "y.test.", "test.", "else.test."]);
    (vec(label, 0..6), apex)
        .prop_map(|(labels, apex)| labels.iter().map(|label| format!("{label}.")).collect::<String>() + apex)
}

fn queries() -> impl Strategy<Value = Vec<u8>> {
    (names(), kinds(), prop::option::of(any::<u16>()))
        .prop_map(|(name, kind, payload)| query(&name, kind, payload))
}

/// A query with some bytes changed, cut out or put in.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let change = (any::<prop::sample::Index>(), any::<u8>(), 0..3_u8);
    (queries(), vec(change, 1..6)).prop_map(|(mut message, changes)| {
        for (at, byte, how) in changes {
            if message.is_empty() {
                break;
            }
            let at = at.index(message.len());
            match how {
                0 => message[at] = byte,
                1 => message.insert(at, byte),
                _ => drop(message.remove(at)),
            }
        }
        message
    })
}

/// A header that promises much, with anything behind it.
fn promising() -> impl Strategy<Value = Vec<u8>> {
    (vec(any::<u8>(), 12..=12), 0..3_u8, 0..4_u8, vec(any::<u8>(), 0..600)).prop_map(
        |(mut message, questions, additional, rest)| {
            message[2] &= 0x07;
            message[4..12].copy_from_slice(&[0, questions, 0, 0, 0, 0, 0, additional]);
            message.extend_from_slice(&rest);
            message
        },
    )
}

fn runs(cases: u32) {
    let store = store();
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let any = prop_oneof![vec(any::<u8>(), 0..80), queries(), mutated(), promising()];
    let result = runner.run(&any, |message| {
        check(&store, &message);
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

#[test]
fn no_message_makes_it_panic_or_amplify() {
    runs(3000);
}

/// The same for minutes: `cargo test --release -p pangolin-dns --test hostile -- --ignored`, with the number of
/// messages in `DNS_HOSTILE_CASES`.
#[test]
#[ignore = "runs for minutes"]
fn no_message_of_very_many_makes_it_panic_or_amplify() {
    let cases = std::env::var("DNS_HOSTILE_CASES").ok().and_then(|cases| cases.parse().ok());
    runs(cases.unwrap_or(5_000_000));
}

#[test]
fn compression_bombs_cost_nothing() {
    let store = store();
    // A question whose name points at itself, forward, and into the header.
    for target in [12, 14, 0, 0x3fff_u16] {
        let mut message = query("app.z.test.", Rtype::A, None);
        message[12..14].copy_from_slice(&(0xc000 | target).to_be_bytes());
        check(&store, &message);
    }
    // Additional records of two bytes of pointer each, every one pointing at the one before: following them would
    // take a quarter of a million steps.
    let mut bomb = query("app.z.test.", Rtype::A, None);
    let mut previous = 12_u16;
    let mut count = 0_u16;
    while bomb.len() + 12 <= 4096 {
        let here = u16::try_from(bomb.len()).expect("short");
        bomb.extend_from_slice(&(0xc000 | previous).to_be_bytes());
        bomb.extend_from_slice(&[0, 1, 0, 1, 0, 0, 0, 0, 0, 0]);
        previous = here;
        count += 1;
    }
    bomb[10..12].copy_from_slice(&count.to_be_bytes());
    let begun = Instant::now();
    for _ in 0..100 {
        check(&store, &bomb);
    }
    assert!(begun.elapsed().as_secs() < 5, "{:?}", begun.elapsed());
    assert!(
        zone::reply_to(&store, Transport::Udp, &bomb).is_some_and(|r| zone::show(&r).starts_with("NOERROR"))
    );
}
