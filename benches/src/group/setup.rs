//! What the members of a group are told at their start, and what they say of themselves: files in a directory each.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result, bail};
use pangolin_core::{
    id::{ClusterId, NodeId},
    plan::{PeerPlan, PlannedPeer},
    record::Digest,
};
use pangolin_peer::identity::{AuthorityKey, NodeIdentity, NodeKey};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// The group's id.
pub(crate) const CLUSTER: ClusterId = ClusterId([7; 16]);
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Who a member is.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) node: u64,
    authority: Vec<u8>,
    certificate: Vec<u8>,
    key: Vec<u8>,
}

/// Where a member listens.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Ready {
    pub(crate) peers: SocketAddr,
    pub(crate) clients: SocketAddr,
    pub(crate) spki: [u8; 32],
}

/// Files of one member.
#[derive(Clone, Debug)]
pub(crate) struct Files(pub(crate) PathBuf);

impl Files {
    pub(crate) fn identity(&self) -> PathBuf {
        self.0.join("identity.json")
    }
    pub(crate) fn ready(&self) -> PathBuf {
        self.0.join("ready.json")
    }
    pub(crate) fn plan(&self) -> PathBuf {
        self.0.join("plan.json")
    }
    pub(crate) fn seeded(&self) -> PathBuf {
        self.0.join("seeded.json")
    }
    pub(crate) fn store(&self) -> PathBuf {
        self.0.join("store")
    }
    pub(crate) fn log(&self) -> PathBuf {
        self.0.join("log")
    }
}

impl Identity {
    /// Makes one.
    ///
    /// # Errors
    /// Keys cannot be made.
    pub(crate) fn create(authority: &AuthorityKey, node: u64) -> Result<Self> {
        let key = NodeKey::generate()?;
        let certificate = authority.sign_node(&key.csr_der()?, CLUSTER, NodeId(node), SystemTime::now())?;
        let authority = authority.certificate().to_vec();
        Ok(Self { node, authority, certificate, key: key.to_pkcs8().to_vec() })
    }

    /// As connections between nodes want it.
    ///
    /// # Errors
    /// The key is none.
    pub(crate) fn node_identity(self) -> Result<NodeIdentity> {
        Ok(NodeIdentity {
            cluster: CLUSTER,
            lineage: 1,
            node: NodeId(self.node),
            authority: self.authority,
            certificate: self.certificate,
            key: NodeKey::from_pkcs8(&self.key)?,
        })
    }
}

/// Where everyone is.
pub(crate) fn peer_plan(members: &[Ready]) -> PeerPlan {
    let planned = |(number, ready): (u64, &Ready)| {
        let peer = PlannedPeer { name: format!("n{number}"), address: ready.peers, spki: Digest(ready.spki) };
        (NodeId(number), peer)
    };
    let nodes = (1..).zip(members).map(planned).collect();
    PeerPlan { cluster: Some(CLUSTER), lineage: 1, known_until: u64::MAX, nodes, ..PeerPlan::default() }
}

/// Writes a file that is there as a whole or not at all.
///
/// # Errors
/// It cannot be written.
pub(crate) fn store(path: &Path, content: &impl Serialize) -> Result<()> {
    let draft = path.with_extension("draft");
    std::fs::write(&draft, serde_json::to_vec(content)?)
        .with_context(|| format!("cannot write {}", draft.display()))?;
    std::fs::rename(&draft, path).with_context(|| format!("cannot rename {}", draft.display()))
}

/// Waits for a file.
///
/// # Errors
/// It does not come, or is not what it should be.
pub(crate) async fn load<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let until = Instant::now() + PATIENCE;
    loop {
        match std::fs::read(path) {
            Ok(bytes) => return Ok(serde_json::from_slice(&bytes)?),
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
            Err(_) if Instant::now() >= until => bail!("waited in vain for {}", path.display()),
            Err(_) => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
}
