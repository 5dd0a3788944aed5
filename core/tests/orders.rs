//! Certificates of public issuers: what the leader does next, what late commands change, and what DNS answers meanwhile.

#[allow(dead_code, reason = "each test file uses its own part of the made-up facts")]
mod facts;

use std::time::Duration;

use facts::{DIRECTORY, beginning, certificate, command, failed, host, issuer, order_steps, sealed, slug};
use pangolin_core::{
    Body, CatalogChange, CertificateId, ClusterState, Fence, HostName, NodeId, Outcome, Refusal, Revision,
    Timestamp,
    decide::order_cause,
    issuance::{
        CertificatesChange as C, Issuer, OrderStep, Problem, ProblemKind, Rate, Rates, StandingKind, Step,
        Upkeep, Window, again_at, may_give_up, next_wake, standing, tasks,
    },
    plan,
    record::{RecordData, RecordKind, RecordSet},
    why::{About, why},
};

/// Where the made-up orders are issued.
const NOW: Timestamp = Timestamp(1_800_000_100_000);
const DAY: Duration = Duration::from_secs(86_400);
const OTHER: &str = "https://other.test/directory";

struct Story {
    state: ClusterState,
    index: u64,
}

impl Story {
    /// A cluster whose zone is `demo.test`, with this issuer and an account there.
    fn begin(issuers: Vec<Issuer>) -> Self {
        let mut story = Self { state: ClusterState::default(), index: 0 };
        for command in beginning() {
            story.index += 1;
            story.state.apply(story.index, &command);
        }
        story.tell(C::IssuersSet(issuers));
        story.account(DIRECTORY);
        story
    }

    fn account(&mut self, directory: &str) {
        self.tell(C::AccountKeyMade { directory: directory.to_owned(), key: sealed() });
        let (directory, url) = (directory.to_owned(), format!("{directory}/account"));
        self.tell(C::AccountRegistered { directory, url, caa: vec!["ca.test".to_owned()] });
    }

    fn body(&mut self, body: Body) -> Outcome {
        self.body_at(NOW, body)
    }

    fn body_at(&mut self, at: Timestamp, body: Body) -> Outcome {
        self.index += 1;
        self.state.apply(self.index, &command(at.0, body))
    }

    fn tell(&mut self, change: C) -> Outcome {
        self.tell_at(NOW, change)
    }

    fn tell_at(&mut self, at: Timestamp, change: C) -> Outcome {
        self.body_at(at, Body::Certificates(Box::new(change)))
    }

    fn upkeep(&self) -> &Upkeep {
        self.state.issuance().upkeeps.values().next().expect("an upkeep")
    }

    /// An order that is being issued, and that its issuer keeps until then.
    fn finalizing(&mut self, expires: Timestamp) -> (CertificateId, u64, Revision) {
        let order = self.plan();
        for step in order_steps().into_iter().take(5) {
            let step = match step {
                OrderStep::Ordered { url, replaces, .. } => {
                    OrderStep::Ordered { url, expires: Some(expires), replaces }
                }
                step => step,
            };
            self.go(order, step);
        }
        order
    }

    fn step(&self) -> Option<Step> {
        self.step_at(NOW)
    }

    fn step_at(&self, now: Timestamp) -> Option<Step> {
        let mut all = tasks(&self.state, now);
        assert!(all.len() <= 1, "{all:?}");
        all.pop().map(|task| task.step)
    }

    /// Plans what is due. Gives the certificate, its generation, and the attempt.
    fn plan(&mut self) -> (CertificateId, u64, Revision) {
        let task = tasks(&self.state, NOW).pop().expect("something to do");
        let Step::Plan { directory, replaces } = task.step else { panic!("{task:?}") };
        let (names, generation) = (task.names, task.generation);
        self.tell(C::OrderPlanned { names, generation, directory, replaces });
        let upkeep = self.state.issuance().upkeeps.values().next().expect("an upkeep");
        (upkeep.id, upkeep.generation, upkeep.order.as_ref().expect("an order").attempt)
    }

