//! A log in memory that behaves like a disk on a bad day: it loses un-synced writes, and fails on demand.
//!
//! Used by tests and the simulator. What a [`Disk`] holds survives the [`SimulatedLog`]s opened on it, as a disk
//! survives the processes of a node.

use std::{collections::BTreeMap, io, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::{Entry, LogBackend, LogId, LogOp, LogState, Vote};
use crate::Snapshot;

/// A disk in memory; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Disk(Arc<Mutex<Content>>);

#[derive(Debug, Default)]
struct Content {
    durable: Log,
    /// Written but not synced, in order.
    pending: Vec<LogOp>,
    /// The snapshot file: replaced whole, durable at once.
    snapshot: Option<Snapshot>,
    /// The last vote that was written, synced or not.
    votes: watch::Sender<Option<Vote>>,
    fault: Option<Fault>,
    syncs: u64,
    /// How long a group of writes takes.
    slowness: Duration,
    /// Grows with each crash: logs opened before it are dead.
    generation: u64,
}

/// What fails next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The next write is refused.
    Write,
    /// The next write finds no room, of the log or of a snapshot.
    Full,
    /// The next sync is refused; what it should have made durable is as if never synced.
    Sync,
}

/// What changes make of a log, without any files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Log {
    pub(super) state: LogState,
    pub(super) entries: BTreeMap<u64, Entry>,
}

impl Disk {
    /// Opens the log on it.
    #[must_use]
    pub fn open(&self) -> SimulatedLog {
        let content = self.0.lock();
        let mut log = content.durable.clone();
        // After a restart without a loss of power, what the system was handed is still there.
        content.pending.iter().cloned().for_each(|op| log.apply(op));
        SimulatedLog { disk: self.clone(), log, generation: content.generation }
    }

    /// The power fails: the last writes that were not synced are gone, all but the first `survive` of them. Logs
    /// that are open are dead.
    pub fn crash(&self, survive: usize) {
        let mut content = self.0.lock();
        let lucky: Vec<LogOp> = content.pending.drain(..).take(survive).collect();
        lucky.into_iter().for_each(|op| content.durable.apply(op));
        content.generation += 1;
    }

    /// Makes the next write or sync fail.
    pub fn fail_next(&self, fault: Fault) {
        self.0.lock().fault = Some(fault);
    }

    /// From now on each group of writes takes so long, where the store above runs as a task.
    pub fn slow_down(&self, by: Duration) {
        self.0.lock().slowness = by;
    }

    pub(crate) fn slowness(&self) -> Duration {
        self.0.lock().slowness
    }

    /// Replaces the snapshot, for a process that was begun in `generation`.
    pub(crate) fn save_snapshot(&self, snapshot: &Snapshot, generation: u64) -> io::Result<()> {
        let mut content = self.0.lock();
        content.alive(generation)?;
        content.refuse_if_full()?;
        content.snapshot = Some(snapshot.clone());
        Ok(())
    }

    pub(crate) fn snapshot(&self) -> Option<Snapshot> {
        self.0.lock().snapshot.clone()
    }

    /// Counts the crashes.
    pub(crate) fn generation(&self) -> u64 {
        self.0.lock().generation
    }

    /// Follows the votes that are written to it, synced or not.
    #[must_use]
    pub fn votes(&self) -> watch::Receiver<Option<Vote>> {
        self.0.lock().votes.subscribe()
    }

    /// How often it was synced.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.0.lock().syncs
    }

    /// Where the durable part of the log stands.
    #[must_use]
    pub fn durable(&self) -> LogState {
        self.0.lock().durable.state
    }
}

/// An open log on a [`Disk`].
#[derive(Debug)]
pub struct SimulatedLog {
    disk: Disk,
    log: Log,
    generation: u64,
}

impl LogBackend for SimulatedLog {
    fn write(&mut self, ops: Vec<LogOp>, sync: bool) -> io::Result<()> {
        let mut content = self.disk.0.lock();
        content.alive(self.generation)?;
        content.refuse_if_full()?;
        if content.fault.take_if(|fault| *fault == Fault::Write).is_some() {
            return Err(io::Error::other("simulated: the write failed"));
        }
        for op in ops {
            if let LogOp::Vote(vote) = &op {
                content.votes.send_replace(Some(*vote));
            }
            self.log.apply(op.clone());
            content.pending.push(op);
        }
        if !sync {
            return Ok(());
        }
        if content.fault.take_if(|fault| *fault == Fault::Sync).is_some() {
            return Err(io::Error::other("simulated: the sync failed"));
        }
        content.syncs += 1;
        let pending = std::mem::take(&mut content.pending);
        pending.into_iter().for_each(|op| content.durable.apply(op));
        Ok(())
    }

    fn read(&mut self, from: u64, to: u64, max_bytes: usize) -> io::Result<Vec<Entry>> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut bytes = 0;
        for entry in self.log.entries.range(from..to.max(from)).map(|(_, entry)| entry) {
            bytes += entry.body.len();
            if bytes > max_bytes && !entries.is_empty() {
                break;
            }
            entries.push(entry.clone());
        }
        Ok(entries)
    }

    fn state(&self) -> LogState {
        self.log.state
    }

    fn settle(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Content {
    fn alive(&self, generation: u64) -> io::Result<()> {
        if self.generation == generation {
            return Ok(());
        }
        Err(io::Error::other("simulated: the machine is off"))
    }

    fn refuse_if_full(&mut self) -> io::Result<()> {
        match self.fault.take_if(|fault| *fault == Fault::Full) {
            Some(_) => Err(io::Error::new(io::ErrorKind::StorageFull, "simulated: the disk is full")),
            None => Ok(()),
        }
    }
}

impl Log {
    pub(super) fn apply(&mut self, op: LogOp) {
        match op {
            LogOp::Append(entry) => {
                self.state.last = Some(entry.id);
                self.entries.insert(entry.id.index, entry);
            }
            LogOp::TruncateFrom(index) => {
                self.entries.split_off(&index);
                self.state.last = self.last_id();
            }
            LogOp::Purge(id) => {
                self.entries = self.entries.split_off(&(id.index + 1));
                self.state.purged = self.state.purged.max(Some(id));
                self.state.last = self.last_id();
            }
            LogOp::Vote(vote) => self.state.vote = Some(vote),
            LogOp::Committed(id) => {
                if id.index < self.state.next_index() {
                    self.state.committed = self.state.committed.max(Some(id));
                }
            }
        }
    }

    fn last_id(&self) -> Option<LogId> {
        self.entries.values().next_back().map(|entry| entry.id).or(self.state.purged)
    }
}
