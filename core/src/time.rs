//! Points in time, as they are written into commands.

use std::{fmt, ops::Add, time::Duration};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

/// Milliseconds since the Unix epoch (UTC). Comes from a proposer's clock, never from this crate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// The time that has passed since `earlier`; zero if `earlier` lies ahead.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, rhs: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(rhs.as_millis()).unwrap_or(u64::MAX)))
    }
}

/// How far clocks may be apart: the way of a message and the drift of a host under NTP fit in many times.
pub const CLOCK_TOLERANCE: Duration = Duration::from_secs(1);

/// The wall clocks of the voters at one moment, as one of them knows them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clocks {
    /// The own one.
    pub own: Timestamp,
    /// Those of other voters that are known.
    pub others: Vec<Timestamp>,
    /// Number of voters.
    pub voters: usize,
}

impl Clocks {
    /// The median of the clocks that are known, the lower one of two: a clock that runs ahead must not take the log
    /// along, because log time never goes back. None unless a majority is known.
    #[must_use]
    pub fn median(&self) -> Option<Timestamp> {
        let mut known: Vec<Timestamp> =
            std::iter::once(self.own).chain(self.others.iter().copied()).collect();
        known.sort_unstable();
        (known.len() * 2 > self.voters).then(|| known[(known.len() - 1) / 2])
    }

    /// The time for the next command: not before `previous`, and not further ahead of the median than
    /// [`CLOCK_TOLERANCE`].
    #[must_use]
    pub fn log_time(&self, previous: Timestamp) -> Timestamp {
        let latest = self.median().map_or(self.own, |median| self.own.min(median + CLOCK_TOLERANCE));
        previous.max(latest)
    }

    /// Milliseconds by which the own clock is ahead of (or, negative, behind) the median, where that is more than
    /// [`CLOCK_TOLERANCE`]: whoever has such a clock should not lead. With fewer than three clocks nobody can say
    /// which is wrong.
    #[must_use]
    pub fn own_error(&self) -> Option<i64> {
        let median = self.median().filter(|_| self.others.len() >= 2)?;
        let error = i64::try_from(self.own.0).ok()?.checked_sub(i64::try_from(median.0).ok()?)?;
        (u128::from(error.unsigned_abs()) > CLOCK_TOLERANCE.as_millis()).then_some(error)
    }
}

/// RFC 3339 in UTC with milliseconds, like `2026-11-21T06:49:05.123Z`: the same on every node.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = i128::from(self.0) * 1_000_000;
        match OffsetDateTime::from_unix_timestamp_nanos(nanos) {
            Ok(t) => write!(
                f,
                "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
                t.year(),
                u8::from(t.month()),
                t.day(),
                t.hour(),
                t.minute(),
                t.second(),
                t.millisecond()
            ),
            // Beyond the year 9999: no calendar, but still a time that reads back.
            Err(_) => f.write_str("9999-12-31T23:59:59.999Z"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_time_follows_the_median_never_goes_back_and_a_wrong_clock_is_known() {
        const DAY: u64 = 86_400_000;
        let base = 10 * DAY;
        // own clock, others, voters, previous stamp -> the next stamp, the own error
        let cases = [
            (base, vec![], 1, 0, base, None),
            (base, vec![base + 3, base - 4], 3, 0, base, None),
            (base, vec![base + 3, base - 4], 3, base + 9, base + 9, None),
            (base + DAY, vec![base, base + 1], 3, 0, base + 1001, Some(86_399_999)),
            (base - DAY, vec![base, base + 1], 3, base, base, Some(-86_400_000)),
            (base + DAY, vec![base], 3, 0, base + 1000, None),
            (base, vec![base + DAY], 3, 0, base, None),
            (base, vec![base + DAY], 2, 0, base, None),
            (base + DAY, vec![], 3, 0, base + DAY, None),
            (base + 1500, vec![base, base + 900], 3, 0, base + 1500, None),
            (0, vec![u64::MAX, u64::MAX], 3, 5, 5, None),
        ];
        for (own, others, voters, previous, stamp, error) in cases {
            let others: Vec<Timestamp> = others.into_iter().map(Timestamp).collect();
            let clocks = Clocks { own: Timestamp(own), others, voters };
            assert_eq!(clocks.log_time(Timestamp(previous)), Timestamp(stamp), "{clocks:?}");
            assert_eq!(clocks.own_error(), error, "{clocks:?}");
        }
    }

    #[test]
    fn times_are_written_for_people_in_utc() {
        assert_eq!(Timestamp(1_795_243_745_123).to_string(), "2026-11-21T06:49:05.123Z");
        assert_eq!(Timestamp(0).to_string(), "1970-01-01T00:00:00.000Z");
        assert_eq!(Timestamp(u64::MAX).to_string(), "9999-12-31T23:59:59.999Z");
    }
}
