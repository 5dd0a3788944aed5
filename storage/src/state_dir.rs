//! The directory in which a node keeps its state, held by one process at a time.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::Write,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use crate::StorageError;

const LOCK: &str = "lock";
const RAFT: &str = "raft";
const JOURNAL: &str = "journal";
/// Nobody but the node itself reads its state.
const MODE: u32 = 0o700;

/// A locked state directory. The lock ends with this value or with the process, whichever ends first.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    _lock: File,
}

impl StateDir {
    /// Creates the directory where it is missing, and locks it.
    ///
    /// # Errors
    /// [`StorageError::InUse`] where another process has it; otherwise what the system refuses.
    pub fn lock(path: impl Into<PathBuf>) -> Result<Self, StorageError> {
        let path = path.into();
        create(&path)?;
        let lock_path = path.join(LOCK);
        let mut lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&lock_path)
            .map_err(|error| StorageError::io("open", &lock_path, &error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StorageError::InUse { dir: path }),
            Err(TryLockError::Error(error)) => return Err(StorageError::io("lock", &lock_path, &error)),
        }
        // For the operator who wonders who holds it; nothing reads it.
        let _ = lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id()));
        Ok(Self { path, _lock: lock })
    }

    /// The directory itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where log, vote and snapshot live.
    #[must_use]
    pub fn raft(&self) -> PathBuf {
        self.path.join(RAFT)
    }

    /// Where the journal of a state directory lives. It needs no [`StateDir`]: sled locks it on its own.
    #[must_use]
    pub fn journal_of(path: &Path) -> PathBuf {
        path.join(JOURNAL)
    }
}

/// Creates a directory (and its parents) for the node alone; the name is durable when this returns.
pub(crate) fn create(path: &Path) -> Result<(), StorageError> {
    if path.is_dir() {
        return Ok(());
    }
    let refused = |error| StorageError::io("create", path, &error);
    fs::DirBuilder::new().recursive(true).mode(MODE).create(path).map_err(refused)?;
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_dir(parent),
        _ => Ok(()),
    }
}

/// Makes the names in a directory durable.
pub(crate) fn sync_dir(path: &Path) -> Result<(), StorageError> {
    File::open(path)
        .and_then(|dir| dir.sync_all())
        .map_err(|error| StorageError::io("sync directory", path, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_directory_is_held_by_one_at_a_time() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("a/b");
        let held = StateDir::lock(&path).expect("locked");
        let refused = StateDir::lock(&path).expect_err("held");
        assert!(matches!(refused, StorageError::InUse { .. }), "{refused}");
        drop(held);
        StateDir::lock(&path).expect("free again");
    }
}
