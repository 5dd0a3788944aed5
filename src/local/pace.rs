//! How fast a loop goes that looks at everything when something changes: with thousands of sites a look takes
//! milliseconds, and what changes in a storm, changes thousands of times.

use std::time::Duration;

/// After a look a loop rests this many times as long as the look took, so that a burst of changes costs a node a tenth of a
/// core for each loop, and what comes meanwhile is seen in one look. Looks at a few sites take microseconds: their loops
/// are as good as always awake.
const REST_FACTOR: u32 = 9;
/// Longest rest: what changes shows within a second, on all the way from one node to the layers of another.
const REST_MAX: Duration = Duration::from_millis(250);

/// How long to rest after a look that took so long.
pub(crate) fn rest_after(took: Duration) -> Duration {
    took.saturating_mul(REST_FACTOR).min(REST_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_rests_in_proportion_to_what_a_look_takes() {
        for (took_us, rest_us) in [(0, 0), (10, 90), (2_000, 18_000), (40_000, 250_000), (u64::MAX, 250_000)]
        {
            assert_eq!(
                rest_after(Duration::from_micros(took_us)),
                Duration::from_micros(rest_us),
                "{took_us}"
            );
        }
    }
}
