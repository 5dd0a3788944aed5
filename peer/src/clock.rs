//! The two clocks of a node: the wall clock, which may be set at any time, and one that never is.

use std::{
    sync::LazyLock,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use pangolin_core::time::Timestamp;

static START: LazyLock<(Timestamp, Instant)> = LazyLock::new(|| (wall_now(), Instant::now()));

/// Now, by the wall clock.
#[must_use]
pub fn wall_now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Now, by a clock that begins with the wall clock when it is first asked and is never set: what durations are
/// measured with, and observations stamped.
#[must_use]
pub fn steady_now() -> Timestamp {
    let (start, began) = *START;
    start + began.elapsed()
}
