//! The log store: a cache for readers, and one thread that writes in groups.
//!
//! Appending encodes nothing and waits for nothing: the entries go into the cache, a job goes into the queue, and
//! the caller's callback runs once they are durable. The thread takes all jobs that wait, makes one batch of them,
//! syncs once, and runs the callbacks in order. The vote takes the same queue, so nothing overtakes it, and becomes
//! visible to readers only when it is durable. After the first error nothing is written any more: a failed sync
//! says nothing about what is on disk, and trying again would lie about it.
//!
//! How far entries are committed is a hint for the next start: it costs no wake-up of its own, but goes with the next
//! batch, or alone soon after the last one.
//!
//! Over a simulated disk the same work is done by a task instead of a thread, so that a simulation on one thread has
//! one order of events.

use std::{
    io,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread::JoinHandle,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    Entry, LogBackend, LogId, LogOp, LogState, Vote,
    cache::Cache,
    disk::MARK_INTERVAL,
    simulated::{Disk, SimulatedLog},
};
use crate::StorageError;

/// Most jobs in one batch: bounds how long the first one waits for its sync.
const BATCH_MAX: usize = 1024;
/// After this time without a batch to go with, a hint is written alone.
const HINT_AFTER: Duration = Duration::from_millis(50);

/// Runs when the entries of an append are durable, or never will be. On a writing thread: it must not block.
pub type Done = Box<dyn FnOnce(Result<(), StorageError>) + Send>;

enum Job {
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

struct Shared {
    view: Mutex<View>,
    failed: watch::Sender<Option<StorageError>>,
    running: Mutex<Option<Running>>,
}

impl Shared {
    fn of(backend: &impl LogBackend) -> Arc<Self> {
        let view = Mutex::new(View { state: backend.state(), cache: Cache::default() });
        Arc::new(Self { view, failed: watch::Sender::new(None), running: Mutex::new(None) })
    }
}

#[derive(Default)]
struct View {
    state: LogState,
    cache: Cache,
}

impl std::fmt::Debug for LogStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogStore").field("state", &self.state()).finish_non_exhaustive()
    }
}

impl LogStore {
    /// Starts the thread over a medium.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(backend: impl LogBackend) -> Result<Self, StorageError> {
        let (jobs, queue) = channel();
        let shared = Shared::of(&backend);
        let writer = Writer { backend, shared: shared.clone() };
        let thread = std::thread::Builder::new()
            .name("raft-log".into())
            .spawn(move || writer.run(&queue))
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
        let writer = Writer { backend, shared: shared.clone() };
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
        self.shared.failed.borrow().clone().map_or(Ok(()), Err)
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

    /// Removes the entries up to `id`, which a durable snapshot includes. On disk this is one record; chunk files
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
        if let Some(failed) = self.shared.failed.borrow().clone() {
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
        self.shared.failed.borrow().clone().unwrap_or(StorageError::Closed)
    }
}

/// What is still to be done when nothing more comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    /// To write the hint, and then the rest.
    Hint,
    /// To bring the medium to rest.
    Mark,
    /// Nothing.
    Settled,
}

impl Rest {
    /// After how long it is done; never, if there is nothing to do.
    fn within(self) -> Option<Duration> {
        match self {
            Self::Hint => Some(HINT_AFTER),
            Self::Mark => Some(MARK_INTERVAL),
            Self::Settled => None,
        }
    }
}

struct Writer<B> {
    backend: B,
    shared: Arc<Shared>,
}

impl Writer<SimulatedLog> {
    /// As [`Writer::run`], as a task and in the time that the disk takes.
    async fn run_slowly(mut self, disk: Disk, mut queue: mpsc::UnboundedReceiver<Job>) {
        let mut rest = Rest::Settled;
        loop {
            let first = match rest.within() {
                None => queue.recv().await,
                Some(within) => match tokio::time::timeout(within, queue.recv()).await {
                    Ok(first) => first,
                    Err(_) => {
                        rest = self.settle(rest);
                        continue;
                    }
                },
            };
            let Some(first) = first else { break };
            rest = Rest::Hint;
            let slowness = disk.slowness();
            if !slowness.is_zero() {
                tokio::time::sleep(slowness).await;
            }
            let mut jobs = vec![first];
            while jobs.len() < BATCH_MAX
                && let Ok(job) = queue.try_recv()
            {
                jobs.push(job);
            }
            if self.process(jobs) {
                break;
            }
        }
        let rest = self.settle(rest);
        self.settle(rest);
    }
}

