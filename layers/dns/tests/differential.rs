//! The same questions to us and to NSD, over a zone with every kind of record: decoded answers are equal but for the
//! differences that are listed here with their reasons.
#![allow(clippy::print_stdout, reason = "a test that is skipped says so, and tells its figures")]

mod engine;
mod zone;

use std::collections::{BTreeMap, BTreeSet};

use domain::base::{Message, Rtype, ToName as _, iana::Rcode};
use engine::{Engine, Ours, ask, by_tcp, free_port, is_there, query};
use pangolin_core::{plan::DnsPlan, record::RecordData};
use pangolin_dns::print_zone;

/// Questions that are asked.
const QUESTIONS: usize = 12_000;

/// Why an answer may differ from NSD's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Reason {
    /// RFC 8482 §4.1 lets a server choose the record set; NSD chooses another one, or sends all of them.
    AnyIsOneSet,
    /// NSD adds the zone's NS records and their addresses to positive answers. Nobody needs them, and they make
    /// answers larger (RFC 9471 speaks of referrals only).
    NoServersBesideData,
    /// NSD sends a referral with some of the addresses that it needs; we truncate, and send all by TCP (RFC 9471 §3.1).
    GlueIsWhole,
    /// RFC 9460 §4.1 asks for the addresses of a service binding's target beside it, which spare clients a question; NSD
    /// takes these records for data like any other.
    AddressesOfServices,
}

/// A section as a set of lines.
type Section = BTreeSet<String>;

/// A reply, decoded; the order of records within a section means nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Decoded {
    rcode: Rcode,
    authoritative: bool,
    sections: [Section; 3],
}

fn decode(reply: &Message<Vec<u8>>) -> Decoded {
    let (_, answer, authority, additional) = reply.sections().expect("sections");
    let sections = [answer, authority, additional].map(|section| {
        let records = section.map(|record| record.expect("a record")).filter(|r| r.rtype() != Rtype::OPT);
        records
            .map(|record| {
                let data = record.to_any_record::<domain::rdata::AllRecordData<_, _>>().expect("data");
                let text = format!(
                    "{} {} {} {}",
                    record.owner().fmt_with_dot(),
                    record.ttl().as_secs(),
                    record.rtype(),
                    data.data()
                );
                text.to_ascii_lowercase()
            })
            .collect()
    });
    Decoded { rcode: reply.header().rcode(), authoritative: reply.header().aa(), sections }
}

/// Why these two may differ; an error if they may not.
fn accept(kind: Rtype, ours: &Decoded, theirs: &Decoded) -> Result<Option<Reason>, ()> {
    if ours == theirs {
        return Ok(None);
    }
    if (ours.rcode, ours.authoritative) != (theirs.rcode, theirs.authoritative) {
        return Err(());
    }
    let [answer, authority, additional] = &ours.sections;
    let [their_answer, their_authority, their_additional] = &theirs.sections;
    if kind == Rtype::ANY && !answer.is_empty() && !their_answer.is_empty() {
        return Ok(Some(Reason::AnyIsOneSet));
    }
    if answer != their_answer {
        return Err(());
    }
    let is_address = |line: &String| line.contains(" a ") || line.contains(" aaaa ");
    if kind == Rtype::HTTPS
        && !answer.is_empty()
        && !additional.is_empty()
        && additional.iter().all(is_address)
    {
        return Ok(Some(Reason::AddressesOfServices));
    }
    let only_servers = their_authority.iter().all(|line| line.starts_with("z.test. 3600 ns "));
    if authority.is_empty() && !their_authority.is_empty() && !answer.is_empty() && only_servers {
        return Ok(Some(Reason::NoServersBesideData));
    }
    if authority != their_authority {
        return Err(());
    }
    if !ours.authoritative && answer.is_empty() && their_additional.is_subset(additional) {
        return Ok(Some(Reason::GlueIsWhole));
    }
    Err(())
}

