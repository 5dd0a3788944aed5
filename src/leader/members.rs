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
    use pangolin_core::{
        Body, Cause, ClusterId, Command, Fence, Timestamp, TokenId,
        command::{Actor, ClusterCreated, NodeAdmitted},
        record::{Authority, Digest, JoinToken, NodeRole, NodeSpec, Sealed, Settings, TunnelKey},
    };
    use pangolin_raft::ServerState;

    use super::{ClusterState, Instant, LAG_MAX, Members, NodeId, RaftStatus, STABLE_FOR, promotion};

    const LAST: u64 = 1000;

    /// A state with nodes 1 (first) and one more for each further index.
    fn state(nodes: &[u64]) -> ClusterState {
        let name = |n: u64| format!("n{n}").parse().expect("a name");
        let spec = |n: u64| NodeSpec {
            name: name(n),
            role: NodeRole::Data,
            peer_address: ([127, 0, 0, u8::try_from(n).expect("small")], 7420).into(),
            spki: Digest([u8::try_from(n).expect("small"); 32]),
            public_addresses: vec![],
            https_port: 443,
            tunnel_endpoint: "127.0.0.1:51820".into(),
            tunnel_key: TunnelKey([0; 32]),
            region: None,
            version: "1".into(),
            feature_level: pangolin_core::feature::NEWEST,
        };
        let sealed = || Sealed { kek: 1, wrapped_key: vec![], content: vec![] };
        let authority = || Authority { certificate: vec![], key: sealed() };
        let settings = Settings {
            zone: "lab.example".parse().expect("a zone"),
            control_host: "control.lab.example".parse().expect("a host"),
            tunnel_network: "100.89.0.0/16".parse().expect("a network"),
            ttl: 30,
        };
        let mut state = ClusterState::default();
        let mut apply = |index, body| {
            let cause = Cause::new(Actor::Node(NodeId(1)), "test");
            state.apply(index, &Command { request: None, at: Timestamp(1), cause, fence: Fence::None, body });
        };
        let created = ClusterCreated {
            id: ClusterId([1; 16]),
            name: "lab".parse().expect("a name"),
            authority: authority(),
            issuer: authority(),
            settings,
            node: NodeId(nodes[0]),
            spec: spec(nodes[0]),
        };
        apply(0, Body::ClusterCreated(Box::new(created)));
        for node in &nodes[1..] {
            let token = TokenId([u8::try_from(*node).expect("small"); 8]);
            let made = JoinToken {
                id: token,
                secret: sealed(),
                role: NodeRole::Data,
                expires_at: Timestamp(10),
                created_at: Timestamp(1),
                used: None,
            };
            apply(*node, Body::TokenCreated(Box::new(made)));
            let admitted = NodeAdmitted { token, csr: spec(*node).spki, spec: spec(*node) };
            apply(*node, Body::NodeAdmitted(Box::new(admitted)));
        }
        assert_eq!(state.nodes().len(), nodes.len());
        state
    }

    fn raft(voters: &[u64], learners: &[(u64, u64)]) -> RaftStatus {
        RaftStatus {
            node: NodeId(1),
            state: ServerState::Leader,
            term: 1,
            leader: Some(NodeId(1)),
            last_log: Some(LAST),
            committed: Some(LAST),
            applied: Some(LAST),
            snapshot: None,
            voters: voters.iter().copied().map(NodeId).collect(),
            learners: learners.iter().map(|(id, _)| NodeId(*id)).collect(),
            progress: learners.iter().map(|(id, matched)| (NodeId(*id), *matched)).collect(),
            leader_contact: None,
        }
    }

    #[test]
    fn one_step_at_a_time_towards_the_voters_that_are_wanted() {
        use Step::{AddLearner, Promote, Remove};
        let near = LAST - LAG_MAX;
        let cases = [
            // nodes of the state, voters, learners with their progress, suspects, the step once all is stable
            (&[1][..], raft(&[1], &[]), &[][..], None),
            (&[1, 2], raft(&[1], &[]), &[], Some(AddLearner(2))),
            (&[1, 2], raft(&[1], &[]), &[2], None),
            (&[1, 2], raft(&[1], &[(2, LAST)]), &[], None),
            (&[1, 2, 3], raft(&[1], &[(2, LAST), (3, near)]), &[], Some(Promote(2))),
            (&[1, 2, 3], raft(&[1], &[(2, LAST), (3, near - 1)]), &[], None),
            (&[1, 2, 3], raft(&[1], &[(2, LAST), (3, LAST)]), &[3], None),
            (&[1, 2, 3], raft(&[1, 2], &[(3, LAST)]), &[], Some(Promote(3))),
            (&[1, 2, 3], raft(&[1, 2, 3], &[]), &[2, 3], None),
            (&[1, 2], raft(&[1, 2, 3], &[]), &[], Some(Remove(3))),
            (&[1, 2, 4], raft(&[1, 2, 3], &[]), &[], Some(Remove(3))),
            (&[1, 2], raft(&[1, 2], &[(3, LAST)]), &[3], Some(Remove(3))),
        ];
        for (nodes, raft, suspects, wanted) in cases {
            let (state, mut members, start) = (state(nodes), Members::default(), Instant::now());
            let alive = |node: NodeId| !suspects.contains(&node.0);
            let numbered = |step: Option<super::Step>| step.map(Step::from);
            let early = numbered(members.next_step(&state, &raft, alive, start));
            assert!(!matches!(early, Some(Promote(_))), "nobody is stable at once: {raft:?}");
            let step = numbered(members.next_step(&state, &raft, alive, start + STABLE_FOR));
            assert_eq!(step, wanted, "nodes {nodes:?}, suspects {suspects:?}, {raft:?}");
        }
    }

    #[test]
    fn a_learner_that_falls_behind_begins_anew_and_an_unknown_state_changes_nothing() {
        let (state, mut members, start) = (state(&[1, 2, 3]), Members::default(), Instant::now());
        let (well, behind) = (raft(&[1, 2], &[(3, LAST)]), raft(&[1, 2], &[(3, 1)]));
        let mut at =
            |raft: &RaftStatus, after| members.next_step(&state, raft, |_| true, start + STABLE_FOR * after);
        assert_eq!(at(&well, 0), None);
        assert_eq!(at(&behind, 1), None);
        assert_eq!(at(&well, 2), None);
        assert_eq!(at(&well, 3), Some(super::Step::Promote(NodeId(3))));
        let empty = ClusterState::default();
        assert_eq!(members.next_step(&empty, &well, |_| true, start), None, "before `init` is applied");
    }

    /// [`super::Step`] with plain numbers.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Step {
        AddLearner(u64),
        Promote(u64),
        Remove(u64),
    }

    impl From<super::Step> for Step {
        fn from(step: super::Step) -> Self {
            match step {
                super::Step::AddLearner(node) => Self::AddLearner(node.0),
                super::Step::Promote(node) => Self::Promote(node.0),
                super::Step::Remove(node) => Self::Remove(node.0),
            }
        }
    }

    #[test]
    fn voters_are_promoted_in_pairs() {
        let nodes = [NodeId(2), NodeId(3)];
        assert_eq!(promotion(1, &nodes[..1]), None);
        assert_eq!(promotion(1, &nodes), Some(NodeId(2)));
        assert_eq!(promotion(2, &nodes[1..]), Some(NodeId(3)));
        assert_eq!(promotion(3, &[NodeId(9)]), None);
    }
}