    fn go(&mut self, order: (CertificateId, u64, Revision), step: OrderStep) -> Outcome {
        let (id, generation, attempt) = order;
        self.tell(C::OrderMoved { id, generation, attempt, step })
    }

    /// Takes an order through all its steps.
    fn issue(&mut self) -> CertificateId {
        let order = self.plan();
        for step in order_steps() {
            let done = self.go(order, step);
            assert!(matches!(done, Outcome::Done(_)), "{done:?}");
        }
        order.0
    }

    fn stands(&self) -> (StandingKind, String) {
        let how = standing(&self.state, &names(), NOW);
        (how.kind, how.reason)
    }

    /// What DNS answers at a name.
    fn answered(&self, at: &str, kind: RecordKind) -> Option<(u32, Vec<RecordData>)> {
        let plan = plan(&self.state, NodeId(1));
        let sets = plan.dns.zones.iter().find_map(|zone| zone.sets.get(&host(at)))?;
        sets.get(&kind).map(|set| (set.ttl, set.data.clone()))
    }
}

fn names() -> Vec<HostName> {
    vec![host("*.demo.test"), host("demo.test")]
}

fn failure(kind: ProblemKind, again: Duration, park: bool) -> OrderStep {
    let problem = Problem { kind, detail: "so it is".to_owned(), at: NOW };
    OrderStep::Failed { problem, again_at: NOW + again, hold_until: None, give_up: true, park }
}

#[test]
fn an_order_goes_from_step_to_step_and_rests_when_it_is_issued() {
    let mut story = Story::begin(vec![issuer()]);
    let order = story.plan();
    let wanted = [Step::MakeKey, Step::Place, Step::Publish, Step::Trigger, Step::Validate, Step::Finalize];
    for (wanted, step) in wanted.into_iter().zip(order_steps()) {
        assert_eq!(story.step(), Some(wanted));
        assert_eq!(story.stands().0, StandingKind::Pending);
        story.go(order, step);
    }
    assert_eq!(story.step(), None);
    let issued = &story.state.certificates()[&order.0];
    assert_eq!((issued.generation, issued.names.clone()), (1, names()));
    assert_eq!(story.stands().0, StandingKind::Valid);
    // 90 days: due when a third is left, up to 3 days earlier.
    let wake = next_wake(&story.state, NOW).expect("a renewal");
    let days = wake.since(issued.not_before).as_secs_f64() / 86_400.0;
    assert!((56.9..=60.1).contains(&days), "after {days} days");
    assert!(matches!(story.step_at(wake), Some(Step::Plan { .. })));
}

#[test]
fn without_issuers_there_is_nothing_to_do_and_without_an_account_it_comes_first() {
    let mut story = Story::begin(vec![]);
    assert_eq!(story.step(), None);
    story.tell(C::IssuersSet(vec![Issuer { directory: OTHER.to_owned(), ..issuer() }]));
    story.plan();
    assert_eq!(story.step(), Some(Step::Register { directory: OTHER.to_owned() }));
    story.account(OTHER);
    assert_eq!(story.step(), Some(Step::MakeKey));
}

#[test]
fn what_comes_late_or_out_of_turn_changes_nothing() {
    let mut story = Story::begin(vec![issuer()]);
    let (id, generation, attempt) = story.plan();
    let [key, placed, ..] = &order_steps()[..] else { panic!("steps") };
    let refused = |done: Outcome| match done {
        Outcome::Refused(refusal) => refusal,
        Outcome::Done(_) => panic!("done"),
    };
    let other = Revision { index: attempt.index - 1, ..attempt };
    let late = refused(story.go((id, generation, other), key.clone()));
    assert!(matches!(late, Refusal::StaleRevision { current, .. } if current == attempt), "{late:?}");
    refused(story.go((id, generation + 1, attempt), key.clone()));
    let early = refused(story.go((id, generation, attempt), placed.clone()));
    assert!(early.to_string().contains("planned"), "{early}");
    story.go((id, generation, attempt), key.clone());
    refused(story.go((id, generation, attempt), key.clone()));
    // A second plan, as two leaders might make it.
    let again =
        C::OrderPlanned { names: names(), generation, directory: DIRECTORY.to_owned(), replaces: false };
    refused(story.tell(again));
    // A deposed leader.
    let step = C::OrderMoved { id, generation, attempt, step: placed.clone() };
    let mut command = command(NOW.0, Body::Certificates(Box::new(step)));
    command.fence = Fence::Term(0);
    let deposed = refused(story.state.apply(story.index + 1, &command));
    assert!(matches!(deposed, Refusal::StaleTerm { .. }), "{deposed:?}");
}

