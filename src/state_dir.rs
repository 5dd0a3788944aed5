//! What a node keeps in its state directory beside the Raft log: who it is, and its keys.
//!
//! ```text
//! identity.json   who this node is, whom it knows        keyring      key-encryption keys of the cluster
//! node.key        its certificate's key                  tunnel.key   its WireGuard key
//! raft/           log, vote, snapshots                   journal/     node-local journal
//! keyring.sealed  what rotations have added to a keyring that comes from the service manager
//! recovery.pub    public half of the recovery key      backups/     encrypted copies of the state
//! begun           this node has taken part: without raft/ it must not do so again
//! diverged        this node's state differed from that of the majority: it must not take part again
//! ```

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt, MetadataExt, lchown},
    path::{Path, PathBuf},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use pangolin_core::{
    ClusterId, NodeId,
    command::ClusterCreated,
    plan::{PeerPlan, PlannedPeer},
    record::{Digest, NodeRole, RecoveryPublic},
};
use pangolin_peer::identity::{
    Keyring, KeyringError, NodeIdentity, NodeKey,
    private_file::{self, PrivateFileError},
    spki_digest_of_certificate,
};
use pangolin_tunnel::SecretKey;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// Version of `identity.json`.
const VERSION: u32 = 1;

/// What a node that has left leaves behind.
const LEFT_BEHIND: [&str; 10] = [
    "identity.json",
    "begun",
    "node.key",
    "tunnel.key",
    "keyring",
    "keyring.sealed",
    "recovery.pub",
    "raft",
    "journal",
    "backups",
];

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateDirError {
    /// There is no node here yet.
    #[error("{0} holds no node: run `pangolinctl init` on the first host, `pangolinctl join` on the others")]
    Empty(PathBuf),
    /// There is a node here already.
    #[error(
        "{0} holds node {1} already: run `pangolinctl leave` there first, or choose another node.state_dir; nothing \
         was changed"
    )]
    Occupied(PathBuf, NodeId),
    /// Something of an earlier node is left, but not who it was.
    #[error(
        "{0} is left from an earlier node: a new one must not go on with its log; move it out of the way, or choose \
         another node.state_dir; nothing was changed"
    )]
    Leftover(PathBuf),
    /// The node has taken part, and what it promised then is gone.
    #[error(
        "{0} is gone, though this node has taken part in its cluster: a node that has forgotten its log and its votes \
         must not vote again; on another node, get a token with `pangolinctl node replace {1}`, and with it join again \
         with an empty state directory"
    )]
    LogGone(PathBuf, NodeId),
    /// The node's state is not that of the others.
    #[error(
        "node {node} takes no part any more: {found}. What it holds is damaged, and it must rejoin: take it out of the \
         cluster (`pangolinctl leave --node {node}` on another node), keep {dir} for a report of the fault, and join \
         again with an empty state directory. The other nodes are not affected"
    )]
    Diverged {
        /// The state directory.
        dir: PathBuf,
        /// The node.
        node: NodeId,
        /// What was found, and when.
        found: String,
    },
    /// A forced recovery was cut off.
    #[error(
        "a recovery of {0} was interrupted: run `pangolinctl recover --force-new-cluster` again to finish it"
    )]
    Recovering(PathBuf),
    /// A private file cannot be read or written.
    #[error(transparent)]
    File(#[from] PrivateFileError),
    /// The keyring cannot be read or written.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// A directory cannot be made, or a file not be renamed.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error(
        "{path} is damaged ({reason}): restore it from a backup of this host, or remove the node from the cluster \
             and join again with an empty state directory"
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct IdentityFile {
    version: u32,
    cluster: String,
    lineage: u64,
    node: u64,
    role: NodeRole,
    authority: String,
    certificate: String,
    peers: Vec<PeerEntry>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bootstrap: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PeerEntry {
    node: u64,
    name: String,
    address: SocketAddr,
    spki: String,
}

/// Everything that makes a node this node.
#[derive(Debug)]
pub struct Member {
    /// Its name badge for peers.
    pub identity: NodeIdentity,
    /// Whom it knew when it was admitted: enough to be found by the leader before the first state arrives.
    pub peers: PeerPlan,
    /// What it does.
    pub role: NodeRole,
    /// The cluster's key-encryption keys; a witness has none.
    pub keyring: Option<Keyring>,
    /// Its WireGuard key.
    pub tunnel_key: SecretKey,
    /// On the first node: the command that makes the cluster.
    pub bootstrap: Option<Box<ClusterCreated>>,
}

/// The directory.
#[derive(Clone, Debug)]
pub struct StateDir(PathBuf);

impl StateDir {
    /// Names the directory; nothing is touched.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Makes the directory, readable by its owner only.
    ///
    /// # Errors
    /// It cannot be made or written to.
    pub fn create(&self) -> Result<(), StateDirError> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.0)
            .map_err(|source| StateDirError::Io { action: "create", path: self.0.clone(), source })
    }

    /// Refuses a directory that holds a node.
    ///
    /// # Errors
    /// It does, or what it holds cannot be told.
    pub fn need_empty(&self) -> Result<(), StateDirError> {
        match self.load() {
            Err(StateDirError::Empty(_)) => match ["raft", "journal"].map(|name| self.file(name)) {
                [raft, _] if has_entries(&raft) => Err(StateDirError::Leftover(raft)),
                [_, journal] if has_entries(&journal) => Err(StateDirError::Leftover(journal)),
                _ => Ok(()),
            },
            Ok(member) => Err(StateDirError::Occupied(self.0.clone(), member.identity.node)),
            Err(error) => Err(error),
        }
    }

    /// The node's certificate key: the one that is there, or a new one, so that a join that was cut off can be
    /// repeated under the same key and gets the same answer.
    ///
    /// # Errors
    /// It cannot be read or written.
    pub fn node_key(&self) -> Result<NodeKey, StateDirError> {
        if let Some(key) = self.found_key()? {
            return Ok(key);
        }
        let path = self.file("node.key");
        let key = NodeKey::generate().map_err(|error| damaged(&path, error))?;
        private_file::write(&path, &key.to_pkcs8())?;
        Ok(key)
    }

    /// The node's certificate key, if there is one: a join has begun here before.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn found_key(&self) -> Result<Option<NodeKey>, StateDirError> {
        let path = self.file("node.key");
        let bytes = read_optional(&path)?;
        bytes.map(|bytes| NodeKey::from_pkcs8(&bytes).map_err(|error| damaged(&path, error))).transpose()
    }

    /// The key that belongs to the node's certificate. A node without it is no longer the one that was admitted.
    fn own_key(&self, certificate: &[u8]) -> Result<NodeKey, StateDirError> {
        let path = self.file("node.key");
        let key = self.found_key()?.ok_or_else(|| damaged(&path, "it is missing"))?;
        let certified = spki_digest_of_certificate(certificate)
            .map_err(|error| damaged(&self.file("identity.json"), error))?;
        if certified != key.spki_digest() {
            return Err(damaged(&path, "it is not the key of the certificate in identity.json"));
        }
        Ok(key)
    }

    /// Refuses to go on without the log of a node that has taken part: neither its votes nor what it acknowledged
    /// are known any more.
    ///
    /// # Errors
    /// [`StateDirError::LogGone`].
    pub fn check_log(&self, node: NodeId) -> Result<(), StateDirError> {
        let (begun, raft) = (self.file("begun"), self.file("raft"));
        if read_optional(&begun)?.is_some() && !has_entries(&raft) {
            return Err(StateDirError::LogGone(raft, node));
        }
        Ok(())
    }

    /// Refuses to go on with a state that was found to differ from that of the majority.
    ///
    /// # Errors
    /// [`StateDirError::Diverged`].
    pub fn check_agreement(&self, node: NodeId) -> Result<(), StateDirError> {
        match read_optional(&self.file("diverged"))? {
            None => Ok(()),
            Some(found) => {
                let found = String::from_utf8_lossy(&found).trim().to_owned();
                Err(StateDirError::Diverged { dir: self.0.clone(), node, found })
            }
        }
    }

    /// Notes that this node's state differs from that of the majority, and says what that means.
    #[must_use]
    pub fn note_diverged(&self, node: NodeId, found: &str) -> StateDirError {
        match private_file::write(&self.file("diverged"), found.as_bytes()) {
            Ok(()) => StateDirError::Diverged { dir: self.0.clone(), node, found: found.to_owned() },
            Err(error) => error.into(),
        }
    }

    /// Notes that this node takes part from now on. To be called once the log is there.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn note_begun(&self) -> Result<(), StateDirError> {
        let path = self.file("begun");
        if read_optional(&path)?.is_none() {
            private_file::write(&path, b"this node has taken part in its cluster\n")?;
        }
        Ok(())
    }

    /// The node's WireGuard key: the one that is there, or a new one.
    ///
    /// # Errors
    /// It cannot be read or written.
    pub fn tunnel_key(&self) -> Result<SecretKey, StateDirError> {
        let path = self.file("tunnel.key");
        if let Some(bytes) = read_optional(&path)? {
            let bytes: [u8; 32] = bytes
                .as_slice()
                .try_into()
                .map_err(|_| damaged(&path, format!("{} bytes, not 32", bytes.len())))?;
            return Ok(SecretKey::from_bytes(bytes));
        }
        let key = SecretKey::generate();
        private_file::write(&path, key.to_bytes().as_slice())?;
        Ok(key)
    }

    /// Writes who this node is. The last file written makes the directory a node's.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn store(
        &self,
        identity: &NodeIdentity,
        peers: &PeerPlan,
        keyring: Option<&Keyring>,
        bootstrap: Option<&ClusterCreated>,
    ) -> Result<(), StateDirError> {
        if let Some(keyring) = keyring {
            keyring.store(&self.file("keyring"))?;
        }
        let path = self.file("identity.json");
        let bootstrap = bootstrap
            .map(pangolin_core::codec::encode)
            .transpose()
            .map_err(|error| damaged(&path, error))?
            .map(|bytes| BASE64_STANDARD.encode(bytes));
        let file = IdentityFile {
            version: VERSION,
            cluster: identity.cluster.to_string(),
            lineage: identity.lineage,
            node: identity.node.0,
            // Who holds no keys can do nothing but vote.
            role: if keyring.is_some() { NodeRole::Data } else { NodeRole::Witness },
            authority: BASE64_STANDARD.encode(&identity.authority),
            certificate: BASE64_STANDARD.encode(&identity.certificate),
            peers: peers
                .nodes
                .iter()
                .map(|(node, peer)| PeerEntry {
                    node: node.0,
                    name: peer.name.clone(),
                    address: peer.address,
                    spki: BASE64_STANDARD.encode(peer.spki.0),
                })
                .collect(),
            bootstrap,
        };
        let text = serde_json::to_vec_pretty(&file).map_err(|error| damaged(&path, error))?;
        Ok(private_file::write(&path, &text)?)
    }

    /// Gives what was written to whoever owns the directory: `init`, `join` and `recover` are run by root, the node is
    /// not.
    ///
    /// # Errors
    /// It cannot be given away.
    pub fn give_to_owner(&self) -> Result<(), StateDirError> {
        let io = |path: &Path, source| StateDirError::Io {
            action: "give the owner of the state directory",
            path: path.to_owned(),
            source,
        };
        let owner = std::fs::metadata(&self.0).map_err(|source| io(&self.0, source))?;
        let written = ["identity.json", "node.key", "tunnel.key", "keyring", "recovery.pub", "raft"];
        let mut paths: Vec<PathBuf> = written.iter().map(|name| self.file(name)).collect();
        while let Some(path) = paths.pop() {
            let file = match std::fs::symlink_metadata(&path) {
                Ok(file) => file,
                Err(source) if source.kind() == io::ErrorKind::NotFound => continue,
                Err(source) => return Err(io(&path, source)),
            };
            if file.uid() != owner.uid() {
                lchown(&path, Some(owner.uid()), Some(owner.gid())).map_err(|source| io(&path, source))?;
            }
            if file.is_dir() {
                let entries = std::fs::read_dir(&path).map_err(|source| io(&path, source))?;
                paths.extend(entries.flatten().map(|entry| entry.path()));
            }
        }
        Ok(())
    }

    /// Reads who this node is.
    ///
    /// # Errors
    /// Nothing there, unreadable, or damaged.
    pub fn load(&self) -> Result<Member, StateDirError> {
        let path = self.file("identity.json");
        let Some(bytes) = read_optional(&path)? else {
            return Err(StateDirError::Empty(self.0.clone()));
        };
        let file: IdentityFile = serde_json::from_slice(&bytes).map_err(|error| damaged(&path, error))?;
        if file.version != VERSION {
            return Err(damaged(&path, format!("version {} is not known here", file.version)));
        }
        let cluster: ClusterId = file.cluster.parse().map_err(|error| damaged(&path, error))?;
        let base64 = |text: &str| BASE64_STANDARD.decode(text).map_err(|error| damaged(&path, error));
        let mut nodes = BTreeMap::new();
        for entry in &file.peers {
            let spki: [u8; 32] = base64(&entry.spki)?
                .try_into()
                .map_err(|_| damaged(&path, "a key digest has not 32 bytes"))?;
            let peer = PlannedPeer { name: entry.name.clone(), address: entry.address, spki: Digest(spki) };
            nodes.insert(NodeId(entry.node), peer);
        }
        let bootstrap = match &file.bootstrap {
            Some(text) => {
                let decoded = pangolin_core::codec::decode(&base64(text)?, pangolin_core::codec::COMMAND_MAX);
                Some(decoded.map_err(|error| damaged(&path, error))?)
            }
            None => None,
        };
        let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
        let keyring = match file.role {
            NodeRole::Data => Some(Keyring::load_preferred(credentials.as_deref(), &self.file("keyring"))?),
            NodeRole::Witness => None,
        };
        let certificate = base64(&file.certificate)?;
        Ok(Member {
            identity: NodeIdentity {
                cluster,
                lineage: file.lineage,
                node: NodeId(file.node),
                authority: base64(&file.authority)?,
                key: self.own_key(&certificate)?,
                certificate,
            },
            peers: PeerPlan {
                cluster: Some(cluster),
                lineage: file.lineage,
                // What was told with the admission goes as far as the admission.
                known_until: file.node,
                nodes,
                ..PeerPlan::default()
            },
            role: file.role,
            keyring,
            tunnel_key: self.tunnel_key()?,
            bootstrap,
        })
    }

    /// Where the keyring lies, unless the service manager gives it.
    #[must_use]
    pub fn keyring_file(&self) -> PathBuf {
        self.file("keyring")
    }

    /// Keeps the public half of the recovery key until the cluster knows it.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn store_recovery(&self, key: &RecoveryPublic) -> Result<(), StateDirError> {
        Ok(private_file::write(&self.file("recovery.pub"), BASE64_STANDARD.encode(key.0).as_bytes())?)
    }

    /// The public half of the recovery key, on the node that made the cluster.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn recovery(&self) -> Result<Option<RecoveryPublic>, StateDirError> {
        let path = self.file("recovery.pub");
        let Some(text) = read_optional(&path)? else { return Ok(None) };
        let bytes = BASE64_STANDARD.decode(text.trim_ascii()).map_err(|error| damaged(&path, error))?;
        let bytes = bytes.try_into().map_err(|_| damaged(&path, "it has not 32 bytes"))?;
        Ok(Some(RecoveryPublic(bytes)))
    }

    /// Puts a renewed certificate in the place of the node's old one; everything else stays.
    ///
    /// # Errors
    /// `identity.json` cannot be read or written.
    pub fn replace_certificate(&self, certificate: &[u8]) -> Result<(), StateDirError> {
        let path = self.file("identity.json");
        let Some(bytes) = read_optional(&path)? else { return Err(StateDirError::Empty(self.0.clone())) };
        let mut file: IdentityFile = serde_json::from_slice(&bytes).map_err(|error| damaged(&path, error))?;
        file.certificate = BASE64_STANDARD.encode(certificate);
        let text = serde_json::to_vec_pretty(&file).map_err(|error| damaged(&path, error))?;
        Ok(private_file::write(&path, &text)?)
    }

    /// Puts the state of a node that has left out of the way. It is renamed, never deleted.
    ///
    /// # Errors
    /// It cannot be renamed.
    pub fn retire(&self) -> Result<PathBuf, StateDirError> {
        let io = |action, path: &Path, source| StateDirError::Io { action, path: path.to_owned(), source };
        let seconds = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        let aside = self.file(&format!("left-{seconds}"));
        std::fs::create_dir_all(&aside).map_err(|source| io("create", &aside, source))?;
        for name in LEFT_BEHIND {
            let from = self.file(name);
            match std::fs::rename(&from, aside.join(name)) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(io("rename", &from, source));
                }
                _ => {}
            }
        }
        Ok(aside)
    }
}

