//! The log store: a cache for readers, and a queue of what is to be written, in groups.
//!
//! Appending waits for nothing: the entries go into the cache, a job goes into the queue, and the caller's callback runs
//! once they are durable. One thread takes all jobs that wait, makes one batch of them, syncs once, and runs the
//! callbacks in order ([`writer`](super::writer)). The vote takes the same queue, so nothing overtakes it, and becomes
//! visible to readers only when it is durable. After the first error nothing is written any more: a failed sync
//! says nothing about what is on disk, and trying again would lie about it.
//!
//! Over a simulated disk a task writes instead, so that a simulation on one thread has one order of events.

use std::{
    sync::{
        Arc,
        mpsc::{Sender, channel},
    },
    thread::JoinHandle,
};

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    Entry, LogBackend, LogId, LogOp, LogState, Vote, cache::Cache, simulated::Disk, slice, writer::Writer,
};
use crate::StorageError;

/// Runs when the entries of an append are durable, or never will be, on any thread: it must not block.
pub type Done = Box<dyn FnOnce(Result<(), StorageError>) + Send>;

pub(super) enum Job {
    Write { ops: Vec<LogOp>, sync: bool, done: Option<Done> },
    Read { from: u64, to: u64, max_bytes: usize, reply: oneshot::Sender<Result<Vec<Entry>, StorageError>> },
    Stop,
}

/// A log that many read and one appends to. Clones share it. The queue is unbounded here: its owner appends only
/// what the bounds on proposals and on replication let through.
#[derive(Clone)]
pub struct LogStore {
    shared: Arc<Shared>,
    jobs: Jobs,
}

/// The way to whoever writes.
#[derive(Clone)]
enum Jobs {
    Thread(Sender<Job>),
    Task(mpsc::UnboundedSender<Job>),
}

impl Jobs {
    fn send(&self, job: Job) -> Result<(), ()> {
        match self {
            Self::Thread(jobs) => jobs.send(job).map_err(drop),
            Self::Task(jobs) => jobs.send(job).map_err(drop),
        }
    }
}

/// Whoever writes.
enum Running {
    Thread(JoinHandle<()>),
    Task(tokio::task::JoinHandle<()>),
}

/// What readers see, and whether writing has failed.
pub(super) struct Shared {
    pub(super) view: Mutex<View>,
    failed: watch::Sender<Option<StorageError>>,
    running: Mutex<Option<Running>>,
}

impl Shared {
    fn of(backend: &impl LogBackend) -> Arc<Self> {
        let view = Mutex::new(View { state: backend.state(), cache: Cache::default() });
        Arc::new(Self { view, failed: watch::Sender::new(None), running: Mutex::new(None) })
    }

    /// Why nothing is written any more, if so.
    pub(super) fn failed(&self) -> Option<StorageError> {
        self.failed.borrow().clone()
    }

    /// Keeps the first failure: after it, nothing is written any more.
    pub(super) fn latch<T>(&self, result: &Result<T, StorageError>) {
        let Err(error) = result else { return };
        let first = self.failed.send_if_modified(|failed| {
            let first = failed.is_none();
            failed.get_or_insert_with(|| error.clone());
            first
        });
        if first {
            tracing::error!(%error, "the log store has failed");
        }
    }
}

#[derive(Default)]
pub(super) struct View {
    pub(super) state: LogState,
    cache: Cache,
}

impl std::fmt::Debug for LogStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogStore").field("state", &self.state()).finish_non_exhaustive()
    }
}

