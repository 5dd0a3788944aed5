//! The one place where the node reads its clocks.

use pangolin_core::Timestamp;

/// Now, by the wall clock, as commands write it.
#[must_use]
pub fn now() -> Timestamp {
    pangolin_peer::wall_now()
}

/// Now, by a clock that is never set: what observations are stamped with, and their age measured by.
#[must_use]
pub fn steady() -> Timestamp {
    pangolin_peer::steady_now()
}
