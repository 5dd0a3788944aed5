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

/// The version that a node has to run after its turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Another one than it came from.
    OtherThan(String),
    /// This one: that of a node which has been upgraded, or the one that the node came from. With the reason.
    Exactly(String, String),
}

/// What a node has to run after its turn in the upgrade that is open.
pub(super) fn wanted(status: &ClusterStatus, id: NodeId) -> Option<Wanted> {
    let upgrade = status.upgrade.as_ref()?;
    let turn = upgrade.nodes.iter().find(|node| node.node_id == id)?;
    if upgrade.rollback {
        return Some(Wanted::Exactly(turn.from_version.clone(), "it came from".to_owned()));
    }
    let done =
        |id: NodeId| upgrade.nodes.iter().any(|node| node.node_id == id && node.step == UpgradeStep::Done);
    let example = status.nodes.iter().find(|node| done(node.id) && node.version != turn.from_version);
    Some(match example {
        Some(node) => Wanted::Exactly(node.version.clone(), format!("node {} was brought to", node.name)),
        None => Wanted::OtherThan(turn.from_version.clone()),
    })
}

/// Whether a node is back after its turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Gate {
    /// It is: the next one may go.
    Open,
    /// Not yet, for this reason.
    Waiting(String),
    /// It is back, but waiting will not make it what it should be.
    Wrong(String),
}

/// The health gate: the node was restarted, runs the wanted version, is reached by the others, votes as before, has caught
/// up, and serves.
pub(super) fn gate(status: &ClusterStatus, before: &NodeStatus, wanted: Option<&Wanted>) -> Gate {
    let wait = |why: &str| Gate::Waiting(why.to_owned());
    let Some(node) = status.nodes.iter().find(|node| node.id == before.id) else {
        return Gate::Wrong("it is no longer in the cluster".to_owned());
    };
    if node.started_at.is_none() {
        return wait("it does not report");
    }
    if node.started_at == before.started_at {
        return wait("it was not restarted");
    }
    // Time of start and version are of one report.
    let version = &node.version;
    match wanted {
        Some(Wanted::OtherThan(from)) if version == from => {
            return Gate::Wrong(format!(
                "it was restarted, but still runs version {version}: the command of --replace has not replaced its \
                 program"
            ));
        }
        Some(Wanted::Exactly(exactly, why)) if version != exactly => {
            return Gate::Wrong(format!(
                "it was restarted and runs version {version}, not {exactly}, which {why}: what the command of --replace \
                 has installed is not what it should be"
            ));
        }
        _ => {}
    }
    if let Some(problem) = unwell(node) {
        return Gate::Waiting(format!("it {problem}"));
    }
    let votes = |node: &NodeStatus| matches!(node.raft, RaftPart::Leader | RaftPart::Voter);
    if votes(before) && !votes(node) {
        return wait("it does not vote yet");
    }
    // A version that does not say is believed.
    if node.serving == Some(false) {
        return wait("it does not let clients in yet");
    }
    Gate::Open
}

/// The sites that had a live tunnel to a node and do not have it back: neither there, nor as many as before elsewhere.
pub(super) fn missing_tunnels(before: &ClusterStatus, now: &ClusterStatus, id: NodeId) -> Vec<String> {
    let had = before.sites.iter().filter(|site| site.tunnels.contains(&id));
    let missing = had.filter_map(|had| {
        // One that is gone needs none.
        let has = now.sites.iter().find(|site| site.site_id == had.site_id)?;
        let back = has.tunnels.contains(&id) || has.tunnels.len() >= had.tunnels.len();
        (!back).then(|| format!("{}/{}", has.org_id, has.nice_id))
    });
    missing.collect()
}

/// A node's name, for people.
pub(super) fn name(status: &ClusterStatus, id: NodeId) -> String {
    let node = status.nodes.iter().find(|node| node.id == id);
    node.map_or_else(|| format!("id {id}"), |node| node.name.to_string())
}