#[test]
fn a_generation_is_skipped_only_when_its_order_was_finalised() {
    // Steps that were done before it failed; the next generation, and how many orders were given up.
    for (done, generation, surplus) in [(1, 1, 0), (2, 1, 1), (4, 1, 1), (5, 2, 1)] {
        let mut story = Story::begin(vec![issuer()]);
        let order = story.plan();
        for step in order_steps().into_iter().take(done) {
            story.go(order, step);
        }
        story.go(order, failure(ProblemKind::Unproved, Duration::from_secs(60), false));
        let upkeep = &story.state.issuance().upkeeps[&order.0];
        assert_eq!((upkeep.generation, upkeep.surplus), (generation, surplus), "after {done} steps");
        assert_eq!(story.step(), None, "it waits");
        assert_eq!(next_wake(&story.state, NOW), Some(NOW + Duration::from_secs(60)));
        let (kind, reason) = story.stands();
        assert!(kind == StandingKind::Waiting && reason.contains("so it is"), "{reason}");
        assert!(matches!(story.step_at(NOW + Duration::from_secs(60)), Some(Step::Plan { .. })));
    }
}

#[test]
fn what_is_parked_waits_for_an_operator() {
    let mut story = Story::begin(vec![issuer()]);
    let order = story.plan();
    story.go(order, failure(ProblemKind::Refused, DAY, true));
    assert_eq!((story.step_at(NOW + 30 * DAY), story.stands().0), (None, StandingKind::Parked));
    let mut asked = Story { state: story.state.clone(), index: story.index };
    asked.tell(C::RenewalWanted(order.0));
    assert!(matches!(asked.step(), Some(Step::Plan { .. })));
    story.tell(C::IssuersSet(vec![issuer()]));
    assert!(matches!(story.step(), Some(Step::Plan { .. })));
}

#[test]
fn an_issuer_is_left_alone_and_another_one_falls_in() {
    let other = Issuer { name: slug("other"), directory: OTHER.to_owned(), ..issuer() };
    let chosen = |story: &Story, now| match story.step_at(now) {
        Some(Step::Plan { directory, .. }) => Some(directory),
        _ => None,
    };
    // It failed: the same one again, then the other one.
    let mut story = Story::begin(vec![issuer(), other.clone()]);
    for directory in [DIRECTORY, DIRECTORY, OTHER, OTHER, DIRECTORY] {
        assert_eq!(chosen(&story, NOW).as_deref(), Some(directory));
        let order = story.plan();
        story.go(order, failure(ProblemKind::Unproved, Duration::ZERO, false));
    }
    // It wants to be left alone.
    let mut story = Story::begin(vec![issuer(), other]);
    let order = story.plan();
    story.go(order, failed());
    assert_eq!(chosen(&story, NOW).as_deref(), Some(OTHER));
    let mut story = Story::begin(vec![issuer()]);
    let order = story.plan();
    story.go(order, failed());
    assert_eq!(chosen(&story, NOW), None);
    assert!(story.stands().1.contains("left alone until"), "{}", story.stands().1);
    assert_eq!(chosen(&story, Timestamp(1_900_000_000_001)).as_deref(), Some(DIRECTORY));
}