/// The zone of the other tests without what has no DNS form, and with types that have no variant of their own.
fn plan() -> DnsPlan {
    let mut plan = zone::plan(7);
    plan.zones.truncate(1);
    let sets = &mut plan.zones[0].sets;
    sets.remove(&zone::host("bad.z.test"));
    let other =
        |name: &str, number: u16, data: &[u8]| (name.to_owned(), RecordData::Other(number, data.to_vec()));
    for (name, data) in [
        other("_443._tcp.app.z.test", 52, &[3, 1, 1, 0xaa, 0xbb]),
        other("host.z.test", 44, &[4, 2, 0xcc]),
        other("app.z.test", 65, &[0, 1, 0, 0, 1, 0, 3, 2, b'h', b'2']),
        other("ptr.z.test", 12, b"\x03app\x01z\x04test\x00"),
        other("strange.z.test", 65_280, b"anything"),
        other("sub.z.test", 43, &[0, 1, 13, 2, 0xaa]),
    ] {
        let set = pangolin_core::plan::PlannedSet { ttl: 60, data: vec![data.clone()] };
        sets.entry(zone::host(&name)).or_default().insert(data.kind(), set);
    }
    plan
}

/// Questions about names that are there, near them, below them, and far from them.
struct Questions {
    state: u64,
    names: Vec<String>,
}

impl Questions {
    fn number(&mut self, below: usize) -> usize {
        // xorshift64*: the same questions in every run.
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        let mixed = self.state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(mixed).expect("31 bits") % below
    }

    fn name(&mut self) -> String {
        const LABELS: [&str; 8] = ["x", "*", "www", "_tcp", "app", "a.b", "ent", "n1"];
        let at = self.number(self.names.len());
        let mut name = self.names[at].clone();
        match self.number(8) {
            0..=3 => {}
            4 | 5 => name = format!("{}.{name}", LABELS[self.number(LABELS.len())]),
            6 => name = name.split_once('.').map_or(name.clone(), |(_, rest)| rest.to_owned()),
            _ => name = format!("{}{name}", LABELS[self.number(2)]),
        }
        let turn = self.number(3);
        name.chars()
            .enumerate()
            .map(|(at, c)| if turn == 1 && at % 2 == 0 { c.to_ascii_uppercase() } else { c })
            .collect()
    }

    fn kind(&mut self) -> Rtype {
        const KINDS: [u16; 24] = [
            1, 1, 1, 2, 5, 6, 12, 15, 16, 28, 28, 33, 35, 43, 44, 46, 52, 64, 65, 99, 255, 257, 65_280, 1234,
        ];
        KINDS[self.number(KINDS.len())].into()
    }
}

#[test]
fn answers_are_those_of_nsd_but_for_known_differences() {
    if !is_there("nsd") {
        return;
    }
    let plan = plan();
    let text = print_zone(&plan.zones[0]).expect("a zone file");
    let mut nsd = Engine::nsd(
        free_port(),
        "zone:\n  name: z.test\n  zonefile: z.test.zone\n",
        &[("z.test.zone", &text)],
    );
    nsd.wait("z.test", Rtype::SOA);
    let ours = Ours::start(&plan);
    // Of the crowd of servers a few are enough.
    let few = |name: &String| !name.starts_with("server-") || name.starts_with("server-1.");
    let names = plan.zones[0].sets.keys().map(ToString::to_string).filter(few);
    let names = names.chain(["else.test".to_owned()]);
    let mut questions = Questions { state: 0x9e37_79b9_7f4a_7c15, names: names.collect() };
    let mut seen = BTreeMap::<Option<Reason>, usize>::new();
    let mut wrong = BTreeMap::<Rtype, String>::new();
    for number in 0..QUESTIONS {
        let (name, kind) = (questions.name(), questions.kind());
        if name.parse::<domain::base::Name<Vec<u8>>>().is_err() {
            continue;
        }
        let query = query(&name, kind, questions.number(4) == 0, number as u16);
        let whole = questions.number(20) == 0;
        let [one, other] = [ours.address(), nsd.address].map(|server| match whole {
            true => by_tcp(server, &query).expect("a reply"),
            false => ask(server, &query),
        });
        let (one, other) = (decode(&one), decode(&other));
        match accept(kind, &one, &other) {
            Ok(reason) => *seen.entry(reason).or_default() += 1,
            Err(()) => {
                let text = || format!("{name} {kind}\n  ours {one:?}\n  NSD  {other:?}");
                wrong.entry(kind).or_insert_with(text);
            }
        }
    }
    let asked: usize = seen.values().sum();
    println!("{asked} questions: {seen:?}");
    let wrong: Vec<String> = wrong.into_values().collect();
    assert!(wrong.is_empty(), "differences, one of each type:\n{}", wrong.join("\n"));
    assert!(asked >= 10_000, "{asked}");
    assert!(seen.contains_key(&Some(Reason::AddressesOfServices)), "{seen:?}");
    assert!(seen.get(&None).is_some_and(|equal| *equal > asked / 2), "{seen:?}");
}
