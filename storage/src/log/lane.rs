//! Who writes next.
//!
//! There is one turn. An append that finds nothing under way takes it and hands its entries to the medium itself: no
//! other thread has to wake up for that. It keeps the turn until they are durable; what comes meanwhile waits in the
//! queue, and is one group for the thread when the turn is free again. Whatever takes time (votes, reading from disk, a
//! new file, bringing the medium to rest) is always done by the thread.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::{
    LogBackend,
    store::Job,
    writer::{BATCH_MAX, Pass, Rest, Writer},
};

/// Takes jobs, whatever the medium.
pub(super) trait Submit: Send + Sync {
    /// Does a job or sees to it that it is done, in the order of submission.
    ///
    /// # Errors
    /// The lane is closed.
    fn submit(self: Arc<Self>, job: Job) -> Result<(), ()>;
}

/// A medium and the queue before it.
pub(super) struct Lane<B> {
    queue: Mutex<Queue>,
    /// Wakes the thread.
    news: Condvar,
    /// Used by whoever has the turn; gone with the thread, so that the medium is free when the lane is closed.
    writer: Mutex<Option<Writer<B>>>,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    /// Whether somebody has the turn.
    taken: bool,
    /// Turns that appends have taken.
    appended: u64,
    /// Whether the thread waits without end, as all is at rest.
    at_rest: bool,
    closed: bool,
}

/// What the thread has taken the turn for.
enum Task {
    Jobs(Vec<Job>),
    Settle,
}

impl<B: LogBackend> Submit for Lane<B> {
    fn submit(self: Arc<Self>, job: Job) -> Result<(), ()> {
        let mut queue = self.queue.lock();
        if queue.closed {
            return Err(());
        }
        match job {
            Job::Write { ops, sync: true, done } if !queue.taken && queue.jobs.is_empty() => {
                queue.taken = true;
                drop(queue);
                let mut writer = self.writer.lock();
                if let Some(writer) = writer.as_mut().filter(|writer| writer.is_quick(&ops)) {
                    self.note_append();
                    writer.append(ops, done, self.pass());
                    return Ok(());
                }
                drop(writer);
                let mut queue = self.queue.lock();
                // Before what has come meanwhile.
                queue.jobs.push_front(Job::Write { ops, sync: true, done });
                queue.taken = false;
            }
            job => {
                queue.closed = matches!(job, Job::Stop);
                queue.jobs.push_back(job);
                if queue.taken {
                    return Ok(());
                }
            }
        }
        self.news.notify_one();
        Ok(())
    }
}

impl<B: LogBackend> Lane<B> {
    pub(super) fn new(writer: Writer<B>) -> Arc<Self> {
        Arc::new(Self { queue: Mutex::default(), news: Condvar::new(), writer: Mutex::new(Some(writer)) })
    }

    /// What the thread does, until a stop comes.
    pub(super) fn run(self: Arc<Self>) {
        // Also if it ends by a panic: nobody waits for what is never done.
        let _closed = Closed(&self);
        let mut rest = Rest::Settled;
        loop {
            match self.take_turn(&mut rest) {
                Task::Settle => {
                    rest = self.write(|writer| writer.settle(rest)).unwrap_or(Rest::Settled);
                    self.pass()();
                }
                Task::Jobs(jobs) => {
                    rest = Rest::Hint;
                    let pass = self.pass();
                    if self.write(|writer| writer.process(jobs, pass)) != Some(false) {
                        break;
                    }
                }
            }
        }
        let mut queue = self.queue.lock();
        while queue.taken {
            self.news.wait(&mut queue);
        }
        drop(queue);
        self.write(Writer::close);
    }

    /// Uses the medium, as long as it is there; whoever calls has the turn.
    fn write<T>(&self, action: impl FnOnce(&mut Writer<B>) -> T) -> Option<T> {
        self.writer.lock().as_mut().map(action)
    }

    /// Waits until there is something to do and the turn is free.
    fn take_turn(&self, rest: &mut Rest) -> Task {
        let mut queue = self.queue.lock();
        let mut appended = queue.appended;
        loop {
            if !queue.taken && !queue.jobs.is_empty() {
                queue.taken = true;
                let count = queue.jobs.len().min(BATCH_MAX);
                return Task::Jobs(queue.jobs.drain(..count).collect());
            }
            let quiet = self.wait(&mut queue, *rest);
            if queue.appended != appended {
                // An append has come and gone by itself.
                (appended, *rest) = (queue.appended, Rest::Hint);
            } else if quiet && !queue.taken && queue.jobs.is_empty() {
                queue.taken = true;
                return Task::Settle;
            }
        }
    }

    /// Waits for news; true if none has come for as long as `rest` says.
    fn wait(&self, queue: &mut MutexGuard<'_, Queue>, rest: Rest) -> bool {
        match rest.within() {
            Some(within) => self.news.wait_for(queue, within).timed_out(),
            None => {
                queue.at_rest = true;
                self.news.wait(queue);
                queue.at_rest = false;
                false
            }
        }
    }

    /// Has the thread bring the medium to rest when no more comes.
    fn note_append(&self) {
        let mut queue = self.queue.lock();
        queue.appended += 1;
        if queue.at_rest {
            self.news.notify_one();
        }
    }

    /// Gives the turn back.
    fn pass(self: &Arc<Self>) -> Pass {
        let lane = self.clone();
        Box::new(move || {
            let mut queue = lane.queue.lock();
            queue.taken = false;
            if !queue.jobs.is_empty() || queue.closed {
                lane.news.notify_one();
            }
        })
    }
}

/// Nothing is taken any more when this goes.
struct Closed<'a, B>(&'a Lane<B>);

impl<B> Drop for Closed<'_, B> {
    fn drop(&mut self) {
        let mut queue = self.0.queue.lock();
        queue.closed = true;
        // Dropped without the lock: what waits for a job may look at the lane when it is gone.
        let left = std::mem::take(&mut queue.jobs);
        drop(queue);
        drop((left, self.0.writer.lock().take()));
    }
}
