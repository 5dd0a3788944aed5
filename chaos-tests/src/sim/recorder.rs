//! The history of a simulated run while it is made.

use std::sync::Arc;

use pangolin_core::{ClusterState, NodeId};
use parking_lot::Mutex;

use super::world;
use crate::history::{History, What};

/// Writes the history; clones share it.
#[derive(Clone)]
pub(crate) struct Recorder(Arc<Mutex<Inner>>);

struct Inner {
    history: History,
    next: u64,
    broken: Option<String>,
}

impl Recorder {
    /// Begins an empty history.
    #[must_use]
    pub(crate) fn new(history: History) -> Self {
        Self(Arc::new(Mutex::new(Inner { history, next: 1, broken: None })))
    }

    /// Notes what happens now. Simulated time stands still while things happen: their order is kept by a microsecond.
    pub(crate) fn note(&self, what: What) {
        let now = u64::try_from(world::elapsed().as_micros()).unwrap_or(u64::MAX);
        let mut inner = self.0.lock();
        let last = inner.history.events.last().map_or(0, |event| event.at);
        inner.history.push(now.max(last + 1), what);
    }

    /// A number that nothing else in the run has.
    #[must_use]
    pub(crate) fn number(&self) -> u64 {
        let mut inner = self.0.lock();
        inner.next += 1;
        inner.next
    }

    /// Notes something that must never happen, whatever the invariants say.
    pub(crate) fn broken(&self, what: impl Into<String>) {
        let what = what.into();
        self.note(What::Note { text: what.clone() });
        self.0.lock().broken.get_or_insert(what);
    }

    /// Ends the history: what happened, and what must never have.
    #[must_use]
    pub(crate) fn end(&self, change: impl FnOnce(&mut History)) -> (History, Option<String>) {
        let inner = self.0.lock();
        let mut history = inner.history.clone();
        change(&mut history);
        (history, inner.broken.clone())
    }

    /// Notes where a node believes the sites' tunnels end.
    pub(crate) fn placements(&self, node: NodeId, state: &ClusterState) {
        for (site, placement) in state.placements() {
            self.note(What::Placement {
                node,
                revision: state.revision(),
                site: *site,
                epoch: placement.epoch.0,
                home: placement.home,
            });
        }
    }
}
