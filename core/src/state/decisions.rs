//! The decision log: what has changed and why, bounded.
//!
//! The newest decisions are all there, so that who reads along misses none. Of the older ones those are kept that
//! still explain something: a few of each topic (one side of one object), so that a busy object does not push out
//! the only decision about a quiet one, and a number of each kind of object, so that ten thousand new resources do not
//! push out why a node is down.

use std::{cmp::Reverse, sync::Arc};

use imbl::{OrdMap, OrdSet, Vector};
use serde::{Deserialize, Serialize};

use crate::{
    command::Command,
    decision::{Aspect, Change, Decision, LINKS_MAX, REASON_MAX, What, cut},
    id::Revision,
    outcome::Object,
    state::{ClusterState, changes::Changed},
};

/// The newest decisions, all kept: who follows may be away for a while at some changes a second.
pub const RECENT_MAX: usize = 1024;
/// Older decisions kept of each topic: enough to see a pattern, few enough for a node that comes and goes all day.
pub const PER_TOPIC_MAX: usize = 16;
/// Older decisions kept of each kind of object. All kinds together take some 5 MB at worst.
pub const PER_KIND_MAX: usize = 1000;

/// One side of one object; the kind of object comes first, so that a kind is a range.
type Topic = (u8, Object, Aspect);
/// How much of a kind's room a topic takes: the busiest comes last, of equally busy ones that with the oldest decision.
type Load = (u8, usize, Reverse<Revision>, Object, Aspect);

/// The decisions that are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Stored", into = "Stored")]
pub struct Decisions {
    /// The newest ones, oldest first.
    recent: Vector<Arc<Decision>>,
    /// Older ones.
    kept: OrdMap<(Topic, Revision), Arc<Decision>>,
    /// The newest one that is not kept any more.
    forgotten: Revision,
    /// Number of older decisions per topic; follows from `kept`.
    counts: OrdMap<Topic, usize>,
    /// Number of older decisions per kind; follows from `kept`.
    kinds: OrdMap<u8, usize>,
    /// The topics by how busy they are; follows from `kept`.
    loads: OrdSet<Load>,
}

/// What cannot be derived.
#[derive(Clone, Serialize, Deserialize)]
struct Stored {
    recent: Vector<Arc<Decision>>,
    kept: OrdMap<(Topic, Revision), Arc<Decision>>,
    forgotten: Revision,
}

impl From<Decisions> for Stored {
    fn from(decisions: Decisions) -> Self {
        let Decisions { recent, kept, forgotten, .. } = decisions;
        Self { recent, kept, forgotten }
    }
}

impl From<Stored> for Decisions {
    fn from(Stored { recent, kept, forgotten }: Stored) -> Self {
        let mut decisions = Self { recent, forgotten, ..Self::default() };
        for ((topic, revision), decision) in kept {
            decisions.insert(topic, revision, decision);
        }
        decisions
    }
}

/// A number for each kind of object. Stored: numbers are never given to another kind.
fn kind(object: &Object) -> u8 {
    match object {
        Object::Cluster => 0,
        Object::Node(_) => 1,
        Object::Token(_) => 2,
        Object::Org(_) => 3,
        Object::User(_) => 4,
        Object::Role(_) => 5,
        Object::ApiKey(_) => 6,
        Object::Site(_) => 7,
        Object::Domain(_) => 8,
        Object::Resource(_) => 9,
        Object::Target(_) => 10,
        Object::RecordSet(_) => 11,
        Object::Certificate(_) => 12,
        Object::Issuer(_) => 13,
        Object::ProvisioningKey(_) => 14,
    }
}

fn topic(object: &Object, aspect: Aspect) -> Topic {
    (kind(object), object.clone(), aspect)
}

impl Decisions {
    /// Number of decisions that are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.recent.len() + self.kept.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The newest decision that is not kept any more: whoever has not seen it has missed something. The very first
    /// revision if nothing was forgotten.
    #[must_use]
    pub fn forgotten(&self) -> Revision {
        self.forgotten
    }

    /// All of them, oldest first.
    #[must_use]
    pub fn all(&self) -> Vec<&Arc<Decision>> {
        let mut all: Vec<&Arc<Decision>> = self.kept.values().collect();
        all.sort_unstable_by_key(|decision| decision.revision);
        all.extend(&self.recent);
        all
    }

    /// Those behind a revision, oldest first.
    #[must_use]
    pub fn since(&self, revision: Revision) -> Vec<&Arc<Decision>> {
        if self.recent.front().is_some_and(|first| first.revision <= revision) {
            let from = match self.recent.binary_search_by_key(&revision, |decision| decision.revision) {
                Ok(at) => at + 1,
                Err(at) => at,
            };
            return self.recent.iter().skip(from).collect();
        }
        let mut all = self.all();
        all.drain(..all.partition_point(|decision| decision.revision <= revision));
        all
    }