impl StateDir {
    /// Moves the Raft store of the old history into `aside`, with a copy of who the node was. Repeating it is safe.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn put_aside(&self, aside: &Path) -> Result<(), StateDirError> {
        let io = |action, path: &Path, source| StateDirError::Io { action, path: path.to_owned(), source };
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(aside)
            .map_err(|source| io("create", aside, source))?;
        let identity = self.file("identity.json");
        if let Some(bytes) = read_optional(&identity)? {
            private_file::write(&aside.join("identity.json"), &bytes)?;
        }
        let raft = self.file("raft");
        match std::fs::rename(&raft, aside.join("raft")) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(io("rename", &raft, source)),
            _ => self.sync(),
        }
    }

    /// Takes the Raft store that was made in `from` for the node's own. Repeating it is safe.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn adopt_raft(&self, from: &Path) -> Result<(), StateDirError> {
        let io = |action, path: &Path, source| StateDirError::Io { action, path: path.to_owned(), source };
        let new = from.join("raft");
        match std::fs::rename(&new, self.file("raft")) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(io("rename", &new, source));
            }
            _ => self.sync()?,
        }
        match std::fs::remove_dir_all(from) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(io("remove", from, source)),
            _ => Ok(()),
        }
    }

    fn sync(&self) -> Result<(), StateDirError> {
        let synced = std::fs::File::open(&self.0).and_then(|dir| dir.sync_all());
        synced.map_err(|source| StateDirError::Io { action: "sync", path: self.0.clone(), source })
    }
}

