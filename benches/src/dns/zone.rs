//! The zone and the questions: as a resolver's cache misses look, mostly addresses, some of them for nothing.

use std::collections::BTreeMap;

use pangolin_core::{
    HostName,
    plan::{DnsPlan, PlannedSet, RecordSets, ZonePlan},
    record::RecordData,
};

pub(crate) const APEX: &str = "bench.test";
/// Questions in the round that is asked again and again.
const QUESTIONS: usize = 50_000;
/// Names with a challenge.
const CHALLENGES: usize = 200;

fn host(name: &str) -> HostName {
    // Names here are made of letters, digits and dots.
    name.parse().unwrap_or_else(|_| unreachable!("{name} is a name"))
}

/// A zone with so many names: nine of ten with addresses, the others aliases.
pub(crate) fn plan(names: usize) -> DnsPlan {
    let mut sets = RecordSets::new();
    let mut put = |name: String, ttl: u32, data: Vec<RecordData>| {
        let kind = data[0].kind();
        sets.entry(host(&name)).or_default().insert(kind, PlannedSet { ttl, data });
    };
    let v4 = |n: usize, last: u8| RecordData::A([10, (n >> 8) as u8, n as u8, last].into());
    for n in 0..names {
        let name = format!("r{n}.{APEX}");
        if n % 10 == 9 {
            put(name, 30, vec![RecordData::Cname(host(&format!("r{}.{APEX}", n - 1)))]);
            continue;
        }
        put(name.clone(), 30, vec![v4(n, 1), v4(n, 2)]);
        put(name, 30, vec![RecordData::Aaaa((0x2001_0db8_u128 << 96 | n as u128).into())]);
    }
    for n in 0..CHALLENGES.min(names) {
        put(format!("_acme-challenge.r{n}.{APEX}"), 0, vec![RecordData::Txt(vec![b'x'; 43])]);
    }
    put(format!("*.wild.{APEX}"), 30, vec![v4(1, 7)]);
    put(APEX.to_owned(), 3600, ["n1", "n2"].map(|n| RecordData::Ns(host(&format!("{n}.{APEX}")))).to_vec());
    put(format!("n1.{APEX}"), 3600, vec![v4(0, 1)]);
    put(format!("n2.{APEX}"), 3600, vec![v4(0, 2)]);
    let zone = ZonePlan {
        apex: host(APEX),
        primary: host(&format!("n1.{APEX}")),
        contact: host(&format!("hostmaster.{APEX}")),
        serial: 7,
        negative_ttl: 30,
        sets,
        regional: BTreeMap::new(),
        fail_open: BTreeMap::new(),
        key: None,
        secondaries: Vec::new(),
        next_key: None,
    };
    DnsPlan { zones: vec![zone], ..DnsPlan::default() }
}

/// Queries in wire form, with EDNS and a client cookie; the id is put in when they are sent.
pub(crate) fn questions(plan: &DnsPlan) -> Vec<Vec<u8>> {
    let names = plan.zones[0].sets.len();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut number = |below: usize| {
        // xorshift64: the same questions in every run.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 33) as usize % below
    };
    (0..QUESTIONS)
        .map(|_| {
            let n = number(names.max(1));
            match number(100) {
                0..60 => query(&format!("r{n}.{APEX}"), 1),
                60..75 => query(&format!("r{n}.{APEX}"), 28),
                75..82 => query(&format!("r{n}.{APEX}"), 65),
                82..87 => query(&format!("x{n}.wild.{APEX}"), 1),
                87..95 => query(&format!("no{n}.{APEX}"), 1),
                _ => query(&format!("_acme-challenge.r{}.{APEX}", n % CHALLENGES), 16),
            }
        })
        .collect()
}

/// The option that every query ends with: a client cookie (RFC 7873 §4).
const COOKIE: [u8; 12] = [0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8];
/// Bytes of the cookies that servers make (RFC 9018).
const SERVER_COOKIE: usize = 16;

/// The questions with the server's cookie in a reply, if it has one: clients are known to the server from here on.
pub(crate) fn with_cookie(questions: &[Vec<u8>], reply: &[u8]) -> Vec<Vec<u8>> {
    let mut option = COOKIE;
    option[3] += SERVER_COOKIE as u8;
    let at = reply.windows(option.len()).position(|bytes| bytes == option);
    let cookie = at.and_then(|at| reply.get(at + option.len()..at + option.len() + SERVER_COOKIE));
    let Some(cookie) = cookie else { return questions.to_vec() };
    let longer = |question: &Vec<u8>| {
        let start = question.len() - option.len();
        // The length of the record's data stands before the option.
        let length = (option.len() + SERVER_COOKIE) as u16;
        [&question[..start - 2], &length.to_be_bytes(), &option, cookie].concat()
    };
    questions.iter().map(longer).collect()
}

fn query(name: &str, kind: u16) -> Vec<u8> {
    let mut message = vec![0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1];
    for label in name.split('.') {
        message.push(label.len() as u8);
        message.extend_from_slice(label.as_bytes());
    }
    message.push(0);
    message.extend_from_slice(&kind.to_be_bytes());
    message.extend_from_slice(&[0, 1]);
    // OPT: 1232 bytes, and one option.
    message.extend_from_slice(&[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 12]);
    message.extend_from_slice(&COOKIE);
    message
}
