//! How often, and how else, a request is tried again.

use std::time::{Duration, Instant};

use pangolin_core::NodeId;

use crate::dial::Via;

/// Connections tried for one request: the first, one elsewhere, and one more for a second failure at the same time.
const TRIES_MAX: u32 = 3;
/// From the first failure to the last new try. A person waits about that long.
const BUDGET: Duration = Duration::from_secs(5);
/// Before the second repetition; the first one is immediate.
const PAUSE: Duration = Duration::from_millis(100);
/// A target without any live tunnel is waited for, for so long after it was lost: a tunnel moves within a second
/// or two. Later requests are answered at once.
const PATH_WAIT: Duration = Duration::from_secs(3);
/// Between looks for a way.
const PATH_POLL: Duration = Duration::from_millis(100);

/// What has failed so far for one request.
#[derive(Debug, Default)]
pub(crate) struct Tries {
    made: u32,
    first_failure: Option<Instant>,
    /// Targets of the route that failed, by index.
    pub(crate) failed: Vec<usize>,
    /// Nodes that failed.
    pub(crate) exclude: Vec<NodeId>,
    /// Connections that waited unused are not trusted any more.
    pub(crate) fresh: bool,
}

/// What to do after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Again,
    After(Duration),
    GiveUp,
}

/// A failure of one way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Failure {
    pub(crate) target: usize,
    pub(crate) via: Via,
    /// The connection had carried requests before.
    pub(crate) reused: bool,
}

impl Tries {
    /// A connection could not be made or broke. `own` is this node.
    pub(crate) fn way_failed(&mut self, now: Instant, failure: Failure, own: Option<NodeId>) -> Next {
        self.made += 1;
        self.fresh = true;
        let node = match failure.via {
            Via::Relay(node) => Some(node),
            // A local connection that was used before may just have been closed by the target.
            Via::Local => own.filter(|_| !failure.reused),
        };
        if let Some(node) = node.filter(|node| !self.exclude.contains(node)) {
            self.exclude.push(node);
        }
        if !failure.reused && !self.failed.contains(&failure.target) {
            self.failed.push(failure.target);
        }
        self.next(now)
    }

    fn next(&mut self, now: Instant) -> Next {
        if self.made >= TRIES_MAX || self.is_over(now) {
            Next::GiveUp
        } else if self.made == 1 {
            Next::Again
        } else {
            Next::After(PAUSE)
        }
    }

    /// The way led to the target, which refused: nothing speaks against the way.
    pub(crate) fn target_failed(&mut self, now: Instant, target: usize) -> Next {
        self.made += 1;
        if !self.failed.contains(&target) {
            self.failed.push(target);
        }
        self.next(now)
    }

    /// There is no way to a target, for `unreachable` already. `targets` is how many the route has.
    pub(crate) fn no_path(
        &mut self,
        now: Instant,
        target: usize,
        targets: usize,
        unreachable: Duration,
    ) -> Next {
        if self.is_over(now) {
            return Next::GiveUp;
        }
        if !self.exclude.is_empty() {
            // Better through a node that has just failed than not at all.
            self.exclude.clear();
            return Next::Again;
        }
        if !self.failed.contains(&target) {
            self.failed.push(target);
        }
        if self.failed.len() < targets {
            Next::Again
        } else if unreachable >= PATH_WAIT {
            Next::GiveUp
        } else {
            self.failed.clear();
            Next::After(PATH_POLL)
        }
    }

    fn is_over(&mut self, now: Instant) -> bool {
        let first = *self.first_failure.get_or_insert(now);
        now.saturating_duration_since(first) >= BUDGET
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Option<NodeId> = Some(NodeId(1));

    fn failure(via: Via, reused: bool) -> Failure {
        Failure { target: 0, via, reused }
    }

    #[test]
    fn the_first_repetition_is_immediate_and_the_third_failure_the_last() {
        let now = Instant::now();
        let mut tries = Tries::default();
        let relay = failure(Via::Relay(NodeId(2)), false);
        assert_eq!(tries.way_failed(now, relay, OWN), Next::Again);
        assert_eq!(tries.way_failed(now, relay, OWN), Next::After(PAUSE));
        assert_eq!(tries.way_failed(now, relay, OWN), Next::GiveUp);
        assert_eq!(tries.exclude, [NodeId(2)]);
    }

    #[test]
    fn a_used_local_connection_that_breaks_speaks_against_nothing_but_itself() {
        let mut tries = Tries::default();
        tries.way_failed(Instant::now(), failure(Via::Local, true), OWN);
        assert!(tries.exclude.is_empty() && tries.failed.is_empty() && tries.fresh);
        tries.way_failed(Instant::now(), failure(Via::Local, false), OWN);
        assert_eq!((&tries.exclude[..], &tries.failed[..]), (&[NodeId(1)][..], &[0][..]));
    }

    #[test]
    fn the_budget_ends_tries() {
        let now = Instant::now();
        let mut tries = Tries::default();
        assert_eq!(tries.way_failed(now, failure(Via::Local, true), OWN), Next::Again);
        assert_eq!(tries.way_failed(now + BUDGET, failure(Via::Local, true), OWN), Next::GiveUp);
    }

    #[test]
    fn without_a_way_failed_nodes_come_first_then_other_targets_then_waiting() {
        let now = Instant::now();
        let mut tries = Tries { exclude: vec![NodeId(2)], ..Tries::default() };
        assert_eq!(tries.no_path(now, 0, 2, Duration::ZERO), Next::Again);
        assert!(tries.exclude.is_empty() && tries.failed.is_empty());
        assert_eq!(tries.no_path(now, 0, 2, Duration::ZERO), Next::Again);
        assert_eq!(tries.failed, [0]);
        assert_eq!(tries.no_path(now, 1, 2, Duration::ZERO), Next::After(PATH_POLL));
        assert!(tries.failed.is_empty());
        tries.no_path(now, 0, 2, PATH_WAIT);
        assert_eq!(tries.no_path(now, 1, 2, PATH_WAIT), Next::GiveUp);
    }
}
