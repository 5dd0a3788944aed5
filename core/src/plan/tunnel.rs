//! Which tunnels end at a node, and what connectors are told.

use std::{collections::BTreeMap, net::Ipv4Addr};

use ipnet::Ipv4Net;

use crate::{
    id::{Epoch, NodeId, SiteId, TargetId},
    name::Slug,
    record::{AdminState, HealthCheck, Method, Node, NodeRole, TunnelKey, Verdict},
    state::ClusterState,
};

/// A target as those know it who reach it: the connector, or the nodes of a local site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelTarget {
    /// Id; also the id of its health check.
    pub id: TargetId,
    /// How it is spoken to: [`Method::Udp`] is a datagram target, all others are TCP to the connector.
    pub method: Method,
    /// Port on the site's tunnel address.
    pub tunnel_port: u16,
    /// Host as seen from the site.
    pub host: String,
    /// Port there.
    pub port: u16,
    /// How it is checked.
    pub health_check: Option<HealthCheck>,
}

/// A site whose tunnel may end here. The WireGuard peer exists on every node, so that nothing has to be set up when
/// another node takes over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteTunnel {
    /// The site.
    pub site: SiteId,
    /// Its address inside the tunnel: the peer's only allowed source.
    pub address: Ipv4Addr,
    /// Key of the connector that last registered; none before the first did.
    pub key: Option<TunnelKey>,
    /// That connector keeps several tunnels at once.
    pub multi_homed: bool,
    /// The nodes offered to it: home first, then standbys, then the others; those that are called down come last, and
    /// behind them those that are drained: a tunnel that is up is given up once another one has taken its place. The home
    /// of a single-homed site stays first while it is placed there.
    pub offers: Vec<NodeId>,
    /// Fence number of the placement.
    pub epoch: Epoch,
    /// The control protocol's `configVersion`.
    pub config_version: u64,
    /// Enabled targets.
    pub targets: Vec<TunnelTarget>,
}

/// A node as connectors see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelNode {
    /// Short name.
    pub name: String,
    /// Where WireGuard datagrams go.
    pub endpoint: String,
    /// Its WireGuard key.
    pub key: TunnelKey,
    /// Its address inside the tunnels.
    pub address: Ipv4Addr,
    /// Where its control channel is reached by address, for connectors that know several: `host:port` of its edge.
    pub control: String,
    /// The region it is in, as it says.
    pub region: Option<Slug>,
}

/// What the tunnel layer of one node must bring about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TunnelPlan {
    /// The node's own address inside the tunnels; none = this node carries none.
    pub address: Option<Ipv4Addr>,
    /// All addresses inside the tunnels.
    pub network: Option<Ipv4Net>,
    /// Enabled sites.
    pub sites: BTreeMap<SiteId, SiteTunnel>,
    /// Nodes that carry tunnels. Being called down keeps none of them away from a connector that reaches it.
    pub nodes: BTreeMap<NodeId, TunnelNode>,
}

pub(super) fn plan(state: &ClusterState, node: NodeId) -> TunnelPlan {
    let (Some(settings), Some(me)) = (state.settings(), state.nodes().get(&node)) else {
        return TunnelPlan::default();
    };
    let carriers = carriers(state);
    let nodes: BTreeMap<NodeId, TunnelNode> = carriers
        .iter()
        .map(|node| {
            let control = node.spec.public_addresses.first().map_or_else(
                || settings.control_host.to_string(),
                |address| std::net::SocketAddr::new(*address, node.spec.https_port).to_string(),
            );
            let planned = TunnelNode {
                name: node.spec.name.to_string(),
                endpoint: node.spec.tunnel_endpoint.clone(),
                key: node.spec.tunnel_key,
                address: node.tunnel_address,
                control,
                region: node.spec.region.clone(),
            };
            (node.id, planned)
        })
        .collect();
    let sites = state
        .sites()
        .values()
        // Nobody needs a tunnel to what nodes reach by themselves.
        .filter(|site| site.enabled && !state.traffic().local_sites.contains_key(&site.id))
        .map(|site| {
            let placement = state.placements().get(&site.id);
            let connector = state.connectors().get(&site.id);
            let mut offers: Vec<NodeId> = placement
                .into_iter()
                .flat_map(|p| std::iter::once(p.home).chain(p.standbys.iter().copied()))
                .filter(|id| nodes.contains_key(id))
                .collect();
            for node in &carriers {
                if !offers.contains(&node.id) {
                    offers.push(node.id);
                }
            }
            // The only tunnel of a site may live at a node that is not called up again yet.
            let single = connector.is_some_and(|connector| !connector.multi_homed);
            let keeps = |id: &NodeId| single && placement.is_some_and(|placement| placement.home == *id);
            // A stable sort: otherwise the order stays.
            offers.sort_by_key(|id| {
                let node = state.nodes().get(id);
                (
                    node.is_none_or(|node| node.admin != AdminState::Active),
                    node.is_none_or(|node| node.verdict == Verdict::Down) && !keeps(id),
                )
            });
            let tunnel = SiteTunnel {
                site: site.id,
                address: site.address,
                key: connector.map(|c| c.tunnel_key),
                multi_homed: connector.is_some_and(|c| c.multi_homed),
                offers,
                epoch: placement.map(|p| p.epoch).unwrap_or_default(),
                config_version: site.config_version,
                targets: targets(state, site.id),
            };
            (site.id, tunnel)
        })
        .collect();
    TunnelPlan {
        address: (me.spec.role == NodeRole::Data).then_some(me.tunnel_address),
        network: Some(settings.tunnel_network),
        sites,
        nodes,
    }
}

/// The nodes where tunnels may end: all with data that stay, or all with data when none does. A drained one carries what
/// it has until its tunnels have gone elsewhere.
fn carriers(state: &ClusterState) -> Vec<&Node> {
    let data = || state.nodes().values().filter(|node| node.spec.role == NodeRole::Data);
    let staying: Vec<&Node> = data().filter(|node| node.admin != AdminState::Leaving).collect();
    if staying.is_empty() { data().collect() } else { staying }
}

/// The enabled targets of a site, as those are told who reach them.
pub(super) fn targets(state: &ClusterState, site: SiteId) -> Vec<TunnelTarget> {
    state
        .targets_at(site)
        .filter(|target| target.enabled)
        .map(|target| TunnelTarget {
            id: target.id,
            method: target.method,
            tunnel_port: target.tunnel_port,
            host: target.host.clone(),
            port: target.port,
            health_check: target.health_check.clone(),
        })
        .collect()
}