impl<B: LogBackend> Writer<B> {
    fn run(mut self, queue: &Receiver<Job>) {
        let mut rest = Rest::Settled;
        loop {
            let first = match rest.within() {
                None => queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(within) => queue.recv_timeout(within),
            };
            let first = match first {
                Ok(job) => job,
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    rest = self.settle(rest);
                    continue;
                }
            };
            rest = Rest::Hint;
            let mut jobs = vec![first];
            while jobs.len() < BATCH_MAX
                && let Ok(job) = queue.try_recv()
            {
                jobs.push(job);
            }
            if self.process(jobs) {
                break;
            }
        }
        let rest = self.settle(rest);
        self.settle(rest);
    }

    /// What there is to do when nothing has come for a while; what is left to do after that.
    fn settle(&mut self, rest: Rest) -> Rest {
        match rest {
            Rest::Hint => {
                // A failure is latched.
                let _ = self.write(Vec::from_iter(self.hint()), false);
                Rest::Mark
            }
            Rest::Mark | Rest::Settled => {
                let result = self.unless_failed(B::settle);
                self.latch(&result);
                Rest::Settled
            }
        }
    }

    /// How far entries are committed, if that is not written yet.
    fn hint(&self) -> Option<LogOp> {
        let committed = self.shared.view.lock().state.committed;
        committed.filter(|_| committed > self.backend.state().committed).map(LogOp::Committed)
    }

    /// Does a group of jobs; true if there shall be no further one.
    fn process(&mut self, jobs: Vec<Job>) -> bool {
        let mut batch = Vec::new();
        let mut sync = false;
        let mut dones = Vec::new();
        let mut stop = false;
        for job in jobs {
            match job {
                Job::Write { mut ops, sync: wanted, done } => {
                    batch.append(&mut ops);
                    sync |= wanted;
                    dones.extend(done);
                }
                Job::Read { from, to, max_bytes, reply } => {
                    // A read sees what was queued before it.
                    // A failure is latched: both the read and the rest of the batch meet it.
                    let _ = self.write(std::mem::take(&mut batch), false);
                    let _ = reply.send(self.unless_failed(|backend| backend.read(from, to, max_bytes)));
                }
                Job::Stop => {
                    stop = true;
                    break;
                }
            }
        }
        if !batch.is_empty() {
            batch.extend(self.hint());
        }
        self.finish(batch, sync, dones);
        stop
    }

    /// Writes the rest of a group, and says so to those who wait for it.
    fn finish(&mut self, batch: Vec<LogOp>, sync: bool, dones: Vec<Done>) {
        let voted = batch.iter().any(|op| matches!(op, LogOp::Vote(_)));
        // What is told early is told once: whoever comes first takes it.
        let waiting = Arc::new(Mutex::new(dones));
        let tell = |waiting: &Mutex<Vec<Done>>, result: &Result<(), StorageError>| {
            for done in std::mem::take(&mut *waiting.lock()) {
                done(result.clone());
            }
        };
        let result = if sync && !voted {
            let waiting = waiting.clone();
            let durable = Box::new(move || tell(&waiting, &Ok(())));
            let result = self.unless_failed(|backend| backend.write_and_tell(batch, durable));
            self.latch(&result);
            result
        } else {
            // A vote is told when it can be seen.
            self.write(batch, sync)
        };
        tell(&waiting, &result);
    }

    fn write(&mut self, ops: Vec<LogOp>, sync: bool) -> Result<(), StorageError> {
        if ops.is_empty() && !sync {
            return Ok(());
        }
        let result = self.unless_failed(|backend| backend.write(ops, sync));
        self.latch(&result);
        if result.is_ok() && sync {
            // Everything written so far is durable, the vote included.
            self.shared.view.lock().state.vote = self.backend.state().vote;
        }
        result
    }

    fn unless_failed<T>(&mut self, action: impl FnOnce(&mut B) -> io::Result<T>) -> Result<T, StorageError> {
        if let Some(failed) = self.shared.failed.borrow().clone() {
            return Err(failed);
        }
        // raft-log is foreign code: a panic in it is a failure of the store like any other.
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| action(&mut self.backend)))
            .unwrap_or_else(|_| Err(io::Error::other("the log backend panicked")))
            .map_err(|error| StorageError::Failed(error.to_string()))
    }

    fn latch<T>(&self, result: &Result<T, StorageError>) {
        let Err(error) = result else { return };
        let first = self.shared.failed.send_if_modified(|failed| {
            let first = failed.is_none();
            failed.get_or_insert_with(|| error.clone());
            first
        });
        if first {
            tracing::error!(%error, "the log store has failed");
        }
    }
}
