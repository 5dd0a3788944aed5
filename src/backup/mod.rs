//! Backups of this node: when they are made, and what can be done with them.
//!
//! Every node makes its own, from the state that it has applied: nothing is copied between nodes, no leader is
//! needed, and losing a host never loses the only copy. Beside the hourly copies of the whole state, the committed
//! entries of the log are archived as they come, so that a restore goes to any of them.

mod archive;
mod catalog;
mod copies;
mod past;
mod port;
mod verify;

use std::{sync::Arc, time::Duration};

use pangolin_core::{ClusterState, NodeId, Timestamp, record::RecoveryPublic};
use pangolin_peer::identity::Keyring;
use pangolin_raft::{Cluster, RaftError};
use pangolin_storage::{
    StorageError,
    backup::{
        self, BucketConfig, Content, Copies, Header, Key, Kind, Listed, Opened, Place, Retention, superfluous,
    },
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use archive::Archive;
use copies::Copier;
pub use past::{Past, files_in, point_of, state_at};

use crate::{clock, keys::Keys};

/// Age at which the newest backup gets a successor.
const EVERY: Duration = Duration::from_secs(3600);
/// Pause after a backup that failed, and the least distance of two that follow a gap in the archive.
const RETRY: Duration = Duration::from_secs(600);
/// Least pause between two looks at a log that grows fast.
const PACE: Duration = Duration::from_millis(200);
/// How long after `init` the first backup waits for the recovery key, without which it would be worth less.
const KEY_AWAITED: Duration = Duration::from_secs(60);
/// Entries that are archived before their time: the log keeps a few thousand behind its snapshot.
const ARCHIVE_ENTRIES: u64 = 1000;

/// Why a backup could not be made or used.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The disk, or the file itself.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The log.
    #[error(transparent)]
    Raft(#[from] RaftError),
    /// The files do not lead to the point asked for.
    #[error("{0}; `pangolinctl backup list` shows what there is")]
    NoWay(String),
    /// Nothing to back up yet.
    #[error("the cluster has not been initialised yet")]
    NoCluster,
    /// A text is no point in the past.
    #[error("{0:?} is neither a log index, nor LINEAGE.INDEX, nor a time like 2026-11-21T06:49:05Z")]
    Point(String),
    /// The cluster does not take the earlier catalog.
    #[error("the earlier catalog does not fit the cluster of now: {0}")]
    Refused(String),
    /// The cluster takes no changes at the moment.
    #[error("the catalog was not replaced: {0}; what is there is unchanged, and it is safe to try again")]
    NotReplaced(String),
    /// This node is a witness.
    #[error(
        "this node is a witness: it holds no keys, so it neither makes nor reads backups; ask a data node"
    )]
    Witness,
    /// A part of the program has ended.
    #[error("the work was not finished: {0}")]
    Ended(String),
}

/// How a node makes its backups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupConfig {
    /// Off = none are made, and no log is archived.
    pub enabled: bool,
    /// Where they lie.
    pub dir: std::path::PathBuf,
    /// A second directory, best on another machine; a subdirectory per cluster and node is made in it.
    pub second_dir: Option<std::path::PathBuf>,
    /// A bucket for copies, with a prefix per cluster and node.
    pub bucket: Option<BucketConfig>,
    /// How many are kept.
    pub retention: Retention,
    /// How often new entries of the log are archived: what the loss of all hosts may cost.
    pub archive_every: Duration,
}

/// The backups of this node. Cheap to clone.
#[derive(Clone)]
pub struct Backups {
    inner: Arc<Inner>,
}

struct Inner {
    config: BackupConfig,
    node: NodeId,
    cluster: Cluster,
    /// None on a witness, which holds no keys.
    keyring: Option<Keys>,
    /// The recovery key that `init` has shown on this host, for as long as the cluster knows none.
    first_key: Option<RecoveryPublic>,
    place: Place,
    copier: Copier,
    archive: tokio::sync::Mutex<Archive>,
}

/// Runs disk work and long sums where they do not hold up other tasks.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BackupError> + Send + 'static,
) -> Result<T, BackupError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| BackupError::Ended(error.to_string()))?
}

impl Backups {
    /// The backups of a node. Nothing is touched yet.
    #[must_use]
    pub fn new(
        config: BackupConfig,
        node: NodeId,
        cluster: Cluster,
        keyring: Option<Keys>,
        first_key: Option<RecoveryPublic>,
    ) -> Self {
        let place = Place::new(&config.dir);
        let (archive, copier) = (tokio::sync::Mutex::default(), Copier::default());
        Self { inner: Arc::new(Inner { config, node, cluster, keyring, first_key, place, copier, archive }) }
    }