fn has_entries(dir: &Path) -> bool {
    std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some())
}

fn damaged(path: &Path, reason: impl ToString) -> StateDirError {
    StateDirError::Damaged { path: path.to_owned(), reason: reason.to_string() }
}

fn read_optional(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, StateDirError> {
    match private_file::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use pangolin_peer::identity::AuthorityKey;

    use super::*;

    const NODE: NodeId = NodeId(7);

    fn with_node() -> (tempfile::TempDir, StateDir) {
        let dir = tempfile::tempdir().expect("a directory");
        let state_dir = StateDir::new(dir.path());
        let key = state_dir.node_key().expect("a key");
        let authority = AuthorityKey::create("test").expect("an authority");
        let cluster = ClusterId([1; 16]);
        let csr = key.csr_der().expect("a request");
        let certificate =
            authority.sign_node(&csr, cluster, NODE, std::time::SystemTime::now()).expect("a certificate");
        let authority = authority.certificate().to_vec();
        let identity = NodeIdentity { cluster, lineage: 1, node: NODE, authority, certificate, key };
        let peer =
            PlannedPeer { name: "n7".into(), address: ([127, 0, 0, 1], 7420).into(), spki: Digest([7; 32]) };
        let nodes = [(NODE, peer)].into();
        let peers = PeerPlan { cluster: Some(cluster), lineage: 1, nodes, ..PeerPlan::default() };
        let keyring = Keyring::create().expect("a keyring");
        state_dir.store(&identity, &peers, Some(&keyring), None).expect("stored");
        (dir, state_dir)
    }

    #[test]
    fn what_is_stored_is_loaded_again_and_makes_the_directory_occupied() {
        let (_dir, state_dir) = with_node();
        let member = state_dir.load().expect("a member");
        assert_eq!((member.identity.node, member.peers.nodes.len()), (NODE, 1));
        assert!(matches!(state_dir.need_empty(), Err(StateDirError::Occupied(_, NODE))));
    }

    #[test]
    fn a_witness_has_no_keyring_and_a_data_node_does_not_start_without_its_own() {
        let (_dir, state_dir) = with_node();
        let member = state_dir.load().expect("a member");
        assert!(member.keyring.is_some() && member.role == NodeRole::Data);
        std::fs::remove_file(state_dir.file("keyring")).expect("removed");
        state_dir.load().expect_err("a data node needs it");
        state_dir.store(&member.identity, &member.peers, None, None).expect("stored");
        let member = state_dir.load().expect("a member");
        assert!(member.keyring.is_none() && member.role == NodeRole::Witness);
    }

    #[test]
    #[expect(clippy::print_stdout, reason = "says that it was skipped")]
    fn what_root_writes_belongs_to_the_owner_of_the_directory() {
        let (dir, state_dir) = with_node();
        let nobody = 65_534;
        if lchown(dir.path(), Some(nobody), Some(nobody)).is_err() {
            println!("skipped: only root gives files away");
            return;
        }
        state_dir.give_to_owner().expect("given");
        for name in ["identity.json", "node.key", "keyring"] {
            let file = std::fs::symlink_metadata(state_dir.file(name)).expect("a file");
            assert_eq!((file.uid(), file.gid()), (nobody, nobody), "{name}");
        }
    }

    #[test]
    fn a_node_without_its_own_key_does_not_start_under_another() {
        let (_dir, state_dir) = with_node();
        let path = state_dir.file("node.key");
        std::fs::remove_file(&path).expect("removed");
        assert!(matches!(state_dir.load(), Err(StateDirError::Damaged { .. })));
        assert!(!path.exists(), "none is made in its place");
        state_dir.node_key().expect("another key");
        let error = state_dir.load().expect_err("not the certificate's").to_string();
        assert!(error.contains("not the key of the certificate"), "{error}");
    }

    #[test]
    fn a_node_that_has_taken_part_does_not_go_on_without_its_log() {
        let (_dir, state_dir) = with_node();
        state_dir.check_log(NODE).expect("it has not taken part yet");
        std::fs::create_dir(state_dir.file("raft")).expect("made");
        std::fs::write(state_dir.file("raft/log"), "x").expect("written");
        state_dir.note_begun().expect("noted");
        state_dir.check_log(NODE).expect("the log is there");
        std::fs::remove_dir_all(state_dir.file("raft")).expect("removed");
        let error = state_dir.check_log(NODE).expect_err("refused").to_string();
        assert!(error.contains("raft is gone") && error.contains("join again"), "{error}");
    }

    #[test]
    fn a_directory_with_the_log_of_a_forgotten_node_is_not_empty() {
        let (_dir, state_dir) = with_node();
        std::fs::create_dir(state_dir.file("raft")).expect("made");
        std::fs::write(state_dir.file("raft/log"), "x").expect("written");
        std::fs::remove_file(state_dir.file("identity.json")).expect("removed");
        assert!(matches!(state_dir.need_empty(), Err(StateDirError::Leftover(_))));
    }

    #[test]
    fn what_a_node_that_left_leaves_behind_is_put_aside_and_the_directory_is_empty() {
        let (_dir, state_dir) = with_node();
        state_dir.note_begun().expect("noted");
        let aside = state_dir.retire().expect("put aside");
        assert!(aside.join("identity.json").exists() && aside.join("keyring").exists());
        state_dir.need_empty().expect("empty");
        state_dir.check_log(NODE).expect("nothing is expected of the next node");
    }
}
