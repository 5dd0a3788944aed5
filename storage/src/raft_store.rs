//! Everything that Raft keeps on one node's disk, opened and judged together.

use std::path::PathBuf;

use crate::{
    LogStore, Snapshot, SnapshotStore, StateDir, StorageError,
    log::{LogBackend, LogState, disk::DiskLog, simulated::Disk},
};

/// Log, vote and snapshot of one node. Holds the lock on the state directory.
#[derive(Debug)]
pub struct RaftStore {
    /// The log and the vote.
    pub log: LogStore,
    /// Where snapshots go.
    pub snapshots: SnapshotStore,
    /// The snapshot that was found.
    pub snapshot: Option<Snapshot>,
    /// Held as long as this lives; none where nothing is on disk.
    pub lock: Option<StateDir>,
}

impl RaftStore {
    /// Opens the store in a state directory, or makes a new one. Blocks: it reads the whole log.
    ///
    /// # Errors
    /// [`StorageError::InUse`] where another process has the directory; [`StorageError::Rejoin`] where what is
    /// there no longer holds everything that was acknowledged; otherwise what the system refuses.
    pub fn open(state_dir: impl Into<PathBuf>) -> Result<Self, StorageError> {
        let lock = StateDir::lock(state_dir)?;
        // The snapshot is looked at first: it is the cheaper one to refuse.
        let (snapshots, snapshot) = snapshots(&lock)?;
        let log = DiskLog::open(&lock.raft(), lock.path())?;
        Self::begin(lock, snapshots, snapshot, log)
    }

    /// Opens the store with its log on another medium, as tests and the simulator do.
    ///
    /// # Errors
    /// As for [`RaftStore::open`].
    pub fn open_on(state_dir: impl Into<PathBuf>, log: impl LogBackend) -> Result<Self, StorageError> {
        let lock = StateDir::lock(state_dir)?;
        let (snapshots, snapshot) = snapshots(&lock)?;
        Self::begin(lock, snapshots, snapshot, log)
    }

    /// Opens the store on a simulated disk, log and snapshot, with tasks instead of threads: within a Tokio runtime.
    ///
    /// # Errors
    /// [`StorageError::Rejoin`] where log and snapshot do not fit together.
    pub fn simulated(disk: &Disk) -> Result<Self, StorageError> {
        let snapshots = SnapshotStore::simulated(disk);
        let snapshot = snapshots.load()?;
        check(&disk.open().state(), snapshot.as_ref()).map_err(|found| snapshots.rejoin(found))?;
        Ok(Self { log: LogStore::simulated(disk), snapshots, snapshot, lock: None })
    }

    fn begin(
        lock: StateDir,
        snapshots: SnapshotStore,
        snapshot: Option<Snapshot>,
        log: impl LogBackend,
    ) -> Result<Self, StorageError> {
        check(&log.state(), snapshot.as_ref()).map_err(|found| StorageError::Rejoin {
            place: lock.raft(),
            found,
            state_dir: lock.path().to_owned(),
        })?;
        Ok(Self { log: LogStore::start(log)?, snapshots, snapshot, lock: Some(lock) })
    }
}

fn snapshots(lock: &StateDir) -> Result<(SnapshotStore, Option<Snapshot>), StorageError> {
    let snapshots = SnapshotStore::open(lock.raft(), lock.path())?;
    let snapshot = snapshots.load()?;
    Ok((snapshots, snapshot))
}

/// Whether log and snapshot fit together. The error says what does not.
///
/// A log that ends before the snapshot is none: a node that was sent a snapshot stores it first and then purges
/// its log. A log that was cut back is told by its watermark.
fn check(log: &LogState, snapshot: Option<&Snapshot>) -> Result<(), String> {
    match (log.purged, snapshot) {
        (Some(purged), None) => {
            return Err(format!("the log begins behind {purged}, and the snapshot up to there is missing"));
        }
        (Some(purged), Some(snapshot)) if purged.index > snapshot.last.index => {
            let end = snapshot.last;
            return Err(format!("the log begins behind {purged}, but the snapshot ends at {end}"));
        }
        _ => {}
    }
    let voted = log.vote.map_or(0, |vote| vote.term);
    match snapshot.map(|snapshot| snapshot.last) {
        Some(last) if last.term > voted => {
            Err(format!("the snapshot ends at {last}, but the last vote is of term {voted}"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{LogId, Vote};

    #[test]
    fn a_hole_between_snapshot_and_log_is_refused() {
        let id = |term, index| LogId { term, index };
        let snapshot = |last| Snapshot { last, meta: vec![], data: vec![] };
        let voted = |term, purged| LogState {
            vote: Some(Vote { term, node: 1, elected: true }),
            purged,
            last: purged,
            committed: None,
        };
        let cases = [
            (voted(1, None), None, true),
            (voted(1, None), Some(id(1, 5)), true),
            (voted(1, Some(id(1, 5))), Some(id(1, 5)), true),
            (voted(1, Some(id(1, 5))), Some(id(1, 9)), true),
            (voted(1, Some(id(1, 5))), None, false),
            (voted(1, Some(id(1, 5))), Some(id(1, 4)), false),
            (voted(1, None), Some(id(2, 4)), false),
            (LogState::default(), Some(id(1, 4)), false),
        ];
        for (log, last, fits) in cases {
            assert_eq!(check(&log, last.map(snapshot).as_ref()).is_ok(), fits, "{log:?} with {last:?}");
        }
    }
}
