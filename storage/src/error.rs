//! What can go wrong with a disk.

use std::{io, path::PathBuf};

/// The one error of this crate.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StorageError {
    /// The operating system refused.
    #[error("cannot {what} {}: {message}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        message: String,
    },
    /// Another process works in this directory.
    #[error(
        "{} is in use by another process: two nodes cannot share one state directory; stop the other one, or \
         give this node its own",
        dir.display()
    )]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
    /// What is on disk no longer holds everything that this node has acknowledged.
    #[error(
        "{}: {found}. This node can no longer prove what it has acknowledged, so it takes no part in votes and \
         must rejoin: move {} away and join the cluster anew with a new token (the other nodes are not affected)",
        place.display(), state_dir.display()
    )]
    Rejoin {
        /// Where it was found.
        place: PathBuf,
        /// What was found.
        found: String,
        /// The state directory that is of no use any more.
        state_dir: PathBuf,
    },
    /// The log store has failed earlier and accepts nothing any more.
    #[error("the log store has failed and accepts nothing until the node restarts: {0}")]
    Failed(String),
    /// The log store was closed.
    #[error("the log store is closed")]
    Closed,
    /// Too large to be stored.
    #[error("a record of {size} bytes is too large: at most {limit} bytes are stored")]
    TooLarge {
        /// Its size.
        size: usize,
        /// What is allowed.
        limit: usize,
    },
    /// A backup cannot be made or used.
    #[error("backup {name}: {found}")]
    Backup {
        /// Its name.
        name: String,
        /// Why.
        found: String,
    },
    /// A bucket with copies of backups does not do what it is asked.
    #[error("{place}: {found}")]
    Bucket {
        /// The bucket and the prefix.
        place: String,
        /// What it does instead.
        found: String,
    },
    /// The journal cannot be used.
    #[error("the journal at {} cannot be used: {message}", dir.display())]
    Journal {
        /// Where it is.
        dir: PathBuf,
        /// Why.
        message: String,
    },
}

impl StorageError {
    pub(crate) fn io(what: &'static str, path: impl Into<PathBuf>, error: &io::Error) -> Self {
        Self::Io { what, path: path.into(), message: error.to_string() }
    }

    /// Whether this node's state is of no use any more, so that it must join the cluster anew.
    #[must_use]
    pub fn is_rejoin(&self) -> bool {
        matches!(self, Self::Rejoin { .. })
    }
}

impl From<StorageError> for io::Error {
    fn from(error: StorageError) -> Self {
        Self::other(error)
    }
}
