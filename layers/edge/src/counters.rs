//! What the edge counts.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use http::StatusCode;
use pangolin_core::SiteId;
use parking_lot::Mutex;

use crate::dial::Via;

/// What an edge has done since it started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EdgeCounters {
    /// Requests answered, whoever made the answer.
    pub requests: u64,
    /// Of them, by status class: 1xx, 2xx, 3xx, 4xx, 5xx.
    pub by_class: [u64; 5],
    /// Connections to targets that could not be made or that broke before their response had ended.
    pub upstream_errors: u64,
    /// Requests sent again after such an error.
    pub retries: u64,
    /// Requests, connections of ports and UDP flows, by site and way.
    pub paths: BTreeMap<(SiteId, Via), u64>,
    /// Client connections open now.
    pub active_connections: u64,
    /// Client connections refused by a limit.
    pub refused_connections: u64,
    /// TLS handshakes that failed, unknown server names among them.
    pub failed_handshakes: u64,
}

/// The live counters. Requests touch atomics only; the map of paths is touched once per connection to a target.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    by_class: [AtomicU64; 5],
    pub(crate) upstream_errors: AtomicU64,
    pub(crate) retries: AtomicU64,
    pub(crate) refused_connections: AtomicU64,
    pub(crate) failed_handshakes: AtomicU64,
    paths: Mutex<BTreeMap<(SiteId, Via), Arc<AtomicU64>>>,
}

impl Counters {
    pub(crate) fn answered(&self, status: StatusCode) {
        let class = usize::from(status.as_u16() / 100).clamp(1, 5) - 1;
        self.by_class[class].fetch_add(1, Relaxed);
    }

    /// The counter of one way to one site, for a connection to keep.
    pub(crate) fn path(&self, site: SiteId, via: Via) -> Arc<AtomicU64> {
        Arc::clone(self.paths.lock().entry((site, via)).or_default())
    }

    pub(crate) fn read(&self, active_connections: u64) -> EdgeCounters {
        let mut by_class = [0; 5];
        for (sum, counter) in by_class.iter_mut().zip(&self.by_class) {
            *sum = counter.load(Relaxed);
        }
        EdgeCounters {
            requests: by_class.iter().sum(),
            by_class,
            upstream_errors: self.upstream_errors.load(Relaxed),
            retries: self.retries.load(Relaxed),
            paths: self.paths.lock().iter().map(|(key, n)| (*key, n.load(Relaxed))).collect(),
            active_connections,
            refused_connections: self.refused_connections.load(Relaxed),
            failed_handshakes: self.failed_handshakes.load(Relaxed),
        }
    }
}

pub(crate) fn bump(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}
