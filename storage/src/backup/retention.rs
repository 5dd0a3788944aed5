//! Which backups may go.

use std::{collections::BTreeSet, time::Duration};

use pangolin_core::Timestamp;

use super::{Header, Point, chain};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// How many backups are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// The first and the last one of each of so many hours: the archived log leads from the first to any other. Behind a
    /// gap in that log, the first one that it does not lead to as well.
    pub hourly: usize,
    /// The last one of each of so many days.
    pub daily: usize,
    /// Bytes of log segments; beyond it the oldest go.
    pub log_bytes: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Self { hourly: 24, daily: 14, log_bytes: 1 << 30 }
    }
}

/// The files that are no longer needed, as positions in the list that was given (with their sizes): states beyond
/// those of the last hours and days in which there are any, and segments that no state leads to any more. The newest
/// state always stays. Pure.
#[must_use]
pub fn superfluous(files: &[(Header, u64)], retention: &Retention) -> Vec<usize> {
    let mut states: Vec<usize> = (0..files.len()).filter(|n| files[*n].0.is_state()).collect();
    states.sort_by_key(|n| std::cmp::Reverse((files[*n].0.made_at, files[*n].0.revision)));
    let mut kept = BTreeSet::from_iter(states.first().copied());
    for (unit, count) in [(HOUR, retention.hourly), (DAY, retention.daily)] {
        let mut seen = BTreeSet::new();
        for n in &states {
            let bucket = bucket(files[*n].0.made_at, unit);
            if seen.len() < count && seen.insert(bucket) {
                kept.insert(*n);
            }
        }
        if unit == HOUR {
            let first = |bucket: &u64| {
                states.iter().rev().find(|n| self::bucket(files[**n].0.made_at, HOUR) == *bucket).copied()
            };
            kept.extend(seen.iter().filter_map(first));
            let mut recent: Vec<usize> = states
                .iter()
                .copied()
                .filter(|n| seen.contains(&self::bucket(files[*n].0.made_at, HOUR)))
                .collect();
            recent.sort_by_key(|n| files[*n].0.revision);
            for n in recent {
                if !is_led_to(files, &kept, n) {
                    kept.insert(n);
                }
            }
        }
    }
    let oldest = kept.iter().map(|n| files[*n].0.revision).min();
    let mut logs: Vec<usize> = (0..files.len()).filter(|n| !files[*n].0.is_state()).collect();
    logs.sort_by_key(|n| std::cmp::Reverse(files[*n].0.revision));
    let mut room = retention.log_bytes;
    let mut full = false;
    let needless = logs.into_iter().filter(|n| {
        let (header, size) = &files[*n];
        // Behind a segment that has no room nothing older is of use.
        full |= *size > room;
        room = room.saturating_sub(*size);
        full || oldest.is_none_or(|oldest| header.revision <= oldest)
    });
    let mut gone: Vec<usize> = needless.collect();
    gone.extend(states.into_iter().filter(|n| !kept.contains(n)));
    gone.sort_unstable();
    gone
}

/// Whether the archived log leads to a state from the last one before it that is kept.
fn is_led_to(files: &[(Header, u64)], kept: &BTreeSet<usize>, state: usize) -> bool {
    let to = files[state].0.revision;
    let before = kept.iter().filter(|n| files[**n].0.revision < to).max_by_key(|n| files[**n].0.revision);
    let Some(before) = before else { return kept.contains(&state) };
    let logs = files.iter().map(|(header, _)| header).filter(|header| !header.is_state());
    let way: Vec<Header> = std::iter::once(&files[*before].0).chain(logs).cloned().collect();
    chain(&way, Point::Revision(to)).is_ok()
}

fn bucket(at: Timestamp, unit: Duration) -> u64 {
    at.0 / u64::try_from(unit.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use pangolin_core::{
        Revision,
        id::{ClusterId, NodeId},
        record::Digest,
    };

    use super::*;
    use crate::backup::Kind;

    const MINUTE: u64 = 60_000;

    fn header(kind: Kind, index: u64, minute: u64) -> Header {
        Header {
            kind,
            cluster: ClusterId([1; 16]),
            name: "lab".parse().expect("a name"),
            revision: Revision { lineage: 1, index },
            time: Timestamp(0),
            made_at: Timestamp(minute * MINUTE),
            made_by: NodeId(1),
            version: "0.1.0".into(),
        }
    }

    fn state(minute: u64) -> (Header, u64) {
        (header(Kind::State { digest: Digest([0; 32]) }, minute, minute), 100)
    }

    fn log(first: u64, last: u64) -> (Header, u64) {
        (header(Kind::Log { first }, last, last), 10)
    }

    #[test]
    fn a_month_of_hourly_backups_leaves_24_hours_and_14_days() {
        let files: Vec<_> = (0..30 * 24).map(|hour| state(hour * 60)).collect();
        let gone = superfluous(&files, &Retention::default());
        let kept: Vec<u64> = (0..files.len()).filter(|n| !gone.contains(n)).map(|n| n as u64).collect();
        // The last day's hours; and of each of the 13 days before, the last hour.
        let last: Vec<u64> = (29 * 24..30 * 24).collect();
        let days: Vec<u64> = (16..29).map(|day| day * 24 + 23).collect();
        assert_eq!(kept, [days, last].concat());
    }

    #[test]
    fn first_and_last_of_an_hour_stay_and_the_newest_of_all_whatever_is_set() {
        let files = [state(5), state(20), state(50), state(61), log(1, 62)];
        assert_eq!(superfluous(&files, &Retention::default()), [1]);
        let none = Retention { hourly: 0, daily: 0, ..Retention::default() };
        assert_eq!(superfluous(&files, &none), [0, 1, 2]);
        let gap = [state(5), state(20), state(30), state(50), state(61), log(1, 10), log(15, 62)];
        assert_eq!(
            superfluous(&gap, &Retention::default()),
            [2],
            "nothing else leads to the one behind the gap"
        );
        assert!(superfluous(&[], &none).is_empty());
    }

    #[test]
    fn segments_stay_as_long_as_a_state_leads_to_them_and_there_is_room() {
        let files = [log(1, 5), state(5), log(6, 8), log(9, 12), state(10)];
        assert_eq!(superfluous(&files, &Retention { hourly: 2, daily: 0, log_bytes: 1000 }), [0]);
        let wide = [log(1, 5), state(5), log(6, 70), state(65), log(71, 80)];
        assert_eq!(superfluous(&wide, &Retention { hourly: 2, daily: 0, log_bytes: 1000 }), [0]);
        assert_eq!(superfluous(&wide, &Retention { hourly: 2, daily: 0, log_bytes: 15 }), [0, 2]);
    }
}
