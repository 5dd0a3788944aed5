//! Whose turn it is, and what stands in the way. Pure.

use pangolin_core::{
    NodeId,
    record::{UpgradeStep, Verdict},
};
use pangolin_wire::{ClusterStatus, NodeStatus, RaftPart};

/// A node further behind than this has not caught up.
const LAG_MAX: u64 = 50;

/// The nodes that wait for their turn: first the one whose turn was interrupted, then the followers, and the leader
/// last, so that leadership moves once.
pub(super) fn turns(status: &ClusterStatus) -> Vec<NodeId> {
    let step = |id: NodeId| match &status.upgrade {
        None => Some(UpgradeStep::Waiting),
        Some(upgrade) => upgrade.nodes.iter().find(|node| node.node_id == id).map(|node| node.step),
    };
    let leads = |id: NodeId| status.leader.as_ref().is_some_and(|leader| leader.node_id == id);
    let mut turns: Vec<(bool, bool, NodeId)> = status
        .nodes
        .iter()
        .filter_map(|node| match step(node.id)? {
            UpgradeStep::Done => None,
            step => Some((step != UpgradeStep::UnderWay, leads(node.id), node.id)),
        })
        .collect();
    turns.sort_unstable();
    turns.into_iter().map(|(_, _, id)| id).collect()
}

/// Why `next` must not be taken out of service now.
pub(super) fn obstacles(status: &ClusterStatus, next: Option<NodeId>) -> Vec<String> {
    let mut obstacles = Vec::new();
    if let Some(reason) = &status.partial {
        obstacles.push(format!("this is one node's view only: {reason}"));
    }
    if status.leader.as_ref().is_none_or(|leader| leader.since.is_none()) {
        obstacles.push("no leader has taken up its duties".to_owned());
    }
    for node in status.nodes.iter().filter(|node| Some(node.id) != next) {
        if let Some(problem) = unwell(node) {
            obstacles.push(format!("node {} (id {}) {problem}", node.name, node.id));
        }
    }
    obstacles
}

/// Whether the cluster goes on taking changes while `node` restarts.
pub(super) fn has_spare(status: &ClusterStatus, node: NodeId) -> bool {
    let votes = |node: &NodeStatus| matches!(node.raft, RaftPart::Leader | RaftPart::Voter);
    let restarting = status.nodes.iter().find(|known| known.id == node);
    // A node that is down already takes nothing more away.
    let counted = restarting.is_some_and(|node| votes(node) && unwell(node).is_none());
    status.quorum.failure_tolerance >= usize::from(counted) && status.quorum.voters_up > usize::from(counted)
}

/// What is wrong with a node.
pub(super) fn unwell(node: &NodeStatus) -> Option<String> {
    if node.applied.is_none() {
        return Some("does not report".to_owned());
    }
    if node.verdict != Verdict::Up {
        return Some("is down".to_owned());
    }
    match node.lag {
        Some(lag) if lag <= LAG_MAX => None,
        Some(lag) => Some(format!("is {lag} log entries behind")),
        None => Some("does not say how far it is".to_owned()),
    }
}

/// A node's name, for people.
pub(super) fn name(status: &ClusterStatus, id: NodeId) -> String {
    let node = status.nodes.iter().find(|node| node.id == id);
    node.map_or_else(|| format!("id {id}"), |node| node.name.to_string())
}

#[cfg(test)]
mod tests {
    use pangolin_core::{FeatureLevel, Revision, Timestamp, record::AdminState, record::NodeRole};
    use pangolin_wire::{LeaderStatus, Moment, QuorumStatus, UpgradeNodeStatus, UpgradeStatus};

    use super::*;

    fn node(id: u64) -> NodeStatus {
        NodeStatus {
            id: NodeId(id),
            name: format!("n{id}").parse().expect("a short name"),
            role: NodeRole::Data,
            raft: RaftPart::Voter,
            verdict: Verdict::Up,
            admin: AdminState::Active,
            address: ([127, 0, 0, 1], 7420).into(),
            version: "1.0.0".into(),
            feature_level: FeatureLevel(1),
            started_at: None,
            applied: Some(Revision { lineage: 1, index: 9 }),
            lag: Some(0),
            seen_by: vec![],
        }
    }

    /// Three nodes, the first of which leads; `steps` as far as an upgrade is open.
    fn status(steps: &[(u64, UpgradeStep)]) -> ClusterStatus {
        let upgrade = (!steps.is_empty()).then(|| UpgradeStatus {
            started_at: Moment(Timestamp(1)),
            cause: "operator root".to_owned(),
            rollback: false,
            feature_level: FeatureLevel(1),
            nodes: steps
                .iter()
                .map(|(id, step)| UpgradeNodeStatus {
                    node_id: NodeId(*id),
                    from_version: "1.0.0".to_owned(),
                    step: *step,
                    admin: AdminState::Active,
                })
                .collect(),
        });
        let leader =
            LeaderStatus { node_id: NodeId(1), name: None, term: 3, since: Some(Moment(Timestamp(1))) };
        ClusterStatus {
            cluster_id: pangolin_core::ClusterId([7; 16]),
            name: "lab".parse().expect("a short name"),
            zone: "lab.example".parse().expect("a zone"),
            control_host: "control.lab.example".parse().expect("a host"),
            leader: Some(leader),
            quorum: QuorumStatus::new(3, 3),
            revision: Revision { lineage: 1, index: 9 },
            nodes: vec![node(1), node(5), node(9)],
            sites: vec![],
            feature_level: FeatureLevel(1),
            common_level: FeatureLevel(1),
            upgrade,
            remarks: vec![],
            partial: None,
        }
    }

    #[test]
    fn followers_come_first_the_leader_last_and_an_interrupted_turn_before_all() {
        use UpgradeStep::{Done, UnderWay, Waiting};
        let ids = |status: &ClusterStatus| turns(status).into_iter().map(|id| id.0).collect::<Vec<_>>();
        assert_eq!(ids(&status(&[])), [5, 9, 1]);
        assert_eq!(ids(&status(&[(1, Waiting), (5, Done), (9, UnderWay)])), [9, 1]);
        assert_eq!(ids(&status(&[(1, UnderWay), (5, Waiting), (9, Waiting)])), [1, 5, 9]);
        assert!(ids(&status(&[(1, Done), (5, Done), (9, Done)])).is_empty());
        assert_eq!(ids(&status(&[(1, Waiting), (5, Done)])), [1], "node 9 joined later and is new enough");
    }

    #[test]
    fn nobody_is_taken_out_while_another_one_is_unwell() {
        let well = status(&[]);
        assert_eq!(obstacles(&well, Some(NodeId(5))), Vec::<String>::new());
        assert!(has_spare(&well, NodeId(5)));
        let mut down = well.clone();
        down.nodes[2].verdict = Verdict::Down;
        assert!(obstacles(&down, Some(NodeId(5)))[0].contains("n9"));
        assert_eq!(obstacles(&down, Some(NodeId(9))), Vec::<String>::new(), "its own turn is what helps it");
        let mut behind = well.clone();
        behind.nodes[1].lag = Some(51);
        assert!(obstacles(&behind, Some(NodeId(9)))[0].contains("51 log entries"));
        let two = ClusterStatus { quorum: QuorumStatus::new(3, 2), ..well.clone() };
        assert!(!has_spare(&two, NodeId(5)));
        let alone = ClusterStatus { quorum: QuorumStatus::new(1, 1), ..well.clone() };
        assert!(!has_spare(&alone, NodeId(1)));
        let electing = ClusterStatus { leader: None, ..well };
        assert!(obstacles(&electing, None)[0].contains("no leader"));
    }
}
