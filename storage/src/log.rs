//! The Raft log and vote: what a node has promised.
//!
//! [`LogBackend`] is the narrow door to the medium, with two implementations: [`disk`] (production) and
//! [`simulated`] (memory that loses un-synced writes on demand). [`store::LogStore`] stands above either: it
//! groups writes on one thread and latches the first failure.

pub(crate) mod cache;
#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod damage_tests;
pub(crate) mod disk;
mod index;
mod record;
mod recovery;
pub(crate) mod segment;
pub mod simulated;
mod slice;
pub(crate) mod store;
#[cfg(test)]
mod trace;
pub(crate) mod watermark;
mod writer;

use std::{fmt, io};

use bytes::Bytes;

/// Largest entry on disk: one command ([`pangolin_core::codec::COMMAND_MAX`]) or one membership, with its frame.
/// A longer one on disk is damage.
pub const ENTRY_MAX: usize = pangolin_core::codec::COMMAND_MAX + 64 * 1024;

/// Names an entry. Ids are ordered by term, then index: a term has one leader at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId {
    /// Term of the leader that proposed it.
    pub term: u64,
    /// Its place in the log.
    pub index: u64,
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (term {})", self.index, self.term)
    }
}

/// What a node has promised in an election. Votes are ordered: a later one replaces an earlier one, never back. In a
/// term a node votes once (Raft §5.2), and then follows whoever was elected, also where it had voted for another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vote {
    /// The term.
    pub term: u64,
    /// Known to have been elected.
    pub elected: bool,
    /// For whom.
    pub node: u64,
}

/// An entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its id.
    pub id: LogId,
    /// Its content; uninterpreted here.
    pub body: Bytes,
}

/// Where a log stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogState {
    /// The vote.
    pub vote: Option<Vote>,
    /// How far entries are known to be committed. Behind the truth at worst.
    pub committed: Option<LogId>,
    /// The last entry that was purged because a snapshot includes it.
    pub purged: Option<LogId>,
    /// The last entry, or the last purged one where nothing follows it.
    pub last: Option<LogId>,
}

impl LogState {
    /// Index of the first entry that is there, or would be.
    #[must_use]
    pub fn first_index(&self) -> u64 {
        self.purged.map_or(0, |id| id.index + 1)
    }

    /// Index behind the last entry.
    #[must_use]
    pub fn next_index(&self) -> u64 {
        self.last.map_or(0, |id| id.index + 1)
    }
}

/// A change of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogOp {
    /// Adds an entry behind the last one.
    Append(Entry),
    /// Removes the entries from this index on.
    TruncateFrom(u64),
    /// Removes the entries up to this one, which a snapshot includes.
    Purge(LogId),
    /// Replaces the vote.
    Vote(Vote),
    /// Notes how far entries are committed.
    Committed(LogId),
}

/// The medium under a [`store::LogStore`], used by one thread at a time.
///
/// After an error from `write` the medium's content is unknown: the store above never calls it again.
pub trait LogBackend: Send + 'static {
    /// Does the changes in order, hands them to the system, and, with `sync`, returns only when they and
    /// everything before them are durable.
    ///
    /// # Errors
    /// The medium refuses, or a change contradicts what is there.
    fn write(&mut self, ops: Vec<LogOp>, sync: bool) -> io::Result<()>;

    /// The entries of `from..to` in order, the first ones of them if they have more than `max_bytes` in sum, at
    /// least one where there is one.
    ///
    /// # Errors
    /// The medium refuses, or an entry is damaged.
    fn read(&mut self, from: u64, to: u64, max_bytes: usize) -> io::Result<Vec<Entry>>;

    /// Where the log stands, un-synced changes included.
    fn state(&self) -> LogState;

    /// Called when nothing was written for a moment: a chance to finish what was put off.
    ///
    /// # Errors
    /// As for [`Self::write`].
    fn settle(&mut self) -> io::Result<()>;
}
