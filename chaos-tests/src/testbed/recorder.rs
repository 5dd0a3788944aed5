//! Writes down what happens, in the order of one clock, from whichever thread it is seen.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::history::{Header, History, OpId, PER_LATE, What};

/// The history of a run while it is written. Clones write the same one.
#[derive(Clone, Debug)]
pub struct Recorder {
    began: Instant,
    history: Arc<Mutex<History>>,
    next: Arc<AtomicU64>,
}

impl Recorder {
    /// Begins a history.
    #[must_use]
    pub fn new(header: Header) -> Self {
        let history = Arc::new(Mutex::new(History::new(header)));
        Self { began: Instant::now(), history, next: Arc::new(AtomicU64::new(1)) }
    }

    /// When it began.
    #[must_use]
    pub fn began(&self) -> Instant {
        self.began
    }

    /// Notes what happens now.
    pub fn push(&self, what: What) {
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        // Under the lock, so that times and places in the history have the same order.
        let at = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        history.push(at, what);
    }

    /// Notes something for those who read.
    pub fn note(&self, text: impl Into<String>) {
        self.push(What::Note { text: text.into() });
    }

    /// How much time of the last `span` is excused, because the machine was busy.
    #[must_use]
    pub fn excused(&self, span: Duration) -> Duration {
        let now = self.began.elapsed();
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        let late = history.late_between(micros(now.saturating_sub(span)), micros(now));
        Duration::from_micros(late.saturating_mul(PER_LATE))
    }

    /// A new operation's, fault's or request's name.
    pub fn name(&self) -> OpId {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// The history so far.
    #[must_use]
    pub fn so_far(&self) -> History {
        self.history.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes what is said about the run.
    pub fn header(&self, change: impl FnOnce(&mut Header)) {
        change(&mut self.history.lock().unwrap_or_else(PoisonError::into_inner).header);
    }
}
