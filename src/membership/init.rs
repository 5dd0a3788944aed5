//! `init`: makes the keys and the first node of a cluster. One-shot: writes the state directory and ends; the
//! cluster comes into being when the node runs.

use std::time::SystemTime;

use ipnet::Ipv4Net;
use pangolin_core::{
    ClusterId, HostName, NodeId, Slug,
    command::ClusterCreated,
    plan::{PeerPlan, PlannedPeer},
    record::{Authority, Settings},
};
use pangolin_peer::identity::{AuthorityKey, Keyring, NodeIdentity, RecoveryKey};

use super::{MembershipError, spec_of};
use crate::{config::Config, seal, state_dir::StateDir};

/// The first node's id: the log index of the blank entry with which its first term begins.
const FIRST_NODE: NodeId = NodeId(1);
/// Addresses inside the tunnels, from the shared address space (RFC 6598), where they meet no private network.
const TUNNEL_NETWORK: &str = "100.89.0.0/16";
/// Seconds that resolvers may keep an address that follows health.
const TTL: u32 = 30;

/// What `init` is told.
#[derive(Clone, Debug)]
pub struct InitOptions {
    /// Name of the cluster.
    pub cluster: Slug,
    /// The cluster's DNS zone.
    pub zone: HostName,
    /// Where API and connectors come in; none = `control.ZONE`.
    pub control_host: Option<HostName>,
}

/// Makes the first node of a new cluster. The recovery key is given out here and nowhere else.
///
/// # Errors
/// The state directory holds a node, or cannot be written; nothing is left half made.
pub fn init(config: &Config, options: &InitOptions) -> Result<(ClusterId, RecoveryKey), MembershipError> {
    let state_dir = StateDir::new(&config.state_dir);
    state_dir.create()?;
    state_dir.need_empty()?;
    let name = |what| {
        move |error: pangolin_core::NameError| MembershipError::Name { what, reason: error.to_string() }
    };
    let control_host = match &options.control_host {
        Some(host) => host.clone(),
        None => options.zone.child("control").map_err(name("control host"))?,
    };
    let tunnel_network: Ipv4Net = TUNNEL_NETWORK
        .parse()
        .map_err(|error| MembershipError::Name { what: "tunnel network", reason: format!("{error}") })?;

    let now = SystemTime::now();
    let cluster = ClusterId(*uuid::Uuid::new_v4().as_bytes());
    let keyring = Keyring::create()?;
    let recovery = RecoveryKey::generate()?;
    let authority = AuthorityKey::create(&format!("Pangolin Cluster {} nodes", options.cluster))?;
    let issuer = AuthorityKey::create(&format!("Pangolin Cluster {} internal issuer", options.cluster))?;
    let key = state_dir.node_key()?;
    let tunnel_key = state_dir.tunnel_key()?;
    let spec = spec_of(config, key.spki_digest(), tunnel_key.public());
    let certificate = authority.sign_node(&key.csr_der()?, cluster, FIRST_NODE, now)?;

    let created = ClusterCreated {
        id: cluster,
        name: options.cluster.clone(),
        authority: Authority {
            certificate: authority.certificate().to_vec(),
            key: keyring.seal(authority.key_pkcs8(), seal::AUTHORITY)?,
        },
        issuer: Authority {
            certificate: issuer.certificate().to_vec(),
            key: keyring.seal(issuer.key_pkcs8(), seal::ISSUER)?,
        },
        settings: Settings { zone: options.zone.clone(), control_host, tunnel_network, ttl: TTL },
        node: FIRST_NODE,
        spec: spec.clone(),
    };
    let peer = PlannedPeer { name: config.name.to_string(), address: config.peer_advertise, spki: spec.spki };
    let nodes = [(FIRST_NODE, peer)].into();
    let known_until = FIRST_NODE.0;
    let peers = PeerPlan { cluster: Some(cluster), lineage: 1, known_until, nodes, ..PeerPlan::default() };
    let identity = NodeIdentity {
        cluster,
        lineage: 1,
        node: FIRST_NODE,
        authority: authority.certificate().to_vec(),
        certificate,
        key,
    };
    state_dir.store_recovery(&recovery.public())?;
    state_dir.store(&identity, &peers, Some(&keyring), Some(&created))?;
    state_dir.give_to_owner()?;
    Ok((cluster, recovery))
}
