//! What a node's edge serves.

use std::{collections::BTreeMap, net::Ipv4Addr};

use super::tunnel::{self, TunnelTarget};
use crate::{
    id::{CertificateId, NodeId, ResourceId, SiteId, TargetId},
    name::HostName,
    record::{Method, NodeRole, Resource, Sealed},
    state::ClusterState,
    traffic::{Balancing, PortKind, PortRules, Share},
};

/// A target as the edge knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteTarget {
    /// Id.
    pub id: TargetId,
    /// The site behind whose tunnel it lies.
    pub site: SiteId,
    /// How it is spoken to.
    pub method: Method,
    /// Where the connector listens for it inside the tunnel.
    pub address: Ipv4Addr,
    /// Port there.
    pub port: u16,
    /// Host name for the connection to the target (TLS server name of an `https` target).
    pub host: String,
}

/// Where requests for one host, or connections to one port, go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// The resource.
    pub resource: ResourceId,
    /// Enabled targets, in order of their ids.
    pub targets: Vec<RouteTarget>,
    /// How one of them is chosen.
    pub balancing: Balancing,
    /// Their shares; those not named have the usual one.
    pub shares: BTreeMap<TargetId, Share>,
}

/// An open port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedPort {
    /// The name that it belongs to: with [`PortKind::Tls`] the server name that selects it.
    pub host: HostName,
    /// Which port.
    pub kind: PortKind,
    /// Who may use it, and how much.
    pub rules: PortRules,
    /// Where connections go.
    pub route: Route,
}

/// A certificate to serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedCertificate {
    /// Id.
    pub id: CertificateId,
    /// Counts renewals: an edge swaps when it grows.
    pub generation: u64,
    /// Names it is good for.
    pub names: Vec<HostName>,
    /// Chain, leaf first, DER.
    pub chain: Vec<Vec<u8>>,
    /// PKCS #8 private key.
    pub key: Sealed,
}

/// What the edge of one node must serve.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EdgePlan {
    /// Host of the API and the connectors' control channel.
    pub control_host: Option<HostName>,
    /// Enabled resources by host; a wildcard host stands for one label.
    pub routes: BTreeMap<HostName, Route>,
    /// Certificates.
    pub certificates: Vec<PlannedCertificate>,
    /// Home and standbys of each site: the order in which nodes are tried for a relay.
    pub placements: BTreeMap<SiteId, Vec<NodeId>>,
    /// Open ports of enabled resources, by resource and port.
    pub ports: Vec<PlannedPort>,
    /// Enabled sites whose targets nodes reach by themselves.
    pub local_sites: BTreeMap<SiteId, LocalSite>,
}

/// A site whose targets nodes reach by themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalSite {
    /// The nodes that do, by id.
    pub nodes: Vec<NodeId>,
    /// Its enabled targets, by the port that stands for each in a tunnel: what a connector would be told.
    pub targets: BTreeMap<u16, TunnelTarget>,
}

pub(super) fn plan(state: &ClusterState, _node: NodeId) -> EdgePlan {
    let is_http = |method: Method| !matches!(method, Method::Tcp | Method::Udp);
    let routes = state
        .resources()
        .values()
        .filter(|resource| resource.enabled)
        .map(|resource| (resource.host.clone(), route(state, resource, is_http)))
        .collect();
    let certificates = state
        .certificates()
        .values()
        .map(|certificate| PlannedCertificate {
            id: certificate.id,
            generation: certificate.generation,
            names: certificate.names.clone(),
            chain: certificate.chain.clone(),
            key: certificate.key.clone(),
        })
        .collect();
    let placements = state
        .placements()
        .iter()
        .map(|(site, placement)| {
            (*site, std::iter::once(placement.home).chain(placement.standbys.iter().copied()).collect())
        })
        .collect();
    EdgePlan {
        control_host: state.settings().map(|settings| settings.control_host.clone()),
        routes,
        certificates,
        placements,
        ports: ports(state),
        local_sites: local_sites(state),
    }
}

fn local_sites(state: &ClusterState) -> BTreeMap<SiteId, LocalSite> {
    let data = || state.nodes().values().filter(|node| node.spec.role == NodeRole::Data).map(|node| node.id);
    let planned = state.traffic().local_sites.iter().filter_map(|(id, named)| {
        let site = state.sites().get(id).filter(|site| site.enabled)?;
        let nodes = data().filter(|node| named.is_empty() || named.contains(node)).collect();
        let targets = tunnel::targets(state, site.id).into_iter();
        let targets = targets.map(|target| (target.tunnel_port, target)).collect();
        Some((site.id, LocalSite { nodes, targets }))
    });
    planned.collect()
}

fn ports(state: &ClusterState) -> Vec<PlannedPort> {
    let planned = state.traffic().ports.iter().filter_map(|((id, kind), rules)| {
        let resource = state.resources().get(id).filter(|resource| resource.enabled)?;
        let spoken = if matches!(kind, PortKind::Udp(_)) { Method::Udp } else { Method::Tcp };
        let route = route(state, resource, |method| method == spoken);
        Some(PlannedPort { host: resource.host.clone(), kind: *kind, rules: rules.clone(), route })
    });
    planned.collect()
}

/// Where what comes in for a resource goes, among its targets that are spoken to in the right way.
fn route(state: &ClusterState, resource: &Resource, right: impl Fn(Method) -> bool) -> Route {
    let targets: Vec<RouteTarget> = state
        .targets_of(resource.id)
        .filter(|target| target.enabled && right(target.method))
        .filter_map(|target| {
            let site = state.sites().get(&target.site).filter(|site| site.enabled)?;
            Some(RouteTarget {
                id: target.id,
                site: site.id,
                method: target.method,
                address: site.address,
                port: target.tunnel_port,
                host: target.host.clone(),
            })
        })
        .collect();
    let traffic = state.traffic();
    let shares = targets.iter().filter_map(|target| Some((target.id, *traffic.shares.get(&target.id)?)));
    Route {
        resource: resource.id,
        balancing: traffic.balancing(resource.id),
        shares: shares.collect(),
        targets,
    }
}
