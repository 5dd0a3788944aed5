//! Feature levels: what all programs of a cluster understand.
//!
//! A release that brings new commands, or gives an old one another meaning, has a higher level than the one before.
//! The cluster has a committed level of its own, and a command is proposed only if that level includes it. It is
//! raised when every node runs a program that understands the higher one, and never goes down: from then on, older
//! programs are kept out. See docs/decisions/0009-feature-levels.md.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A feature level. Zero stands for none: before there is a cluster, or not said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FeatureLevel(pub u32);

impl fmt::Display for FeatureLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The level of the first release: it includes every command that the log ever began with.
pub const FIRST: FeatureLevel = FeatureLevel(1);

/// The highest level that this program understands.
pub const NEWEST: FeatureLevel = FeatureLevel(if cfg!(pangolin_next) { 2 } else { 1 });

/// Something is of a level that this program does not understand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the cluster is at feature level {found}, this program understands up to {NEWEST}: install the version that the \
     other nodes run and start again; nothing is lost"
)]
pub struct TooNew {
    /// The level that was found.
    pub found: FeatureLevel,
}

/// Whether this program may take part in a cluster at this level.
///
/// # Errors
/// It is too old for it.
pub fn check(found: FeatureLevel) -> Result<(), TooNew> {
    if found <= NEWEST { Ok(()) } else { Err(TooNew { found }) }
}