    /// Where they lie.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.inner.place
    }

    /// Makes backups and archives the log until told to end.
    ///
    /// # Errors
    /// None: what fails is tried again, with a warning.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), std::convert::Infallible> {
        if !self.inner.config.enabled || self.inner.keyring.is_none() {
            info!("this node makes no backups: it is a witness, or they are switched off");
            // One that is asked for is copied as well.
            self.copy(&shutdown).await;
            return Ok(());
        }
        tokio::join!(self.keep(&shutdown), self.copy(&shutdown));
        self.copy_at_the_end().await;
        Ok(())
    }

    async fn keep(&self, shutdown: &CancellationToken) {
        let mut states = self.inner.cluster.watch();
        let mut not_before = Timestamp::default();
        loop {
            if self.inner.cluster.state().cluster().is_some()
                && clock::now() >= not_before
                && let Err(error) = self.keep_up().await
            {
                warn!(%error, "this node's backups are not up to date");
                not_before = clock::now() + RETRY.min(self.inner.config.archive_every * 6);
            }
            let archived = self.inner.archive.lock().await.next_index();
            let many = async {
                let much = |state: &Arc<ClusterState>| {
                    archived.is_some_and(|next| state.revision().index >= next + ARCHIVE_ENTRIES)
                };
                // The sender lives as long as the cluster handle that this value holds.
                drop(states.wait_for(much).await);
                // A failure is not tried again at the pace of the log.
                tokio::time::sleep(PACE).await;
            };
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = tokio::time::sleep(self.inner.config.archive_every) => {}
                () = many => {}
            }
        }
        if let Err(error) = self.archive_now().await {
            debug!(%error, "the last entries of the log are not archived");
        }
    }

    /// Archives what is new, and makes a backup if it is time.
    async fn keep_up(&self) -> Result<(), BackupError> {
        let state = self.inner.cluster.state();
        let created_at = state.cluster().map(|cluster| cluster.created_at).unwrap_or_default();
        if self.inner.recovery_key(&state).is_none() && clock::now().since(created_at) < KEY_AWAITED {
            return Ok(());
        }
        let (newest, key) = {
            let mut archive = self.inner.archive.lock().await;
            if !archive.is_open() {
                self.resume(&mut archive).await?;
            }
            (archive.base_made_at, archive.base_key)
        };
        let whole = self.archive_now().await?;
        let due = |at: Timestamp, after: Duration| clock::now().since(at) >= after || clock::now() < at;
        let another_key = key.is_some_and(|key| key != self.inner.recovery_key(&state));
        let late =
            newest.is_none_or(|at| due(at, EVERY)) || (!whole && newest.is_none_or(|at| due(at, RETRY)));
        if late || another_key {
            self.create().await?;
        }
        Ok(())
    }

    /// Makes a backup of the state as it is now, reads it back, and lets old ones go.
    ///
    /// # Errors
    /// The disk, or there is no state yet.
    pub async fn create(&self) -> Result<Header, BackupError> {
        let mut archive = self.inner.archive.lock().await;
        if !archive.is_open() {
            self.resume(&mut archive).await?;
        }
        let state = self.inner.cluster.state();
        let whole = self.archive_up_to(&state, &mut archive).await?;
        let key = self.inner.recovery_key(&state);
        let inner = self.inner.clone();
        let header = blocking(move || inner.write_state(&state)).await?;
        archive.base(&header, key, whole);
        let inner = self.inner.clone();
        blocking(move || Ok(inner.prune(&inner.place, &[])?)).await?;
        self.inner.copier.all();
        info!(backup = header.file_name(), revision = %header.revision, "made and verified a backup");
        Ok(header)
    }
}

impl Inner {
    /// What backups of this state are encrypted to besides the keyring.
    fn recovery_key(&self, state: &ClusterState) -> Option<RecoveryPublic> {
        state.recovery_key().or(self.first_key)
    }

    fn keyring(&self) -> Result<Arc<Keyring>, BackupError> {
        self.keyring.as_ref().map(Keys::now).ok_or(BackupError::Witness)
    }

    fn header(&self, state: &ClusterState, kind: Kind) -> Result<Header, BackupError> {
        let cluster = state.cluster().ok_or(BackupError::NoCluster)?;
        Ok(Header {
            kind,
            cluster: cluster.id,
            name: cluster.name.clone(),
            revision: state.revision(),
            time: state.time(),
            made_at: clock::now(),
            made_by: self.node,
            version: crate::VERSION.to_owned(),
        })
    }

    fn write_state(&self, state: &ClusterState) -> Result<Header, BackupError> {
        let digest = state.digest().map_err(|error| BackupError::Ended(error.to_string()))?;
        let header = self.header(state, Kind::State { digest })?;
        let recovery = self.recovery_key(state);
        let keyring = self.keyring()?;
        // Who restores it gets this keyring with it, and has to be able to open what is in the state.
        if let Some(lacking) = state.keys().active.filter(|kek| keyring.fingerprint(kek.number).is_none()) {
            let reason = format!("this node has not fetched key-encryption key {} yet", lacking.number);
            return Err(BackupError::Ended(reason));
        }
        let bytes = backup::seal(&header, Content::State(state), &keyring, recovery.as_ref())?;
        self.write(&header, &bytes)?;
        Ok(header)
    }

    /// Writes a file and reads it back: a backup that cannot be read is none.
    fn write(&self, header: &Header, bytes: &[u8]) -> Result<(), BackupError> {
        let name = header.file_name();
        self.place.write(&name, bytes)?;
        let found = self.place.read(&name)?;
        match backup::open(&found, Key::Keyring(&*self.keyring()?)) {
            Ok((found, Opened::State(_) | Opened::Log(_), _)) if found == *header => {}
            Ok(_) => {
                return Err(StorageError::Backup { name, found: "another one was read back".into() }.into());
            }
            Err(found) => return Err(StorageError::Backup { name, found }.into()),
        }
        self.copier.file(name);
        Ok(())
    }

    fn prune(&self, place: &dyn Copies, known: &[Listed]) -> Result<(), StorageError> {
        let files: Vec<(Header, u64, String)> = place
            .list(known)?
            .into_iter()
            .filter_map(|file| Some((file.header.ok()?, file.size, file.name)))
            .collect();
        let sizes: Vec<(Header, u64)> =
            files.iter().map(|(header, size, _)| (header.clone(), *size)).collect();
        for position in superfluous(&sizes, &self.config.retention) {
            place.remove(&files[position].2)?;
        }
        Ok(())
    }
}