#[test]
fn an_order_moves_to_another_issuer_at_once_unless_it_may_be_issued() {
    let other = Issuer { name: slug("other"), directory: OTHER.to_owned(), ..issuer() };
    let at_other = Step::Plan { directory: OTHER.to_owned(), replaces: false };
    // A failure that ends no order: its issuer is away, or wants to be left alone.
    let away = |again: Duration, hold_until: Option<Timestamp>| {
        let problem =
            Problem { kind: ProblemKind::Unreachable, detail: "nobody answers".to_owned(), at: NOW };
        OrderStep::Failed { problem, again_at: NOW + again, hold_until, give_up: false, park: false }
    };
    // steps taken before, failures, whether it moves then, orders that are surplus
    let cases = [
        (0, 1, false, 0),
        (0, 2, true, 0),
        (1, 2, true, 0),
        (2, 2, true, 1),
        (4, 2, true, 1),
        (5, 2, false, 0),
    ];
    for (steps, failures, moves, surplus) in cases {
        let mut story = Story::begin(vec![issuer(), other.clone()]);
        let order = story.plan();
        for step in order_steps().into_iter().take(steps) {
            story.go(order, step);
        }
        for _ in 0..failures {
            story.go(order, away(DAY, None));
        }
        let at = (steps, failures);
        assert_eq!(story.step(), moves.then(|| at_other.clone()), "{at:?}");
        if !moves {
            assert_eq!(next_wake(&story.state, NOW), Some(NOW + DAY), "{at:?}: it waits");
            continue;
        }
        let (_, generation, attempt) = story.plan();
        assert_eq!((generation, attempt > order.2), (1, true), "{at:?}: the same generation");
        assert_eq!(story.state.issuance().upkeeps[&order.0].surplus, surplus, "{at:?}");
        let late = story.go(order, away(DAY, None));
        assert!(matches!(late, Outcome::Refused(Refusal::StaleRevision { .. })), "{late:?}");
        assert_eq!(story.step(), Some(Step::Register { directory: OTHER.to_owned() }), "{at:?}: at once");
    }
    // One that wants to be left alone is passed over after its first refusal.
    let mut story = Story::begin(vec![issuer(), other.clone()]);
    let order = story.plan();
    story.go(order, away(DAY, Some(NOW + DAY)));
    assert_eq!(story.step(), Some(at_other));
    let cause = order_cause(&story.state, &names(), OTHER, NodeId(1));
    assert!(cause.reason.ends_with("; other stands in for ca: nobody answers"), "{}", cause.reason);
    let first = order_cause(&story.state, &names(), DIRECTORY, NodeId(1));
    assert!(!first.reason.contains("stands in"), "{}", first.reason);
    // A certificate that is good for long waits for its own issuer.
    let mut story = Story::begin(vec![issuer()]);
    let id = story.issue();
    story.tell(C::RenewalWanted(id));
    let order = story.plan();
    story.tell(C::IssuersSet(vec![issuer(), other]));
    story.go(order, away(DAY, Some(NOW + DAY)));
    assert_eq!(story.step(), None);
}

/// A failure of an issuer that does not answer.
fn away(again: Timestamp, give_up: bool) -> OrderStep {
    let problem = Problem { kind: ProblemKind::Unreachable, detail: "nobody answers".to_owned(), at: NOW };
    OrderStep::Failed { problem, again_at: again, hold_until: None, give_up, park: false }
}

