//! Brings Raft's voters in line with the nodes of the state, one step at a time: a node that was admitted becomes a
//! learner, one that has caught up and stays so becomes a voter, one that was removed goes.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use pangolin_core::{ClusterState, NodeId};
use pangolin_raft::RaftStatus;

/// A learner this close to the end of the log has caught up.
const LAG_MAX: u64 = 50;
/// A learner that has been caught up and reached for this long is stable.
const STABLE_FOR: Duration = Duration::from_secs(2);

/// One change of the membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    AddLearner(NodeId),
    Promote(NodeId),
    Remove(NodeId),
}

/// What is remembered between looks: since when each learner is stable.
#[derive(Debug, Default)]
pub(super) struct Members {
    stable_since: BTreeMap<NodeId, Instant>,
}

impl Members {
    pub(super) fn next_step(
        &mut self,
        state: &ClusterState,
        raft: &RaftStatus,
        alive: impl Fn(NodeId) -> bool,
        now: Instant,
    ) -> Option<Step> {
        let nodes: BTreeSet<NodeId> = state.nodes().keys().copied().collect();
        if nodes.is_empty() {
            return None;
        }
        self.note_stable(raft, &alive, now);
        let known = raft.voters.union(&raft.learners);
        if let Some(gone) = known.copied().find(|node| !nodes.contains(node)) {
            return Some(Step::Remove(gone));
        }
        let admitted = nodes
            .iter()
            .copied()
            .find(|node| !raft.voters.contains(node) && !raft.learners.contains(node) && alive(*node));
        if let Some(admitted) = admitted {
            return Some(Step::AddLearner(admitted));
        }
        let stable: Vec<NodeId> = raft
            .learners
            .iter()
            .copied()
            .filter(|node| self.stable_since.get(node).is_some_and(|since| now - *since >= STABLE_FOR))
            .collect();
        promotion(raft.voters.len(), &stable).map(Step::Promote)
    }

    fn note_stable(&mut self, raft: &RaftStatus, alive: impl Fn(NodeId) -> bool, now: Instant) {
        let caught_up = |node: &NodeId| {
            raft.progress.get(node).is_some_and(|matched| matched + LAG_MAX >= raft.last_log.unwrap_or(0))
                && alive(*node)
        };
        let stable: Vec<NodeId> = raft.learners.iter().copied().filter(caught_up).collect();
        self.stable_since.retain(|node, _| stable.contains(node));
        for node in stable {
            self.stable_since.entry(node).or_insert(now);
        }
    }
}

/// The number of voters is odd: a second voter alone would make the cluster weaker, not stronger. So from an odd
/// number the step is taken only if another learner can follow at once.
fn promotion(voters: usize, stable: &[NodeId]) -> Option<NodeId> {
    let enough = if voters % 2 == 1 { 2 } else { 1 };
    (stable.len() >= enough).then(|| stable[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn voters_are_promoted_in_pairs() {
        let nodes = [NodeId(2), NodeId(3)];
        assert_eq!(promotion(1, &nodes[..1]), None);
        assert_eq!(promotion(1, &nodes), Some(NodeId(2)));
        assert_eq!(promotion(2, &nodes[1..]), Some(NodeId(3)));
        assert_eq!(promotion(3, &[NodeId(9)]), None);
    }
}
