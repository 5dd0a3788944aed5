//! The exchange of keys: a zone's, which its parent has to know of, and an account's, which its issuer has to take.

#[allow(dead_code, reason = "each test file uses its own part of the made-up facts")]
mod facts;

use std::time::Duration;

use facts::{DIRECTORY, beginning, command, host, issuer, sealed, slug};
use pangolin_core::{
    Body, ClusterState, HostName, NodeId, Outcome, Timestamp,
    dns::{DnsChange as D, KEY_TTL},
    issuance::{
        CertificatesChange as C, Issuer, OrderStep, Problem, ProblemKind, Step, account_keys_due, tasks,
    },
    plan,
    record::Sealed,
    rollover::{KeptKey, ParentFound, Rollovers},
};

const ZONE: &str = "demo.test";
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

struct Story {
    state: ClusterState,
    now: Timestamp,
}

impl Story {
    fn begin() -> Self {
        Self { state: facts::applied(&beginning()), now: Timestamp(1_800_000_000_000) }
    }

    fn tell(&mut self, body: Body) -> Outcome {
        let index = self.state.revision().index + 1;
        self.state.apply(index, &command(self.now.0, body))
    }

    fn dns(&mut self, change: D) {
        let outcome = self.tell(Body::Dns(Box::new(change)));
        assert!(matches!(outcome, Outcome::Done(_)), "{outcome:?}");
    }

    fn certificates(&mut self, change: C) -> Outcome {
        self.tell(Body::Certificates(Box::new(change)))
    }

    fn signed(key: u8) -> Self {
        let mut story = Self::begin();
        story.dns(D::SigningStarted { zone: zone(), public: vec![key; 64], private: sealed() });
        story
    }

    fn start(&mut self, key: u8) {
        self.dns(D::RolloverStarted { zone: zone(), public: vec![key; 64], private: sealed() });
    }

    /// The parent is asked because `kept` is to stay. Why nothing came of it, if so.
    fn ask(&mut self, [current, next]: [bool; 2], kept: Option<KeptKey>) -> Option<String> {
        let any = current || next;
        let found = ParentFound { current, next, any, ttl: any.then_some(600) };
        let before = self.keys();
        self.dns(D::ParentAsked { zone: zone(), found, kept });
        if self.keys() == before { self.state.key_needed(&zone(), kept) } else { None }
    }

    /// The keys that sign, by their first byte.
    fn keys(&self) -> Vec<u8> {
        let plan = plan(&self.state, NodeId(1));
        let planned = plan.dns.zones.iter().find(|planned| planned.apex == zone()).expect("the zone");
        planned.keys().map(|key| key.public[0]).collect()
    }
}

fn zone() -> HostName {
    host(ZONE)
}

#[test]
fn a_key_goes_when_the_parent_has_the_next_one_and_caches_have_forgotten_the_former() {
    let mut story = Story::signed(1);
    story.start(2);
    assert_eq!(story.keys(), [1, 2], "both sign");
    let finish = Some(KeptKey::Next);
    assert!(story.ask([true, false], finish).expect("not yet").contains("no DS record of the next key"));
    story.now = story.now + HOUR * 5;
    assert!(story.ask([true, true], finish).expect("not yet").contains("may keep what was there before"));
    story.now = story.now + Duration::from_secs(599);
    assert!(story.ask([false, true], finish).is_some(), "what it has was changed again");
    story.now = story.now + Duration::from_secs(600);
    assert_eq!(story.ask([false, true], finish), None);
    assert_eq!(story.keys(), [2]);
    assert_eq!(story.state.rollovers(), &Rollovers::default());
}

#[test]
fn a_parent_that_is_quick_does_not_shorten_the_time_of_signatures() {
    let mut story = Story::signed(1);
    let ttl = Some(KEY_TTL * 2);
    story.dns(D::RecordAdded { name: zone(), ttl, data: pangolin_core::record::RecordData::NullMx });
    story.start(2);
    let begun = story.now;
    assert!(story.ask([true, true], Some(KeptKey::Next)).is_some());
    story.now = begun + HOUR;
    assert!(story.ask([true, true], Some(KeptKey::Next)).is_some(), "a record may be kept for two hours");
    story.now = begun + HOUR * 2;
    assert_eq!(story.ask([true, true], Some(KeptKey::Next)), None);
}

#[test]
fn a_rollover_is_cancelled_if_the_parent_still_has_the_key() {
    let mut story = Story::signed(1);
    story.start(2);
    let cancel = Some(KeptKey::Current);
    assert!(story.ask([false, true], cancel).expect("not yet").contains("the key that is to stay"));
    story.ask([true, false], cancel).expect("caches may have the other one");
    story.now = story.now + HOUR;
    assert_eq!(story.ask([true, false], cancel), None);
    assert_eq!(story.keys(), [1]);
    // An operator who knows better is believed.
    story.start(3);
    story.dns(D::RolloverEnded { zone: zone(), kept: KeptKey::Next });
    assert_eq!(story.keys(), [3]);
}

