//! Whom a node talks to.

use std::{collections::BTreeMap, net::SocketAddr};

use crate::{
    feature::FeatureLevel,
    id::{ClusterId, NodeId},
    record::Digest,
    state::ClusterState,
};

/// A node that may connect and be connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedPeer {
    /// Its short name.
    pub name: String,
    /// Where it is reached.
    pub address: SocketAddr,
    /// SHA-256 of its certificate key.
    pub spki: Digest,
}

/// The committed membership as the peer listener checks it. Contains the node itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerPlan {
    /// The cluster; none before the first state is there.
    pub cluster: Option<ClusterId>,
    /// Its lineage.
    pub lineage: u64,
    /// The feature level that the cluster is committed to: programs that do not understand it are kept out.
    pub feature_level: FeatureLevel,
    /// How far the log is known: node ids are log indices, so a node with a greater one may have joined since.
    pub known_until: u64,
    /// All nodes that have been admitted and not removed.
    pub nodes: BTreeMap<NodeId, PlannedPeer>,
}

pub(super) fn plan(state: &ClusterState) -> PeerPlan {
    PeerPlan {
        cluster: state.cluster().map(|cluster| cluster.id),
        lineage: state.revision().lineage,
        feature_level: state.feature_level(),
        known_until: state.revision().index,
        nodes: state
            .nodes()
            .values()
            .map(|node| {
                let peer = PlannedPeer {
                    name: node.spec.name.to_string(),
                    address: node.spec.peer_address,
                    spki: node.spec.spki,
                };
                (node.id, peer)
            })
            .collect(),
    }
}
