//! The one door to disk and databases.
//!
//! What lives on disk, below the state directory of one node:
//!
//! - `lock`: held while a process uses the directory ([`StateDir`]);
//! - `raft/`: log, vote, watermark and snapshot, opened together by [`RaftStore::open`];
//! - `journal/`: the node-local journal of audit and request records ([`Journal`]);
//! - `backups/`: encrypted copies of the state and segments of the log ([`backup`]).
//!
//! Who calls it: `raft` (the Raft store) and the node (the journal, backups). This crate knows nothing of openraft: log
//! entries are bytes with an id here.

pub mod backup;
mod error;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod journal;
pub mod log;
mod raft_store;
mod snapshot;
mod state_dir;

pub use error::StorageError;
pub use journal::{Journal, JournalRecord, RECORD_MAX, Retention};
pub use log::{
    Entry, LogBackend, LogId, LogOp, LogState, Vote, simulated,
    store::{Done, LogStore},
};
pub use raft_store::RaftStore;
pub use snapshot::{Snapshot, SnapshotStore};
pub use state_dir::StateDir;
