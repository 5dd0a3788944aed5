//! Does groups of jobs on a medium.
//!
//! How far entries are committed is a hint for the next start: it costs no wake-up of its own, but goes with the next
//! batch, or alone soon after the last one.

use std::{
    io,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::Duration,
};

use tokio::sync::mpsc;

use super::{
    LogBackend, LogOp,
    disk::MARK_INTERVAL,
    simulated::{Disk, SimulatedLog},
    store::{Job, Shared},
};
use crate::StorageError;

/// Most jobs in one batch: bounds how long the first one waits for its sync.
const BATCH_MAX: usize = 1024;
/// After this time without a batch to go with, a hint is written alone.
const HINT_AFTER: Duration = Duration::from_millis(50);

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

/// A medium, and those who read what is written there.
pub(super) struct Writer<B> {
    backend: B,
    shared: Arc<Shared>,
}

impl<B: LogBackend> Writer<B> {
    /// Does what is queued, on a thread of its own.
    pub(super) fn run(mut self, queue: &Receiver<Job>) {
        let mut rest = Rest::Settled;
        loop {
            let first = match rest.within() {
                None => queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(within) => queue.recv_timeout(within),
            };
            match first {
                Ok(first) => {
                    rest = Rest::Hint;
                    let jobs = std::iter::once(first).chain(queue.try_iter()).take(BATCH_MAX).collect();
                    if self.process(jobs) {
                        break;
                    }
                }
                Err(RecvTimeoutError::Timeout) => rest = self.settle(rest),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.close();
    }
}

impl Writer<SimulatedLog> {
    /// Does what is queued, as a task and in the time that the disk takes.
    pub(super) async fn run_slowly(mut self, disk: Disk, mut queue: mpsc::UnboundedReceiver<Job>) {
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
        self.close();
    }
}

impl<B: LogBackend> Writer<B> {
    pub(super) fn new(backend: B, shared: Arc<Shared>) -> Self {
        Self { backend, shared }
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
                self.shared.latch(&result);
                Rest::Settled
            }
        }
    }

    /// Does all that is left to do.
    fn close(&mut self) {
        let rest = self.settle(Rest::Hint);
        self.settle(rest);
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
        let result = self.write(batch, sync);
        for done in dones {
            done(result.clone());
        }
        stop
    }

    fn write(&mut self, ops: Vec<LogOp>, sync: bool) -> Result<(), StorageError> {
        if ops.is_empty() && !sync {
            return Ok(());
        }
        let result = self.unless_failed(|backend| backend.write(ops, sync));
        self.shared.latch(&result);
        if result.is_ok() && sync {
            // Everything written so far is durable, the vote included.
            self.shared.view.lock().state.vote = self.backend.state().vote;
        }
        result
    }

    fn unless_failed<T>(&mut self, action: impl FnOnce(&mut B) -> io::Result<T>) -> Result<T, StorageError> {
        self.shared.failed().map_or(Ok(()), Err)?;
        self.caught(action)
    }

    /// A panic is a failure of the store like any other: whoever waits is told.
    fn caught<T>(&mut self, action: impl FnOnce(&mut B) -> io::Result<T>) -> Result<T, StorageError> {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| action(&mut self.backend)))
            .unwrap_or_else(|_| Err(io::Error::other("the log backend panicked")))
            .map_err(failure)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn failure(error: io::Error) -> StorageError {
    StorageError::Failed(error.to_string())
}
