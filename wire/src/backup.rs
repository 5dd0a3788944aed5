//! Backups of a node, and restoring them.

use pangolin_core::{NodeId, Revision};
use serde::{Deserialize, Serialize};

use crate::{Moment, Pagination, cluster::optional_revision, text};

/// What a backup file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackupKind {
    /// The whole state.
    State,
    /// A segment of the log.
    Log,
}

/// A backup file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Backup {
    /// Its name in the node's backup directory.
    pub name: String,
    /// What it holds.
    pub kind: BackupKind,
    /// Its size in bytes.
    pub size: u64,
    /// The first log index in it, of a segment.
    pub first: Option<u64>,
    /// How far it goes.
    #[serde(with = "text")]
    pub revision: Revision,
    /// Log time there.
    pub time: Moment,
    /// When it was made.
    pub made_at: Moment,
    /// By which node.
    pub made_by: NodeId,
    /// By which version of the program.
    pub version: String,
}

/// Answer of `GET /node/backups`: those of the node that is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackupList {
    /// The backups, states first, each in order.
    pub backups: Vec<Backup>,
    /// Files that are no backups, or damaged at their beginning.
    pub problems: Vec<String>,
    /// Fingerprint of the recovery key that new ones are encrypted to.
    pub recovery_key: Option<String>,
    /// Which part of them.
    pub pagination: Pagination,
}

/// Answer of `POST /node/backups/verify`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VerifiedBackups {
    /// States that were decrypted and decoded, and have the digest that they announce.
    pub states: usize,
    /// Segments of the log that were.
    pub segments: usize,
    /// Pairs of neighbouring states between which the archived log leads from one to the other, byte for byte.
    pub joined: usize,
    /// What is wrong; none = everything can be restored.
    pub problems: Vec<String>,
}

/// Request of `POST /cluster/restore`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RestoreCatalog {
    /// A log index, LINEAGE.INDEX, or a time; none = the newest backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
}

/// Answer of `POST /cluster/restore`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RestoredCatalog {
    /// The revision that the catalog was taken from; none where a repeated request was answered.
    #[serde(default, with = "optional_revision")]
    pub from: Option<Revision>,
    /// Log time there.
    pub time: Option<Moment>,
    /// Number of resources in it.
    pub resources: usize,
    /// Sites that came back and whose connectors need new credentials.
    pub sites_without_credentials: Vec<String>,
    /// The revision at which a backup of the catalog before was made: `restore --at` it goes back.
    #[serde(default, with = "optional_revision")]
    pub undo: Option<Revision>,
}

/// Answer of `POST /cluster/recovery-key`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NewRecoveryKey {
    /// The key: shown this once.
    pub recovery_key: String,
    /// Its fingerprint.
    pub fingerprint: String,
}

impl std::fmt::Debug for NewRecoveryKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewRecoveryKey").field("fingerprint", &self.fingerprint).finish_non_exhaustive()
    }
}
