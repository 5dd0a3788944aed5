//! What a node's edge serves.

use std::{collections::BTreeMap, net::Ipv4Addr};

use crate::{
    id::{CertificateId, NodeId, ResourceId, SiteId, TargetId},
    name::HostName,
    record::{Method, Sealed},
    state::ClusterState,
};

/// A target as the edge knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteTarget {
    /// Id.
    pub id: TargetId,
    /// The site behind whose tunnel it lies.
    pub site: SiteId,
    /// How it is spoken to; only the HTTP methods appear here.
    pub method: Method,
    /// Where the connector listens for it inside the tunnel.
    pub address: Ipv4Addr,
    /// Port there.
    pub port: u16,
    /// Host name for the connection to the target (TLS server name of an `https` target).
    pub host: String,
}

/// Where requests for one host go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The resource.
    pub resource: ResourceId,
    /// Enabled targets, in order of their ids.
    pub targets: Vec<RouteTarget>,
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
}

pub(super) fn plan(state: &ClusterState, _node: NodeId) -> EdgePlan {
    let routes = state
        .resources()
        .values()
        .filter(|resource| resource.enabled)
        .map(|resource| {
            let targets = state
                .targets_of(resource.id)
                .filter(|target| target.enabled && !matches!(target.method, Method::Tcp | Method::Udp))
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
            (resource.host.clone(), Route { resource: resource.id, targets })
        })
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
    }
}
