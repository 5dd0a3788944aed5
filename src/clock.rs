//! The one place where the node reads the wall clock.

use std::time::{SystemTime, UNIX_EPOCH};

use pangolin_core::Timestamp;

/// Now, as commands and observations write it.
#[must_use]
pub fn now() -> Timestamp {
    Timestamp(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64))
}