    /// The last decision on one side of an object, where it was the matter that the decision was about or lies not
    /// far back.
    #[must_use]
    pub fn latest(&self, object: &Object, aspect: Aspect) -> Option<&Arc<Decision>> {
        let about = |change: &Change| change.subject.object == *object && change.what.aspect() == aspect;
        self.recent.iter().rev().find(|decision| decision.changes.iter().any(about)).or_else(|| {
            let topic = topic(object, aspect);
            let last = Revision { lineage: u64::MAX, index: u64::MAX };
            self.kept
                .range((topic.clone(), Revision::default())..=(topic, last))
                .next_back()
                .map(|(_, decision)| decision)
        })
    }

    /// The newest decision that has edited one of these values of an object.
    #[must_use]
    pub fn latest_edit(&self, object: &Object, fields: &[&str]) -> Option<&Arc<Decision>> {
        let edits_it = |decision: &&Arc<Decision>| {
            decision.changes.iter().any(|change| match &change.what {
                What::Edited(edits) if change.subject.object == *object => {
                    edits.iter().any(|edit| fields.contains(&edit.field.as_str()))
                }
                _ => false,
            })
        };
        self.recent.iter().rev().find(edits_it).or_else(|| {
            let topic = topic(object, Aspect::Values);
            let last = Revision { lineage: u64::MAX, index: u64::MAX };
            let kept = self.kept.range((topic.clone(), Revision::default())..=(topic, last));
            kept.rev().map(|(_, decision)| decision).find(edits_it)
        })
    }

    /// Takes note of a decision that is newer than all others.
    fn push(&mut self, decision: Decision) {
        self.recent.push_back(Arc::new(decision));
        while self.recent.len() > RECENT_MAX {
            let Some(oldest) = self.recent.pop_front() else { return };
            self.keep(oldest);
        }
    }

    /// Keeps an older decision, and drops one where there is no room for it.
    fn keep(&mut self, decision: Arc<Decision>) {
        let Some(matter) = decision.changes.first() else { return };
        let topic = topic(&matter.subject.object, matter.what.aspect());
        let kind = topic.0;
        self.insert(topic.clone(), decision.revision, decision);
        if self.counts.get(&topic).is_some_and(|count| *count > PER_TOPIC_MAX) {
            self.drop_oldest(&topic);
        } else if self.kinds.get(&kind).is_some_and(|count| *count > PER_KIND_MAX)
            && let Some(busiest) = self.busiest(kind)
        {
            self.drop_oldest(&busiest);
        }
    }

    fn busiest(&self, kind: u8) -> Option<Topic> {
        // No topic with a load has a count of zero: this lies between the kinds.
        let end: Load = (kind + 1, 0, Reverse(Revision::default()), Object::Cluster, Aspect::Existence);
        let (of_kind, _, _, object, aspect) = self.loads.range(..end).next_back()?;
        (*of_kind == kind).then(|| (kind, object.clone(), *aspect))
    }

    fn insert(&mut self, topic: Topic, revision: Revision, decision: Arc<Decision>) {
        self.change(&topic, |decisions| {
            isize::from(decisions.kept.insert((topic.clone(), revision), decision).is_none())
        });
    }

    fn drop_oldest(&mut self, topic: &Topic) {
        let Some(oldest) = self.oldest(topic) else { return };
        self.change(topic, |decisions| {
            decisions.kept.remove(&(topic.clone(), oldest));
            -1
        });
        self.forgotten = self.forgotten.max(oldest);
    }

    fn oldest(&self, topic: &Topic) -> Option<Revision> {
        let from = (topic.clone(), Revision::default());
        let ((found, revision), _) = self.kept.range(from..).next()?;
        (found == topic).then_some(*revision)
    }

    /// Makes a change to the decisions of a topic, and keeps what follows from them in line.
    fn change(&mut self, topic: &Topic, change: impl FnOnce(&mut Self) -> isize) {
        if let Some(load) = self.load(topic) {
            self.loads.remove(&load);
        }
        let by = change(self);
        for count in [self.counts.entry(topic.clone()).or_default(), self.kinds.entry(topic.0).or_default()] {
            *count = count.saturating_add_signed(by);
        }
        match self.load(topic) {
            Some(load) => {
                self.loads.insert(load);
            }
            None => {
                self.counts.remove(topic);
            }
        }
    }

    fn load(&self, topic: &Topic) -> Option<Load> {
        let count = *self.counts.get(topic)?;
        let oldest = self.oldest(topic)?;
        Some((topic.0, count, Reverse(oldest), topic.1.clone(), topic.2))
    }
}