#[test]
fn what_is_being_issued_is_given_up_when_nothing_more_is_to_be_hoped_for() {
    let other = || Issuer { name: slug("other"), directory: OTHER.to_owned(), ..issuer() };
    let (later, before) = (NOW + DAY, Timestamp(NOW.0 - 1));
    // issuers, when the order expires, failures before, the issuers then; whether one more failure ends it
    let cases = [
        (vec![issuer()], later, 40, vec![issuer()], false),
        (vec![issuer()], before, 0, vec![issuer()], true),
        (vec![issuer(), other()], later, 0, vec![issuer(), other()], false),
        (vec![issuer(), other()], later, 1, vec![issuer(), other()], true),
        (vec![issuer(), other()], later, 4, vec![issuer(), other()], false),
        (vec![issuer(), other()], later, 0, vec![other()], true),
    ];
    for (number, (issuers, expires, failures, then, ends)) in cases.into_iter().enumerate() {
        let mut story = Story::begin(issuers);
        let order = story.finalizing(expires);
        for _ in 0..failures {
            story.go(order, away(NOW, false));
        }
        story.tell(C::IssuersSet(then));
        let upkeep = story.upkeep().clone();
        assert_eq!(may_give_up(&story.state, &upkeep, NOW), ends, "case {number}");
        let again = again_at(&story.state, &upkeep, NOW);
        assert!(again <= NOW + Duration::from_secs(3600), "case {number}: at {again}");
        story.go(order, away(NOW, ends));
        // Whatever it comes to, this generation is not finalised twice.
        let upkeep = story.upkeep();
        assert_eq!((upkeep.generation, upkeep.order.is_none()), (1 + u64::from(ends), ends), "case {number}");
        assert_eq!(matches!(story.step(), Some(Step::Plan { .. })), ends, "case {number}");
    }
    // A certificate that is good for long waits for its own issuer, and an order before that has no reason to.
    let mut story = Story::begin(vec![issuer(), other()]);
    let id = story.issue();
    story.tell(C::RenewalWanted(id));
    let order = story.finalizing(later);
    for _ in 0..5 {
        story.go(order, away(NOW, false));
        assert!(!may_give_up(&story.state, story.upkeep(), NOW));
    }
    let mut story = Story::begin(vec![issuer()]);
    story.plan();
    assert!(!may_give_up(&story.state, story.upkeep(), NOW));
}

#[test]
fn every_issuer_is_asked_again_as_if_it_were_the_only_one() {
    let other = Issuer { name: slug("other"), directory: OTHER.to_owned(), ..issuer() };
    let minutes = |story: &Story, failures| {
        let upkeep = Upkeep { failures, ..story.upkeep().clone() };
        again_at(&story.state, &upkeep, NOW).since(NOW).as_secs_f64() / 60.0
    };
    // failures before, minutes until the next attempt, give or take a fifth
    let alone = [(0, 1.0), (1, 10.0), (2, 100.0), (3, 1440.0), (40, 1440.0)];
    let in_turns = [(0, 1.0), (1, 0.0), (2, 1.0), (3, 10.0), (4, 100.0), (5, 0.0), (6, 100.0), (7, 1440.0)];
    for (issuers, cases) in [(vec![issuer()], &alone[..]), (vec![issuer(), other], &in_turns[..])] {
        let mut story = Story::begin(issuers);
        story.plan();
        for (failures, wanted) in cases {
            let got = minutes(&story, *failures);
            assert!((wanted * 0.79..=wanted * 1.21).contains(&got), "after {failures}: {got}");
        }
    }
}

#[test]
fn new_issuers_have_their_turn_at_once() {
    let other = Issuer { name: slug("other"), directory: OTHER.to_owned(), ..issuer() };
    // How far the order was; it goes on elsewhere unless it may be issued, and is tried at once in any case.
    for steps in [0, 2, 5] {
        let mut story = Story::begin(vec![issuer()]);
        let order = story.plan();
        for step in order_steps().into_iter().take(steps) {
            story.go(order, step);
        }
        for _ in 0..4 {
            story.go(order, away(NOW + DAY, false));
        }
        assert_eq!(story.step(), None, "{steps}: it waits");
        let later = NOW + Duration::from_secs(1);
        story.tell_at(later, C::IssuersSet(vec![other.clone()]));
        assert_eq!(story.step_at(later), Some(Step::StartAfresh), "{steps}");
        story.tell_at(later, C::RenewalWanted(order.0));
        assert_eq!(story.upkeep().failures, 0);
        let next = match steps {
            5 => Step::Finalize,
            _ => Step::Plan { directory: OTHER.to_owned(), replaces: false },
        };
        assert_eq!(story.step_at(later), Some(next), "{steps}");
        assert_eq!(may_give_up(&story.state, story.upkeep(), later), steps == 5);
        // What fails after the change waits.
        story.tell_at(
            later + DAY,
            C::OrderMoved {
                id: order.0,
                generation: order.1,
                attempt: order.2,
                step: away(NOW + 2 * DAY, false),
            },
        );
        assert_ne!(story.step_at(later + DAY), Some(Step::StartAfresh), "{steps}");
    }
    // A certificate for which nothing is to be done is left alone.
    let mut story = Story::begin(vec![issuer()]);
    story.issue();
    story.tell_at(NOW + DAY, C::IssuersSet(vec![other]));
    assert_eq!(story.step_at(NOW + DAY), None);
}

