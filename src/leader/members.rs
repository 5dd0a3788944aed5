//! Raft's membership as the autopilot sees it: who is in contact with this node, and for how long each member has kept
//! up with the log. What follows from it is decided in [`pangolin_core::decide`].

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use pangolin_core::{NodeId, decide::Voting};
use pangolin_raft::RaftStatus;

/// A member this close to the end of the log has caught up.
const LAG_MAX: u64 = 50;

/// What is remembered between looks: since when each member has kept up.
#[derive(Debug, Default)]
pub(super) struct Members {
    caught_up_since: BTreeMap<NodeId, Instant>,
}

impl Members {
    /// The membership now. A member that falls behind, or is out of contact, begins anew.
    pub(super) fn look(&mut self, raft: &RaftStatus, alive: BTreeSet<NodeId>, now: Instant) -> Voting {
        let end = raft.last_log.unwrap_or(0);
        let keeps_up = |node: &NodeId| {
            *node != raft.node
                && alive.contains(node)
                && raft.progress.get(node).is_some_and(|matched| matched + LAG_MAX >= end)
        };
        let members = raft.voters.union(&raft.learners).copied();
        let caught_up: Vec<NodeId> = members.filter(keeps_up).collect();
        self.caught_up_since.retain(|node, _| caught_up.contains(node));
        let caught_up_for = caught_up
            .into_iter()
            .map(|node| (node, now - *self.caught_up_since.entry(node).or_insert(now)))
            .collect();
        Voting { voters: raft.voters.clone(), learners: raft.learners.clone(), alive, caught_up_for }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use pangolin_raft::ServerState;

    use super::*;

    const LAST: u64 = 1000;

    fn raft(learner_has: u64) -> RaftStatus {
        let nodes = |ids: &[u64]| ids.iter().copied().map(NodeId).collect();
        RaftStatus {
            node: NodeId(1),
            state: ServerState::Leader,
            term: 1,
            leader: Some(NodeId(1)),
            last_log: Some(LAST),
            committed: Some(LAST),
            applied: Some(LAST),
            snapshot: None,
            voters: nodes(&[1, 2]),
            learners: nodes(&[3]),
            progress: [(NodeId(2), LAST), (NodeId(3), learner_has)].into(),
            leader_contact: None,
        }
    }

    #[test]
    fn a_member_counts_from_when_it_had_caught_up_and_begins_anew_when_it_falls_behind_or_silent() {
        let (mut members, start) = (Members::default(), Instant::now());
        let all: BTreeSet<NodeId> = [1, 2, 3].map(NodeId).into();
        let mut at = |second: u64, learner_has, alive: &[u64]| {
            let alive = alive.iter().copied().map(NodeId).collect();
            let voting = members.look(&raft(learner_has), alive, start + Duration::from_secs(second));
            [2, 3].map(|node| voting.caught_up_for.get(&NodeId(node)).map(Duration::as_secs))
        };
        let near = LAST - LAG_MAX;
        assert_eq!(at(0, near, &[1, 2, 3]), [Some(0), Some(0)]);
        assert_eq!(at(5, LAST, &[1, 2, 3]), [Some(5), Some(5)]);
        assert_eq!(at(6, near - 1, &[1, 2, 3]), [Some(6), None], "it is behind");
        assert_eq!(at(7, LAST, &[1, 2, 3]), [Some(7), Some(0)]);
        assert_eq!(at(8, LAST, &[1, 3]), [None, Some(1)], "it is silent");
        assert_eq!(at(9, LAST, &[1, 2, 3]), [Some(0), Some(2)]);
        let voting = members.look(&raft(LAST), all.clone(), start);
        assert_eq!((voting.voters.len(), voting.learners.len(), voting.alive), (2, 1, all));
    }
}