#[test]
fn a_zone_stays_signed_as_long_as_somebody_expects_signatures() {
    let mut story = Story::signed(1);
    assert!(story.ask([true, false], None).expect("not yet").contains("remove it there"));
    story.now = story.now + HOUR;
    assert!(story.ask([false, false], None).expect("not yet").contains("may keep"));
    story.now = story.now + Duration::from_secs(600);
    assert_eq!(story.ask([false, false], None), None);
    assert!(story.keys().is_empty());
    // Of a parent that was never seen with a record it is not known for how long that was kept.
    let mut story = Story::signed(1);
    assert!(story.ask([false, false], None).is_some());
    story.now = story.now + DAY;
    assert_eq!(story.ask([false, false], None), None);
}

#[test]
fn what_is_sealed_of_an_exchange_is_sealed_anew_as_well() {
    let mut story = Story::signed(1);
    story.start(2);
    story.certificates(C::IssuersSet(vec![issuer()]));
    story.certificates(C::AccountKeyMade { directory: DIRECTORY.to_owned(), key: sealed() });
    story.certificates(C::NextAccountKeyMade { directory: DIRECTORY.to_owned(), key: sealed() });
    let places = story.state.sealed();
    assert_eq!(places.iter().filter(|(place, _)| format!("{place:?}").starts_with("Next")).count(), 2);
}

#[test]
fn the_key_of_an_account_is_exchanged_between_orders() {
    let mut story = Story::begin();
    story.certificates(C::IssuersSet(vec![issuer()]));
    let directory = DIRECTORY.to_owned();
    story.certificates(C::AccountKeyMade { directory: directory.clone(), key: sealed() });
    let url = "https://ca.test/account".to_owned();
    story.certificates(C::AccountRegistered { directory: directory.clone(), url, caa: vec![] });
    let task = tasks(&story.state, story.now).pop().expect("an order is due");
    let Step::Plan { .. } = task.step else { panic!("{task:?}") };
    story.certificates(C::OrderPlanned {
        names: task.names,
        generation: task.generation,
        directory: directory.clone(),
        replaces: false,
    });
    let next = Sealed { content: vec![9], ..sealed() };
    story.certificates(C::NextAccountKeyMade { directory: directory.clone(), key: next.clone() });
    assert!(account_keys_due(&story.state).is_empty(), "its proofs are made with the key of now");
    let order = tasks(&story.state, story.now).pop().expect("it goes on").step;
    assert_eq!(order, Step::MakeKey);
    let id = story.state.issuance().upkeeps.values().next().expect("an upkeep").id;
    let attempt = story.state.issuance().upkeeps[&id].order.as_ref().expect("an order").attempt;
    let step = OrderStep::Failed {
        problem: Problem { kind: ProblemKind::Other, detail: "so it is".to_owned(), at: story.now },
        again_at: story.now,
        hold_until: None,
        give_up: true,
        park: false,
    };
    let failed = story.certificates(C::OrderMoved { id, generation: task.generation, attempt, step });
    assert!(matches!(failed, Outcome::Done(_)), "{failed:?}");
    story.now = story.now + DAY * 2;
    assert_eq!(tasks(&story.state, story.now), [], "the next order waits");
    assert_eq!(account_keys_due(&story.state), [DIRECTORY]);
    story.certificates(C::AccountKeyChanged { directory: directory.clone() });
    assert_eq!(story.state.issuance().accounts[&directory].key, next);
    assert!(account_keys_due(&story.state).is_empty());
}

#[test]
fn issuers_are_changed_by_name_and_only_as_they_were_seen() {
    let mut story = Story::begin();
    let named = |name: &str, profile: &str| Issuer {
        name: slug(name),
        directory: format!("https://{name}.test/"),
        profile: Some(profile.to_owned()),
        ..issuer()
    };
    let set = |issuer: Issuer, before: Option<&Issuer>, first| C::IssuerSet {
        issuer: Box::new(issuer),
        first,
        before: before.map(Issuer::digest),
    };
    let names = |story: &Story| -> Vec<String> {
        story.state.issuance().issuers.iter().map(|issuer| issuer.name.to_string()).collect()
    };
    // Two administrators add one each: both are there.
    story.certificates(set(named("one", "a"), None, false));
    story.certificates(set(named("two", "a"), None, false));
    assert_eq!(names(&story), ["one", "two"]);
    // Both change the same one: the second is told.
    let seen = named("one", "a");
    assert!(matches!(story.certificates(set(named("one", "b"), Some(&seen), false)), Outcome::Done(_)));
    let late = story.certificates(set(named("one", "c"), Some(&seen), false));
    let Outcome::Refused(refusal) = late else { panic!("{late:?}") };
    assert!(refusal.to_string().contains("issuer one was changed at the same time"), "{refusal}");
    story.certificates(set(named("two", "a"), Some(&named("two", "a")), true));
    assert_eq!(names(&story), ["two", "one"]);
    // Several accounts at one directory are told apart by what stands behind its address.
    let second = Issuer { directory: "https://one.test/#shop".to_owned(), ..named("shop", "a") };
    assert!(matches!(story.certificates(set(second, None, false)), Outcome::Done(_)));
    let clash = Issuer { directory: "https://one.test/#shop".to_owned(), ..named("other", "a") };
    assert!(matches!(story.certificates(set(clash, None, false)), Outcome::Refused(_)));
    story.certificates(C::IssuerRemoved(slug("two")));
    assert_eq!(names(&story), ["one", "shop"]);
}