#[test]
fn no_more_is_asked_of_an_issuer_than_it_gives() {
    let rates = Rates { orders: Some(Rate { burst: 2, every_ms: 60_000 }), ..Rates::default() };
    let mut story = Story::begin(vec![Issuer { rates, ..issuer() }]);
    for _ in 0..2 {
        let order = story.plan();
        story.go(order, failure(ProblemKind::Unproved, Duration::ZERO, false));
    }
    assert_eq!(story.step(), None);
    assert!(story.stands().1.contains("more would be refused"), "{}", story.stands().1);
    assert_eq!(next_wake(&story.state, NOW), Some(NOW + Duration::from_secs(60)));
}

#[test]
fn a_renewal_follows_the_issuers_window_an_operators_wish_and_is_named_as_such() {
    let mut story = Story::begin(vec![issuer()]);
    let id = story.issue();
    let window = |from: Timestamp| Window { start: from, end: from + DAY, selected: from, explanation: None };
    story.tell(C::WindowLearned { id, generation: 1, window: Some(window(NOW + 5 * DAY)) });
    assert_eq!(next_wake(&story.state, NOW), Some(NOW + 5 * DAY));
    story.tell(C::WindowLearned { id, generation: 1, window: Some(window(Timestamp(0))) });
    assert!(matches!(story.step(), Some(Step::Plan { replaces: true, .. })), "a window in the past: now");
    story.tell(C::WindowLearned { id, generation: 1, window: Some(window(NOW + 80 * DAY)) });
    assert!(next_wake(&story.state, NOW).is_some_and(|at| at < NOW + 61 * DAY), "not later than a third");
    story.tell(C::WindowLearned { id, generation: 1, window: None });
    story.tell(C::RenewalWanted(id));
    assert!(matches!(story.step(), Some(Step::Plan { replaces: false, .. })));
    story.issue();
    assert_eq!((story.step(), story.state.certificates()[&id].generation), (None, 2));
    let stale = story.tell(C::WindowLearned { id, generation: 1, window: None });
    assert!(matches!(stale, Outcome::Refused(Refusal::NotFound(_))));
}

#[test]
fn a_revoked_certificate_is_replaced_and_an_imported_one_is_left_to_its_owner() {
    let mut story = Story::begin(vec![issuer()]);
    let id = story.issue();
    story.tell(C::RevocationWanted { id, reason: 1 });
    assert_eq!(story.state.issuance().revocations.len(), 1);
    assert!(matches!(story.step(), Some(Step::Plan { .. })));
    story.tell(C::Revoked { id, generation: 1 });
    assert!(story.state.issuance().revocations.is_empty());

    let Body::CertificateIssued(own) = certificate(names()) else { panic!("a certificate") };
    let own =
        pangolin_core::command::CertificateIssued { not_after: NOW + 90 * DAY, not_before: NOW, ..*own };
    let foreign = pangolin_core::command::CertificateIssued { names: vec![host("x.org")], ..own.clone() };
    assert!(matches!(story.tell(C::Imported(foreign)), Outcome::Refused(Refusal::Invalid(_))));
    story.tell(C::Imported(own));
    assert_eq!((story.step(), story.stands().0), (None, StandingKind::Valid));
    assert!(matches!(story.tell(C::RenewalWanted(id)), Outcome::Refused(Refusal::Invalid(_))));
    assert!(
        matches!(story.step_at(NOW + 91 * DAY), Some(Step::Plan { .. })),
        "the cluster falls in when it has ended"
    );
}