impl LogStore {
    /// Starts over a medium.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(backend: impl LogBackend) -> Result<Self, StorageError> {
        let (jobs, queue) = channel();
        let shared = Shared::of(&backend);
        let writer = Writer::new(backend, shared.clone());
        let thread = std::thread::Builder::new()
            .name("raft-log".into())
            .spawn(move || {
                if let Err(error) = slice::shortest() {
                    tracing::info!(%error, "no short slice for the log's thread: where the processor is busy, writes wait");
                }
                writer.run(&queue);
            })
            .map_err(|error| StorageError::io("start the thread", "raft-log", &error))?;
        *shared.running.lock() = Some(Running::Thread(thread));
        Ok(Self { shared, jobs: Jobs::Thread(jobs) })
    }

    /// Starts a task over a simulated disk; within a Tokio runtime.
    #[must_use]
    pub fn simulated(disk: &Disk) -> Self {
        let (jobs, queue) = mpsc::unbounded_channel();
        let backend = disk.open();
        let shared = Shared::of(&backend);
        let writer = Writer::new(backend, shared.clone());
        let task = tokio::spawn(writer.run_slowly(disk.clone(), queue));
        *shared.running.lock() = Some(Running::Task(task));
        Self { shared, jobs: Jobs::Task(jobs) }
    }

    /// Where the log stands: the durable vote, and the entries as appended (durable or not yet).
    #[must_use]
    pub fn state(&self) -> LogState {
        self.shared.view.lock().state
    }

    /// Says why, once the store has failed.
    #[must_use]
    pub fn failure(&self) -> watch::Receiver<Option<StorageError>> {
        self.shared.failed.subscribe()
    }

    /// Appends entries: readable at once, `done` when durable.
    ///
    /// # Errors
    /// The store has failed or is closed; `done` is dropped then.
    pub fn append(&self, entries: Vec<Entry>, done: Done) -> Result<(), StorageError> {
        {
            let mut view = self.shared.view.lock();
            for entry in &entries {
                view.state.last = Some(entry.id);
                view.cache.push(entry.clone());
            }
        }
        self.write(entries.into_iter().map(LogOp::Append).collect(), true, Some(done))
    }

    /// Replaces the vote; durable when this returns.
    ///
    /// # Errors
    /// The store has failed or is closed: whether the vote is on disk is unknown then.
    pub async fn save_vote(&self, vote: Vote) -> Result<(), StorageError> {
        #[cfg(planted)]
        if pangolin_core::planted::is(pangolin_core::planted::Bug::VoteNotSynced) {
            self.shared.view.lock().state.vote = Some(vote);
            return self.write(vec![LogOp::Vote(vote)], false, None);
        }
        self.write_and_wait(vec![LogOp::Vote(vote)]).await
    }

    /// Notes how far entries are committed. It is on disk a moment later: it is a hint for the next start.
    ///
    /// # Errors
    /// The store has failed.
    pub fn save_committed(&self, id: LogId) -> Result<(), StorageError> {
        self.shared.view.lock().state.committed = Some(id);
        self.shared.failed().map_or(Ok(()), Err)
    }

    /// Removes the entries behind `keep` (none: all of them); durable when this returns.
    ///
    /// # Errors
    /// The store has failed or is closed.
    pub async fn truncate_after(&self, keep: Option<LogId>) -> Result<(), StorageError> {
        let from = keep.map_or(0, |id| id.index + 1);
        {
            let mut view = self.shared.view.lock();
            view.cache.truncate(from);
            if view.state.next_index() > from {
                view.state.last = keep.max(view.state.purged);
            }
        }
        self.write_and_wait(vec![LogOp::TruncateFrom(from)]).await
    }

    /// Removes the entries up to `id`, which a durable snapshot includes. On disk this is one record; files
    /// go when all that is in them is purged.
    ///
    /// # Errors
    /// The store has failed or is closed.
    pub async fn purge(&self, id: LogId) -> Result<(), StorageError> {
        {
            let mut view = self.shared.view.lock();
            view.cache.purge(id.index);
            if view.state.next_index() <= id.index {
                view.state.last = Some(id);
            }
            view.state.purged = view.state.purged.max(Some(id));
        }
        self.write_and_wait(vec![LogOp::Purge(id)]).await
    }

    /// The entries of `from..to` that are there, in order; the first ones of them if they have more than
    /// `max_bytes` in sum, but at least one.
    ///
    /// # Errors
    /// The store has failed or is closed, or an entry is damaged.
    pub async fn read(&self, from: u64, to: u64, max_bytes: usize) -> Result<Vec<Entry>, StorageError> {
        let (from, edge, cached) = {
            let view = self.shared.view.lock();
            let (from, to) = (from.max(view.state.first_index()), to.min(view.state.next_index()));
            if from >= to {
                return Ok(Vec::new());
            }
            let edge = view.cache.first().unwrap_or(to).clamp(from, to);
            (from, edge, view.cache.range(edge, to).cloned().collect::<Vec<_>>())
        };
        let mut entries = if from < edge { self.read_disk(from, edge, max_bytes).await? } else { Vec::new() };
        // At least one entry is read where there is one: none means that the log begins later.
        if entries.last().is_some_and(|last| last.id.index + 1 < edge) {
            return Ok(entries);
        }
        let mut bytes: usize = entries.iter().map(|entry| entry.body.len()).sum();
        for entry in cached {
            bytes = bytes.saturating_add(entry.body.len());
            if bytes > max_bytes && !entries.is_empty() {
                break;
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    /// Finishes what is queued, then releases the medium. Later calls of the store get [`StorageError::Closed`].
    pub async fn close(&self) {
        let _ = self.jobs.send(Job::Stop);
        let running = self.shared.running.lock().take();
        // A panic of the writer has been reported as a failure by then.
        match running {
            Some(Running::Thread(thread)) => {
                let _ = tokio::task::spawn_blocking(|| thread.join()).await;
            }
            Some(Running::Task(task)) => {
                let _ = task.await;
            }
            None => {}
        }
    }

    async fn read_disk(&self, from: u64, to: u64, max_bytes: usize) -> Result<Vec<Entry>, StorageError> {
        let (reply, answer) = oneshot::channel();
        self.send(Job::Read { from, to, max_bytes, reply })?;
        answer.await.map_err(|_| self.ended())?
    }

    fn write(&self, ops: Vec<LogOp>, sync: bool, done: Option<Done>) -> Result<(), StorageError> {
        if let Some(failed) = self.shared.failed() {
            return Err(failed);
        }
        self.send(Job::Write { ops, sync, done })
    }

    async fn write_and_wait(&self, ops: Vec<LogOp>) -> Result<(), StorageError> {
        let (reply, answer) = oneshot::channel();
        let done = Box::new(move |result| {
            let _ = reply.send(result);
        });
        self.write(ops, true, Some(done))?;
        answer.await.map_err(|_| self.ended())?
    }

    fn send(&self, job: Job) -> Result<(), StorageError> {
        self.jobs.send(job).map_err(|_| self.ended())
    }

    fn ended(&self) -> StorageError {
        self.shared.failed().unwrap_or(StorageError::Closed)
    }
}
