//! How far the nodes are: how long each takes to answer a probe. Pure: the time comes in with each call.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use pangolin_core::id::NodeId;

/// Probes of which it is known when they were sent: those of 4 seconds to 16 nodes.
const ASKED_MAX: usize = 256;
/// By this part of what it takes longer a round trip counts as longer: a node is as far as its best answers say, and a
/// busy moment says little.
const LONGER_PART: u32 = 16;

/// Probes under way, and what came of earlier ones.
#[derive(Debug, Default)]
pub(super) struct RoundTrips {
    /// Sequence number of the first one in `asked`.
    first: u32,
    /// When each was sent; none = it was answered.
    asked: VecDeque<Option<Instant>>,
    measured: BTreeMap<NodeId, Duration>,
}

impl RoundTrips {
    /// A probe is sent: gives its sequence number.
    pub(super) fn ask(&mut self, now: Instant) -> u32 {
        if self.asked.len() == ASKED_MAX {
            self.asked.pop_front();
            self.first = self.first.wrapping_add(1);
        }
        self.asked.push_back(Some(now));
        #[expect(clippy::cast_possible_truncation, reason = "at most ASKED_MAX")]
        let last = self.asked.len() as u32 - 1;
        self.first.wrapping_add(last)
    }

    /// A node has answered. The answer to a probe that is not known any more, or was answered, says nothing.
    pub(super) fn answered(&mut self, node: NodeId, sequence: u32, now: Instant) {
        let at = usize::try_from(sequence.wrapping_sub(self.first)).unwrap_or(usize::MAX);
        let Some(sent) = self.asked.get_mut(at).and_then(Option::take) else { return };
        let took = now.saturating_duration_since(sent);
        let known = self.measured.entry(node).or_insert(took);
        *known = took.min(*known + took.saturating_sub(*known) / LONGER_PART);
    }

    /// Forgets a node.
    pub(super) fn remove(&mut self, node: NodeId) {
        self.measured.remove(&node);
    }

    /// The round trips measured.
    pub(super) fn measured(&self) -> BTreeMap<NodeId, Duration> {
        self.measured.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId(1);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// What is known after probes that took so many milliseconds.
    fn after(took: &[u64]) -> Option<Duration> {
        let (mut trips, mut now) = (RoundTrips::default(), Instant::now());
        for took in took {
            let sequence = trips.ask(now);
            now += ms(*took);
            trips.answered(NODE, sequence, now);
        }
        trips.measured().get(&NODE).copied()
    }

    #[test]
    fn a_node_is_as_far_as_its_best_answers_say() {
        assert_eq!(after(&[]), None);
        assert_eq!(after(&[20]), Some(ms(20)));
        assert_eq!(after(&[20, 10]), Some(ms(10)), "less is believed at once");
        assert_eq!(after(&[10, 170]), Some(ms(20)), "more by and by");
        let long = after(&[&[10][..], &[90; 100]].concat()).unwrap();
        assert!((ms(85)..=ms(90)).contains(&long), "{long:?}");
    }

    #[test]
    fn only_answers_to_probes_under_way_count() {
        let (mut trips, now) = (RoundTrips::default(), Instant::now());
        trips.answered(NODE, 0, now);
        let first = trips.ask(now);
        trips.answered(NODE, first.wrapping_add(1), now + ms(5));
        trips.answered(NODE, first.wrapping_sub(1), now + ms(5));
        assert!(trips.measured().is_empty());
        trips.answered(NODE, first, now + ms(50));
        trips.answered(NODE, first, now + ms(51));
        assert_eq!(trips.measured(), [(NODE, ms(50))].into());
        let forgotten = trips.ask(now);
        for _ in 0..ASKED_MAX {
            trips.ask(now + ms(100));
        }
        trips.answered(NODE, forgotten, now + ms(101));
        assert_eq!(trips.measured(), [(NODE, ms(50))].into());
        trips.remove(NODE);
        assert!(trips.measured().is_empty());
    }
}