#[test]
fn dns_answers_the_proofs_as_long_as_they_are_needed_and_says_who_may_issue() {
    let mut story = Story::begin(vec![issuer()]);
    let caa = story.answered("demo.test", RecordKind::Caa).expect("CAA");
    let text = format!("ca.test; accounturi={DIRECTORY}/account; validationmethods=dns-01");
    assert_eq!(caa.1, [RecordData::Caa(0, "issue".to_owned(), text.into_bytes())]);
    let order = story.plan();
    let proofs = |story: &Story| story.answered("_acme-challenge.demo.test", RecordKind::Txt);
    for (step, shown) in order_steps().into_iter().zip([false, false, true, true, true, false]) {
        story.go(order, step);
        assert_eq!(proofs(&story).is_some(), shown);
        if let Some((ttl, data)) = proofs(&story) {
            assert_eq!((ttl, data.len()), (0, 2));
        }
    }
    // What the operator says of CAA counts alone.
    let own = vec![RecordData::Caa(0, "issue".to_owned(), b"own.test".to_vec())];
    let set = Some(RecordSet { ttl: 60, data: own.clone() });
    let change = CatalogChange::RecordSetSet { name: host("demo.test"), kind: RecordKind::Caa, set };
    story.body(Body::Catalog(Box::new(change)));
    assert_eq!(story.answered("demo.test", RecordKind::Caa), Some((60, own)));
}

#[test]
fn names_outside_of_the_zone_are_proved_at_an_alias_in_it_as_well() {
    let mut story = Story::begin(vec![issuer()]);
    story.issue();
    let change = CatalogChange::DomainCreated { id: None, org: slug("acme"), name: host("example.org") };
    story.body(Body::Catalog(Box::new(change)));
    let task = tasks(&story.state, NOW).pop().expect("a new certificate");
    assert_eq!(task.names, [host("*.example.org"), host("example.org")]);
    let Step::Plan { directory, replaces } = task.step else { panic!("a plan") };
    story.tell(C::OrderPlanned { names: task.names, generation: 1, directory, replaces });
    let upkeep =
        story.state.issuance().upkeeps.values().find(|upkeep| upkeep.order.is_some()).expect("an order");
    let order = (upkeep.id, 1, upkeep.order.as_ref().expect("an order").attempt);
    for step in order_steps().into_iter().take(3) {
        let step = match step {
            OrderStep::TxtPublished(mut challenges) => {
                challenges.iter_mut().for_each(|challenge| challenge.name = host("example.org"));
                OrderStep::TxtPublished(challenges)
            }
            other => other,
        };
        story.go(order, step);
    }
    for at in ["_acme-challenge.example.org", "_acme-challenge.example.org.demo.test"] {
        assert!(story.answered(at, RecordKind::Txt).is_some(), "{at}");
    }
}

#[test]
fn why_tells_how_far_an_order_is_and_what_went_wrong() {
    let mut story = Story::begin(vec![issuer()]);
    let order = story.plan();
    let ask =
        |story: &Story| why(&story.state, &About::Certificate(host("demo.test"))).expect("known").to_string();
    assert!(ask(&story).contains("an order at ca is planned since"), "{}", ask(&story));
    story.go(order, failure(ProblemKind::Unproved, DAY, false));
    let text = ask(&story);
    assert!(text.contains("the last attempt failed: so it is; the next one is at"), "{text}");
    story.body(Body::LeaderStarted { term: 2, node: NodeId(1) });
    story.tell(C::RenewalWanted(order.0));
    story.issue();
    let text = ask(&story);
    assert!(
        text.contains("of the issuer ca, generation 1") && text.contains("is issued, generation 1"),
        "{text}"
    );
}
