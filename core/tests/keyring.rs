//! A rotation of the keys that seal, from its beginning to its end.

#[allow(dead_code, reason = "each test file uses its own part of the made-up facts")]
mod facts;

use facts::{admitted, beginning, command, sealed, spec, token};
use pangolin_core::{
    Body, ClusterState, NodeId, Outcome, Timestamp,
    keyring::{KeyringChange as C, RETIRE_AFTER, Rewrapped, Standing, standing},
    record::{Digest, NodeRole, Sealed, Verdict},
};

/// The nodes of [`beginning`]: the second one is admitted by the fourth command.
const FIRST: NodeId = NodeId(1);
const SECOND: NodeId = NodeId(4);

struct Story {
    state: ClusterState,
    index: u64,
}

impl Story {
    fn new() -> Self {
        let mut story = Self { state: ClusterState::default(), index: 0 };
        for command in beginning() {
            story.index += 1;
            story.state.apply(story.index, &command);
        }
        story
    }

    fn tell(&mut self, body: Body) -> Outcome {
        self.index += 1;
        self.state.apply(self.index, &command(self.index, body))
    }

    fn done(&mut self, change: C) {
        let outcome = self.tell(Body::Keyring(Box::new(change)));
        assert!(matches!(outcome, Outcome::Done(_)), "{outcome:?}");
    }

    fn refused(&mut self, change: C) -> String {
        match self.tell(Body::Keyring(Box::new(change))) {
            Outcome::Refused(refusal) => refusal.to_string(),
            outcome @ Outcome::Done(_) => panic!("{outcome:?}"),
        }
    }

    fn stands(&self) -> Standing {
        standing(&self.state, self.state.time())
    }

    fn later(&self) -> Timestamp {
        self.state.time() + RETIRE_AFTER
    }

    fn made(&mut self, number: u32) {
        self.done(C::Made { number, fingerprint: Digest([9; 32]) });
    }

    fn held(&mut self, number: u32) {
        for node in [FIRST, SECOND] {
            self.done(C::Held { node, number });
        }
    }

    /// As the leader does it.
    fn seal_all(&mut self, kek: u32) {
        let Standing::Sealing(places) = self.stands() else { panic!("{:?}", self.stands()) };
        let anew = |place| Rewrapped { place, sealed: Sealed { kek, ..sealed() } };
        self.done(C::Rewrapped(places.into_iter().map(anew).collect()));
    }
}

#[test]
fn a_rotation_goes_from_the_new_key_to_the_end_of_the_old_one() {
    let mut story = Story::new();
    assert_eq!(story.stands(), Standing::Settled);
    story.made(2);
    assert_eq!(story.state.keys().active_number(), 1, "nobody else can open it yet");
    assert_eq!(story.stands(), Standing::Spreading(vec![FIRST, SECOND]));
    story.done(C::Held { node: FIRST, number: 2 });
    assert_eq!(story.stands(), Standing::Spreading(vec![SECOND]));
    story.done(C::Held { node: SECOND, number: 2 });
    assert_eq!(story.stands(), Standing::Ready(2));
    story.done(C::Activated(2));
    assert!(story.refused(C::Retired(1)).contains("still sealed"));
    story.seal_all(2);
    assert!(story.state.sealed().iter().all(|(_, sealed)| sealed.kek == 2));
    assert!(matches!(story.stands(), Standing::Keeping { missing, .. } if missing.is_empty()));
    assert_eq!(standing(&story.state, story.later()), Standing::Retirable(1));
    story.done(C::Retired(1));
    assert_eq!(standing(&story.state, story.later()), Standing::Settled);
    // The next one is another number.
    assert!(story.refused(C::Made { number: 2, fingerprint: Digest([9; 32]) }).contains("3 is the next"));
    story.made(3);
}

#[test]
fn a_node_that_is_away_holds_up_the_end_and_nothing_else() {
    let mut story = Story::new();
    story.tell(Body::TokenCreated(Box::new(token(3, Timestamp(u64::MAX)))));
    story.tell(admitted(3, spec("n3", 3)));
    let third = *story.state.nodes().keys().next_back().expect("a node");
    story.tell(Body::NodeVerdict { node: third, verdict: Verdict::Down });
    story.made(2);
    story.held(2);
    assert_eq!(story.stands(), Standing::Ready(2));
    story.done(C::Activated(2));
    story.seal_all(2);
    let Standing::Keeping { missing, .. } = standing(&story.state, story.later()) else {
        panic!("it is kept")
    };
    assert_eq!(missing, [third]);
    assert!(story.refused(C::Retired(1)).contains("n3"));
    story.done(C::Held { node: third, number: 2 });
    assert_eq!(standing(&story.state, story.later()), Standing::Retirable(1));
}

#[test]
fn a_key_that_a_minority_holds_is_not_made_the_one_that_seals() {
    let mut story = Story::new();
    story.tell(Body::NodeVerdict { node: SECOND, verdict: Verdict::Down });
    story.made(2);
    story.done(C::Held { node: FIRST, number: 2 });
    assert_eq!(story.stands(), Standing::Spreading(vec![SECOND]), "one of two");
}

#[test]
fn a_key_that_was_lost_with_its_node_is_given_up_for_another_and_one_that_is_held_is_not() {
    let mut story = Story::new();
    story.made(2);
    story.made(3);
    assert!(story.refused(C::Held { node: FIRST, number: 2 }).contains("not the newest"));
    assert!(story.refused(C::Activated(3)).contains("no node"));
    story.done(C::Held { node: FIRST, number: 3 });
    assert!(story.refused(C::Made { number: 4, fingerprint: Digest([9; 32]) }).contains("under way"));
}

#[test]
fn what_was_sealed_anew_meanwhile_stays_and_another_content_is_never_taken() {
    let mut story = Story::new();
    story.made(2);
    story.held(2);
    story.done(C::Activated(2));
    let (place, known) =
        story.state.sealed().into_iter().map(|(p, s)| (p, s.clone())).next().expect("something");
    for sealed in [Sealed { kek: 2, content: vec![0], ..known.clone() }, Sealed { kek: 1, ..known.clone() }] {
        story.done(C::Rewrapped(vec![Rewrapped { place: place.clone(), sealed }]));
        assert_eq!(*story.state.sealed()[0].1, known);
    }
    story.seal_all(2);
    let wrapped_key = vec![8; 40];
    let again = Sealed { kek: 2, wrapped_key, ..known.clone() };
    story.done(C::Rewrapped(vec![Rewrapped { place, sealed: again }]));
    assert_eq!(story.state.sealed()[0].1.wrapped_key, known.wrapped_key);
}

#[test]
fn a_witness_holds_no_keys() {
    let mut story = Story::new();
    let witness =
        pangolin_core::record::JoinToken { role: NodeRole::Witness, ..token(3, Timestamp(u64::MAX)) };
    story.tell(Body::TokenCreated(Box::new(witness)));
    story.tell(admitted(3, spec("n3", 3)));
    let third = *story.state.nodes().keys().next_back().expect("a node");
    story.made(2);
    assert!(story.refused(C::Held { node: third, number: 2 }).contains("witness"));
    story.held(2);
    assert_eq!(story.stands(), Standing::Ready(2));
}
