//! What a run begins with: a cluster with nodes, sites and keys.

use std::net::Ipv4Addr;

use pangolin_core::{
    Actor, Body, CatalogChange, Cause, Fence, HostName, NodeId, Slug, Timestamp,
    command::{ClusterCreated, NodeAdmitted},
    id::{ClusterId, TokenId},
    record::{Authority, Digest, JoinToken, NodeRole, NodeSpec, Sealed, Settings, TunnelKey},
};
use pangolin_raft::Proposal;

/// The zone of the simulated cluster.
pub(crate) const ZONE: &str = "sim.example";
/// Its sites.
pub(crate) const SITES: u64 = 3;

/// The record set that stands for a key.
///
/// # Panics
/// Never: keys are labels.
#[must_use]
pub(crate) fn key_name(key: &str) -> HostName {
    format!("{key}.{ZONE}").parse().expect("a key is a label")
}

/// The host that the API of the cluster is reached by.
///
/// # Panics
/// Never.
#[must_use]
pub(crate) fn control_host() -> HostName {
    format!("control.{ZONE}").parse().expect("a host name")
}

/// What DNS answers for the node that was started as number `n`.
#[must_use]
pub(crate) fn address(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, n)
}

/// A proposal of the operator.
#[must_use]
pub(crate) fn proposal(body: Body) -> Proposal {
    let cause = Cause::new(Actor::Operator("simulator".into()), "the scene");
    Proposal { request: None, cause, fence: Fence::None, body }
}

fn sealed() -> Sealed {
    Sealed { kek: 1, wrapped_key: vec![], content: vec![] }
}

fn slug(text: &str) -> Slug {
    text.parse().expect("a short name")
}

fn spec(n: u8) -> NodeSpec {
    NodeSpec {
        name: slug(&format!("n{n}")),
        role: NodeRole::Data,
        peer_address: (address(n), 7420).into(),
        spki: Digest([n; 32]),
        public_addresses: vec![address(n).into()],
        https_port: 443,
        tunnel_endpoint: format!("{}:51820", address(n)),
        tunnel_key: TunnelKey([n; 32]),
        region: None,
        version: "1".into(),
        feature_level: pangolin_core::feature::NEWEST,
    }
}

/// Makes the cluster, with its first node.
#[must_use]
pub(crate) fn created() -> Body {
    let authority = || Authority { certificate: vec![], key: sealed() };
    Body::ClusterCreated(Box::new(ClusterCreated {
        id: ClusterId([7; 16]),
        name: slug("sim"),
        authority: authority(),
        issuer: authority(),
        settings: Settings {
            zone: ZONE.parse().expect("a zone"),
            control_host: control_host(),
            tunnel_network: "100.89.0.0/16".parse().expect("a network"),
            ttl: 30,
        },
        node: NodeId(1),
        spec: spec(1),
    }))
}

/// Lets node number `n` in: the token, and the admission that consumes it.
#[must_use]
pub(crate) fn admitted(n: u8) -> [Body; 2] {
    let id = TokenId([n; 8]);
    let token = JoinToken {
        id,
        secret: sealed(),
        role: NodeRole::Data,
        replaces: None,
        expires_at: Timestamp(u64::MAX),
        created_at: Timestamp(1),
        used: None,
    };
    let admitted = NodeAdmitted { token: id, csr: Digest([n; 32]), spec: spec(n) };
    [Body::TokenCreated(Box::new(token)), Body::NodeAdmitted(Box::new(admitted))]
}

/// The organisation and its sites.
#[must_use]
pub(crate) fn catalog() -> Vec<Body> {
    let org = slug("org");
    let sites = (1..=SITES).map(|n| CatalogChange::SiteCreated {
        id: None,
        org: slug("org"),
        nice_id: None,
        name: format!("site {n}"),
        connector_id: format!("connector{n:06}"),
        connector_secret: Digest([0; 32]),
    });
    std::iter::once(CatalogChange::OrgCreated { id: org, name: "org".into() })
        .chain(sites)
        .map(|change| Body::Catalog(Box::new(change)))
        .collect()
}
