//! A node's own certificate lives for a year. Every node that holds the keyring renews its own, long before: the
//! authority's key is in the state, so nobody has to be asked. A witness, which cannot open that key, asks a data node.

use std::time::{Duration, SystemTime};

use pangolin_core::{ClusterState, NodeId};
use pangolin_peer::{
    Peers,
    identity::{
        AuthorityKey, Keyring, NODE_CERTIFICATE_LIFETIME, expiry_of_certificate, spki_digest_of_certificate,
    },
};
use pangolin_raft::Cluster;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{keys::Keys, local::answers::NodeAnswers, seal, state_dir::StateDir};

/// How often the time that is left is looked at; also the pause after a renewal that failed.
const INTERVAL: Duration = Duration::from_secs(3600);
/// A certificate is renewed when a third of its life is left.
const RENEW_BEFORE: Duration = Duration::from_secs(NODE_CERTIFICATE_LIFETIME.as_secs() / 3);

/// Renews this node's certificate when its time comes.
pub struct Renewal {
    /// Where the certificate lies.
    pub state_dir: StateDir,
    /// Where the authority is known from.
    pub cluster: Cluster,
    /// Opens the authority's key; a witness has none.
    pub keyring: Option<Keys>,
    /// Asks data nodes.
    pub answers: NodeAnswers,
    /// Show the new certificate from then on.
    pub peers: Peers,
}

impl Renewal {
    /// Runs until told to end.
    ///
    /// # Errors
    /// None: what fails is tried again, with a warning.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), std::convert::Infallible> {
        loop {
            if let Err(reason) = self.renew_if_due().await {
                warn!(reason, "this node's certificate could not be renewed");
            }
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = tokio::time::sleep(INTERVAL) => {}
            }
        }
    }

    async fn renew_if_due(&self) -> Result<(), String> {
        let mut identity = self.state_dir.load().map_err(|error| error.to_string())?.identity;
        let now = SystemTime::now();
        if !is_due(&identity.certificate, now)? {
            return Ok(());
        }
        let csr = identity.key.csr_der().map_err(|error| error.to_string())?;
        identity.certificate = match &self.keyring {
            Some(keyring) => certify(&self.cluster.state(), &keyring.now(), identity.node, &csr, now)?,
            None => self.answers.ask_for_certificate(&csr).await?,
        };
        // On disk first: a restart must not go back to the one that ends.
        self.state_dir.replace_certificate(&identity.certificate).map_err(|error| error.to_string())?;
        self.peers.renew(&identity).map_err(|error| error.to_string())?;
        info!(node = %identity.node, "renewed this node's certificate");
        Ok(())
    }
}

fn is_due(certificate: &[u8], now: SystemTime) -> Result<bool, String> {
    let until = expiry_of_certificate(certificate).map_err(|error| error.to_string())?;
    Ok(until.duration_since(now).map_or(true, |left| left < RENEW_BEFORE))
}

/// A new certificate for a node over the key for which it was admitted.
///
/// # Errors
/// The node is no member, the signing request is for another key, or the authority's key cannot be opened.
pub fn certify(
    state: &ClusterState,
    keyring: &Keyring,
    id: NodeId,
    csr: &[u8],
    now: SystemTime,
) -> Result<Vec<u8>, String> {
    let cluster = state.cluster().ok_or("the cluster's authority is not known here yet")?;
    let node = state.nodes().get(&id).ok_or_else(|| format!("node {id} is not in the state"))?;
    let key = keyring.open(&cluster.authority.key, seal::AUTHORITY).map_err(|error| error.to_string())?;
    let authority = AuthorityKey::from_parts(cluster.authority.certificate.clone(), &key)
        .map_err(|error| error.to_string())?;
    let certificate = authority.sign_node(csr, cluster.id, id, now).map_err(|error| error.to_string())?;
    let spki = spki_digest_of_certificate(&certificate).map_err(|error| error.to_string())?;
    if spki != node.spec.spki {
        return Err(format!("the key is not the one that node {id} was admitted with"));
    }
    Ok(certificate)
}

#[cfg(test)]
mod tests {
    use pangolin_core::{
        Body, Cause, ClusterId, Command, Fence, Timestamp,
        command::{Actor, ClusterCreated},
        record::{Authority, NodeRole, NodeSpec, Settings, TunnelKey},
    };
    use pangolin_peer::identity::NodeKey;

    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn a_node_gives_itself_a_new_certificate_when_a_third_of_the_old_ones_life_is_left() {
        let keyring = Keyring::create().expect("a keyring");
        let authority = AuthorityKey::create("nodes").expect("an authority");
        let (key, cluster, node) = (NodeKey::generate().expect("a key"), ClusterId([1; 16]), NodeId(1));
        let now = SystemTime::now();
        let certificate =
            authority.sign_node(&key.csr_der().expect("a request"), cluster, node, now).expect("signed");
        assert_eq!(is_due(&certificate, now), Ok(false));
        assert_eq!(is_due(&certificate, now + 200 * DAY), Ok(false));
        assert_eq!(is_due(&certificate, now + 250 * DAY), Ok(true));
        assert_eq!(is_due(&certificate, now + 400 * DAY), Ok(true), "also when it is late");

        let sealed = Authority {
            certificate: authority.certificate().to_vec(),
            key: keyring.seal(authority.key_pkcs8(), seal::AUTHORITY).expect("sealed"),
        };
        let spec = NodeSpec {
            name: "n1".parse().expect("a name"),
            role: NodeRole::Data,
            peer_address: ([127, 0, 0, 1], 7420).into(),
            spki: key.spki_digest(),
            public_addresses: vec![],
            https_port: 443,
            tunnel_endpoint: "127.0.0.1:51820".into(),
            tunnel_key: TunnelKey([1; 32]),
            region: None,
            version: "1".into(),
            feature_level: pangolin_core::feature::NEWEST,
        };
        let settings = Settings {
            zone: "lab.example".parse().expect("a zone"),
            control_host: "control.lab.example".parse().expect("a host"),
            tunnel_network: "100.89.0.0/16".parse().expect("a network"),
            ttl: 30,
        };
        let name = "lab".parse().expect("a name");
        let created = ClusterCreated {
            id: cluster,
            name,
            authority: sealed.clone(),
            issuer: sealed,
            settings,
            node,
            spec,
        };
        let mut state = ClusterState::default();
        let cause = Cause::new(Actor::Node(node), "init");
        let body = Body::ClusterCreated(Box::new(created));
        state.apply(2, &Command { request: None, at: Timestamp(1), cause, fence: Fence::None, body });

        let later = now + 250 * DAY;
        let csr = key.csr_der().expect("a request");
        let new = certify(&state, &keyring, node, &csr, later).expect("renewed");
        assert_eq!(is_due(&new, later), Ok(false));
        let other = NodeKey::generate().expect("a key").csr_der().expect("a request");
        certify(&state, &keyring, node, &other, later).expect_err("another key is not certified");
        certify(&state, &keyring, NodeId(9), &csr, later).expect_err("nor another node");
    }
}