#[cfg(test)]
mod tests {
    use pangolin_core::{FeatureLevel, Revision, SiteId, Timestamp, record::AdminState, record::NodeRole};
    use pangolin_wire::{LeaderStatus, Moment, QuorumStatus, SiteStatus, UpgradeNodeStatus, UpgradeStatus};

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
            started_at: Some(Moment(Timestamp(1))),
            serving: Some(true),
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
    fn what_a_node_has_to_run_follows_from_where_it_came_from_and_what_others_were_brought_to() {
        use UpgradeStep::{Done, UnderWay, Waiting};
        assert_eq!(wanted(&status(&[]), NodeId(5)), None);
        let first = status(&[(1, Waiting), (5, UnderWay), (9, Waiting)]);
        assert_eq!(wanted(&first, NodeId(5)), Some(Wanted::OtherThan("1.0.0".into())));
        assert_eq!(wanted(&first, NodeId(7)), None, "it joined later");
        let mut second = status(&[(1, Waiting), (5, Done), (9, UnderWay)]);
        second.nodes[1].version = "1.1.0".into();
        assert_eq!(
            wanted(&second, NodeId(9)),
            Some(Wanted::Exactly("1.1.0".into(), "node n5 was brought to".into()))
        );
        second.upgrade.as_mut().expect("open").rollback = true;
        assert_eq!(wanted(&second, NodeId(9)), Some(Wanted::Exactly("1.0.0".into(), "it came from".into())));
    }

    #[test]
    fn a_node_passes_the_gate_when_it_runs_the_wanted_version_is_well_and_serves() {
        let other = Wanted::OtherThan("1.0.0".into());
        let exactly = Wanted::Exactly("1.1.0".into(), "node n9 was brought to".into());
        let before = node(5);
        let back =
            NodeStatus { started_at: Some(Moment(Timestamp(2))), version: "1.1.0".into(), ..before.clone() };
        let open = |_: &mut NodeStatus| {};
        type Change = fn(&mut NodeStatus);
        for (change, wanted, expected) in [
            (open as Change, Some(&other), ""),
            (open, Some(&exactly), ""),
            (open, None, ""),
            (|node| node.started_at = None, Some(&other), "waits: it does not report"),
            (
                |node| node.started_at = Some(Moment(Timestamp(1))),
                Some(&other),
                "waits: it was not restarted",
            ),
            (
                |node| node.version = "1.0.0".into(),
                Some(&other),
                "wrong: it was restarted, but still runs version 1.0.0",
            ),
            (
                |node| node.version = "1.0.0".into(),
                Some(&exactly),
                "wrong: it was restarted and runs version 1.0.0, not 1.1.0",
            ),
            (
                |node| node.version = "1.2.0".into(),
                Some(&exactly),
                "wrong: it was restarted and runs version 1.2.0, not 1.1.0",
            ),
            (|node| node.version = "1.2.0".into(), Some(&other), ""),
            (|node| node.applied = None, Some(&other), "waits: it does not report"),
            (|node| node.verdict = Verdict::Down, Some(&other), "waits: it is down"),
            (|node| node.lag = Some(51), Some(&other), "waits: it is 51 log entries behind"),
            (|node| node.raft = RaftPart::Learner, Some(&other), "waits: it does not vote yet"),
            (|node| node.serving = Some(false), Some(&other), "waits: it does not let clients in yet"),
            (|node| node.serving = None, Some(&other), ""),
        ] {
            let mut now = status(&[]);
            now.nodes[1] = back.clone();
            change(&mut now.nodes[1]);
            let told = match gate(&now, &before, wanted) {
                Gate::Open => String::new(),
                Gate::Waiting(why) => format!("waits: {why}"),
                Gate::Wrong(why) => format!("wrong: {why}"),
            };
            assert!(
                told.starts_with(expected) && told.is_empty() == expected.is_empty(),
                "{told:?}, {expected:?}"
            );
        }
        let mut gone = status(&[]);
        gone.nodes.remove(1);
        assert!(matches!(gate(&gone, &before, None), Gate::Wrong(_)));
    }

    #[test]
    fn tunnels_are_back_where_they_were_or_as_many_elsewhere() {
        let site = |tunnels: &[u64]| SiteStatus {
            site_id: SiteId(3),
            org_id: "lab".parse().expect("a short name"),
            nice_id: "home".parse().expect("a short name"),
            name: "Home".into(),
            home: None,
            standbys: vec![],
            tunnels: tunnels.iter().copied().map(NodeId).collect(),
            socket: None,
            local: false,
        };
        for (before, now, missing) in [
            (&[1, 5, 9][..], Some(&[1, 9][..]), true),
            (&[1, 5, 9], Some(&[1, 5]), false),
            (&[5], Some(&[1]), false),
            (&[5], Some(&[]), true),
            (&[1, 9], Some(&[1]), false),
            (&[5], None, false),
        ] {
            let with = |tunnels: Option<&[u64]>| ClusterStatus {
                sites: tunnels.map(site).into_iter().collect(),
                ..status(&[])
            };
            let told = missing_tunnels(&with(Some(before)), &with(now), NodeId(5));
            assert_eq!(told, if missing { vec!["lab/home"] } else { vec![] }, "{before:?}, {now:?}");
        }
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
