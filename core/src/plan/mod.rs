//! Plans: what one node must do now, derived from the state and stamped with its revision. Never stored.

mod challenges;
mod dns;
mod edge;
mod peers;
mod tunnel;

pub use challenges::{CHALLENGE_LABEL, challenge_names};
pub use dns::{DnsPlan, PlannedSet, RecordSets, ZonePlan, served_below};
pub(crate) use dns::{Serving, addresses_of, apexes, nodes_in_order};
pub use edge::{EdgePlan, LocalSite, PlannedCertificate, PlannedPort, Route, RouteTarget};
pub use peers::{PeerPlan, PlannedPeer};
pub use tunnel::{SiteTunnel, TunnelNode, TunnelPlan, TunnelTarget};

use crate::{
    id::{NodeId, Revision},
    state::ClusterState,
};

/// What one node must do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The state that this follows from.
    pub revision: Revision,
    /// Whom the node talks to.
    pub peers: PeerPlan,
    /// What its DNS answers.
    pub dns: DnsPlan,
    /// Which tunnels end here.
    pub tunnel: TunnelPlan,
    /// What its edge serves.
    pub edge: EdgePlan,
}

/// What every node's DNS answers, given the state.
#[must_use]
pub fn dns_of(state: &ClusterState) -> DnsPlan {
    dns::plan(state)
}

/// What `node` must do, given the state. A node that the state does not know (any more) gets an empty plan.
#[must_use]
pub fn plan(state: &ClusterState, node: NodeId) -> Plan {
    Plan {
        revision: state.revision(),
        peers: peers::plan(state),
        dns: dns::plan(state),
        tunnel: tunnel::plan(state, node),
        edge: edge::plan(state, node),
    }
}
