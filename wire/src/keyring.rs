//! The keys that seal: how they stand, and the keyring for a drawer.

use serde::{Deserialize, Serialize};

use crate::Moment;

/// What a key-encryption key is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyUse {
    /// The nodes are fetching it.
    Next,
    /// It seals.
    Active,
    /// It is kept until its time is over.
    Former,
    /// It opens old backups, and nothing else.
    Retired,
}

/// A key-encryption key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyStatus {
    /// Its number.
    pub number: u32,
    /// What it is used for.
    #[serde(rename = "use")]
    pub used: KeyUse,
    /// How many things in the state are sealed with it.
    pub sealed: usize,
    /// Since when it is the next or the active one, as far as that is kept.
    pub since: Option<Moment>,
}

/// Answer of `GET /cluster/keyring`, `POST /cluster/keyring/rotate` and `/retire`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyringStatus {
    /// The keys, the newest first.
    pub keys: Vec<KeyStatus>,
    /// Whether one key seals everything, and no rotation is under way.
    pub settled: bool,
    /// How it stands, in a sentence.
    pub standing: String,
    /// Names of the nodes that do not hold the newest key yet.
    pub missing: Vec<String>,
}

/// Answer of `POST /cluster/keyring/escrow`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyringEscrow {
    /// The keyring as a text that only the recovery key opens.
    pub escrow: String,
    /// Fingerprint of that recovery key.
    pub recovery_key: String,
    /// The keys that are in it.
    pub keys: Vec<u32>,
}

impl std::fmt::Debug for KeyringEscrow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyringEscrow").field("keys", &self.keys).finish_non_exhaustive()
    }
}