impl ClusterState {
    /// Takes note of what a command has changed, if it has changed anything.
    pub(super) fn note_decision(&mut self, command: &Command, changed: Changed) {
        let Changed { first: changes, more } = changed;
        if changes.is_empty() {
            return;
        }
        let mut cause = command.cause.clone();
        cause.reason = cut(&cause.reason, REASON_MAX);
        cause.because.truncate(LINKS_MAX);
        self.decisions.push(Decision {
            revision: self.revision,
            at: self.time,
            term: self.leadership.map(|leadership| leadership.term),
            request: command.request,
            cause,
            changes,
            more,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        command::{Actor, Cause},
        decision::{Subject, What},
        id::{NodeId, ResourceId},
        record::Verdict,
        time::Timestamp,
    };

    fn decision(index: u64, object: Object, what: What) -> Decision {
        let subject = Subject { object, name: "x".to_owned(), org: None };
        Decision {
            revision: Revision { lineage: 1, index },
            at: Timestamp(index),
            term: Some(1),
            request: None,
            cause: Cause::new(Actor::Leader(NodeId(1)), "because"),
            changes: vec![Change { subject, what }],
            more: 0,
        }
    }

    fn node(n: u64) -> Object {
        Object::Node(NodeId(n))
    }

    #[test]
    fn a_busy_object_does_not_push_out_the_only_decision_about_a_quiet_one() {
        let mut log = Decisions::default();
        log.push(decision(1, node(1), What::Made));
        for index in 2..5000 {
            log.push(decision(index, node(2), What::Judged(Verdict::Down)));
        }
        assert_eq!(log.len(), RECENT_MAX + PER_TOPIC_MAX + 1);
        assert_eq!(log.latest(&node(1), Aspect::Existence).map(|d| d.revision.index), Some(1));
        assert_eq!(log.latest(&node(2), Aspect::Verdict).map(|d| d.revision.index), Some(4999));
        assert_eq!(log.latest(&node(2), Aspect::Admin), None);
        assert_eq!(log.forgotten().index, 4999 - (RECENT_MAX + PER_TOPIC_MAX) as u64);
    }

    #[test]
    fn many_objects_of_one_kind_do_not_push_out_another_kind_and_the_busiest_gives_way_first() {
        let mut log = Decisions::default();
        log.push(decision(1, node(1), What::Made));
        for index in 2..6 {
            log.push(decision(index, Object::Resource(ResourceId(1)), What::Edited(vec![])));
        }
        let resources = (PER_KIND_MAX + RECENT_MAX) as u64;
        for index in 6..6 + resources - 4 {
            log.push(decision(index, Object::Resource(ResourceId(index)), What::Made));
        }
        assert_eq!(log.len(), PER_KIND_MAX + RECENT_MAX + 1, "full to the brim");
        assert_eq!(log.forgotten(), Revision::default());
        log.push(decision(9000, Object::Resource(ResourceId(9000)), What::Made));
        assert_eq!(log.forgotten().index, 2, "the oldest of the busiest");
        for index in 9001..9003 {
            log.push(decision(index, Object::Resource(ResourceId(index)), What::Made));
        }
        assert_eq!(log.forgotten().index, 4);
        log.push(decision(9003, Object::Resource(ResourceId(9003)), What::Made));
        assert_eq!(log.forgotten().index, 5, "of equally busy ones the oldest");
        assert!(log.latest(&node(1), Aspect::Existence).is_some());
        assert_eq!(log.len(), PER_KIND_MAX + RECENT_MAX + 1);
    }

    #[test]
    fn who_reads_along_gets_what_is_behind_a_revision_in_order() {
        let mut log = Decisions::default();
        for index in 1..=3000 {
            log.push(decision(index, node(index % 7), What::Judged(Verdict::Up)));
        }
        for from in [0, 1, 1500, 1976, 1977, 2500, 2999, 3000, 4000] {
            let behind = log.since(Revision { lineage: 1, index: from });
            let expected: Vec<u64> =
                log.all().iter().map(|d| d.revision.index).filter(|index| *index > from).collect();
            assert_eq!(behind.iter().map(|d| d.revision.index).collect::<Vec<_>>(), expected, "{from}");
        }
        assert_eq!(log.since(Revision { lineage: 2, index: 0 }).len(), 0);
        let recent = log.since(log.forgotten());
        assert!(recent.len() >= RECENT_MAX, "behind the forgotten ones nothing is missing");
    }

    #[test]
    fn what_follows_from_the_decisions_is_the_same_after_reading_them_back() {
        let mut log = Decisions::default();
        for index in 1..=2500 {
            log.push(decision(index, node(index % 40), What::Judged(Verdict::Up)));
        }
        let bytes = crate::codec::encode(&log).expect("encoded");
        let read: Decisions = crate::codec::decode(&bytes, bytes.len()).expect("decoded");
        assert_eq!(read, log);
    }
}
