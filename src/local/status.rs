//! How the cluster stands, as one node knows it.

use std::time::Duration;

use pangolin_core::{
    ClusterState, NodeId, Observations, Timestamp, decide::common_level, record::Upgrade, traffic::PortKind,
};
use pangolin_raft::RaftStatus;
use pangolin_wire::{
    ClusterStatus, LeaderStatus, Moment, NodeStatus, QuorumStatus, RaftPart, SiteStatus, UpgradeNodeStatus,
    UpgradeStatus,
};

/// A node that has not heard from the leader for this long has no contact: longer than an election takes with the
/// slower timing.
const CONTACT_LOST: Duration = Duration::from_secs(3);

/// Whether the node has heard from the leader of late; the leader itself, from a majority. What a node knows of the
/// leader outlives the contact with it.
pub(crate) fn in_contact(raft: &RaftStatus) -> bool {
    let Some(leader) = raft.leader else { return false };
    // A single voter is its own majority, and nobody acknowledges anything to it.
    let alone = leader == raft.node && raft.voters.iter().eq([&raft.node]);
    alone || raft.leader_contact.is_some_and(|ago| ago <= CONTACT_LOST)
}

fn upgrade_status(upgrade: &Upgrade) -> UpgradeStatus {
    UpgradeStatus {
        started_at: Moment(upgrade.started_at),
        cause: upgrade.cause.to_string(),
        rollback: upgrade.rollback,
        feature_level: upgrade.feature_level,
        nodes: upgrade
            .nodes
            .iter()
            .map(|(id, node)| UpgradeNodeStatus {
                node_id: *id,
                from_version: node.from_version.clone(),
                step: node.step,
                admin: node.admin,
            })
            .collect(),
    }
}

/// The ports that nodes cannot open.
pub(super) fn closed_ports(state: &ClusterState, seen: &Observations, now: Timestamp) -> Vec<String> {
    let host = |kind: &PortKind| {
        let (resource, _) = state.traffic().ports.keys().find(|(_, known)| known == kind)?;
        state.resources().get(resource).map(|resource| format!(" of {}", resource.host))
    };
    let told =
        seen.fresh(now).flat_map(|(node, report)| report.closed_ports.iter().map(move |told| (node, told)));
    told.map(|(node, (kind, reason))| {
        let name =
            state.nodes().get(&node).map_or_else(|| node.to_string(), |node| node.spec.name.to_string());
        format!("{name} does not open {kind}{}: {reason}", host(kind).unwrap_or_default())
    })
    .collect()
}

/// How the cluster stands, as one node knows it; none before the cluster is made.
pub(super) fn compose(
    state: &ClusterState,
    raft: &RaftStatus,
    seen: &Observations,
    now: Timestamp,
    remarks: Vec<String>,
) -> Option<ClusterStatus> {
    let (cluster, settings) = (state.cluster()?, state.settings()?);
    let nodes: Vec<NodeStatus> = state
        .nodes()
        .values()
        .map(|node| {
            let report = seen.fresh(now).find(|(id, _)| *id == node.id).map(|(_, report)| report);
            let part = match node.id {
                id if raft.leader == Some(id) => RaftPart::Leader,
                id if raft.voters.contains(&id) => RaftPart::Voter,
                id if raft.learners.contains(&id) => RaftPart::Learner,
                _ => RaftPart::None,
            };
            NodeStatus {
                id: node.id,
                name: node.spec.name.clone(),
                role: node.spec.role,
                raft: part,
                verdict: node.verdict,
                admin: node.admin,
                address: node.spec.peer_address,
                version: report.map_or_else(|| node.spec.version.clone(), |report| report.version.clone()),
                feature_level: report.map_or(node.spec.feature_level, |report| report.feature_level),
                started_at: report.map(|report| Moment(report.started)),
                serving: report.and_then(|report| report.serving),
                applied: report.map(|report| report.applied),
                lag: report.map(|report| raft.committed.unwrap_or(0).saturating_sub(report.applied.index)),
                seen_by: seen
                    .fresh(now)
                    .filter(|(_, report)| report.peers.get(&node.id).is_some_and(|seen| seen.alive))
                    .map(|(id, _)| id)
                    .collect(),
            }
        })
        .collect();
    let answers = |id: &NodeId| {
        *id == raft.node || nodes.iter().any(|node| node.id == *id && node.seen_by.contains(&raft.node))
    };
    let up = raft.voters.iter().filter(|id| answers(id)).count();
    Some(ClusterStatus {
        cluster_id: cluster.id,
        name: cluster.name.clone(),
        zone: settings.zone.clone(),
        control_host: settings.control_host.clone(),
        leader: raft.leader.map(|id| LeaderStatus {
            node_id: id,
            name: state.nodes().get(&id).map(|node| node.spec.name.clone()),
            term: raft.term,
            since: state
                .leadership()
                .filter(|leadership| leadership.node == id && leadership.term == raft.term)
                .map(|leadership| Moment(leadership.since)),
        }),
        quorum: QuorumStatus::new(raft.voters.len(), up),
        revision: state.revision(),
        sites: state
            .sites()
            .values()
            .map(|site| {
                let placement = state.placements().get(&site.id);
                SiteStatus {
                    site_id: site.id,
                    org_id: site.org.clone(),
                    nice_id: site.nice_id.clone(),
                    name: site.name.clone(),
                    home: placement.map(|placement| placement.home),
                    standbys: placement.map(|placement| placement.standbys.clone()).unwrap_or_default(),
                    tunnels: seen.tunnels_to(site.id, now).collect(),
                    socket: seen.fresh(now).find(|(_, r)| r.sockets.contains(&site.id)).map(|(id, _)| id),
                    local: state.traffic().local_sites.contains_key(&site.id),
                }
            })
            .collect(),
        nodes,
        feature_level: state.feature_level(),
        common_level: common_level(state, seen, now),
        upgrade: state.upgrade().map(upgrade_status),
        remarks,
        partial: None,
    })
}

#[cfg(test)]
mod tests {
    use pangolin_raft::ServerState;

    use super::*;

    fn raft(leader: Option<u64>, voters: &[u64], contact: Option<Duration>) -> RaftStatus {
        RaftStatus {
            node: NodeId(1),
            state: ServerState::Follower,
            term: 3,
            leader: leader.map(NodeId),
            last_log: None,
            committed: Some(20),
            applied: None,
            snapshot: None,
            voters: voters.iter().copied().map(NodeId).collect(),
            learners: [].into(),
            progress: [].into(),
            leader_contact: contact,
        }
    }

    #[test]
    fn a_node_is_in_contact_only_while_it_hears_from_the_leader_whatever_it_remembers() {
        let (now, late) = (Some(Duration::ZERO), Some(CONTACT_LOST + Duration::from_millis(1)));
        for (what, raft, contact) in [
            ("no leader is known", raft(None, &[1, 2, 3], now), false),
            ("a follower that hears the leader", raft(Some(2), &[1, 2, 3], now), true),
            ("a follower that was cut off", raft(Some(2), &[1, 2, 3], late), false),
            ("a follower that never heard it", raft(Some(2), &[1, 2, 3], None), false),
            ("a leader that hears a majority", raft(Some(1), &[1, 2, 3], now), true),
            ("a leader that was cut off", raft(Some(1), &[1, 2, 3], late), false),
            ("the only voter, whom nobody acknowledges", raft(Some(1), &[1], None), true),
            ("a learner cut off from the only voter", raft(Some(2), &[2], late), false),
        ] {
            assert_eq!(in_contact(&raft), contact, "{what}");
        }
    }

    #[test]
    fn before_the_cluster_is_made_there_is_no_status() {
        let (state, seen) = (ClusterState::default(), Observations::default());
        let status = compose(&state, &raft(None, &[], None), &seen, crate::clock::steady(), Vec::new());
        assert!(status.is_none());
    }
}
