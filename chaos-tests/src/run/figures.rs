//! A run in numbers.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::{
    history::{Call, End, History, Role, What},
    invariants::serves_through,
};

/// A run in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Figures {
    /// Operations of clients.
    pub operations: usize,
    /// Writes that were acknowledged.
    pub acknowledged_writes: usize,
    /// Operations that were refused.
    pub refused: usize,
    /// Operations of which nobody knows whether they took place.
    pub unknown: usize,
    /// Half of the acknowledged writes took at most this, in milliseconds.
    pub write_p50_ms: u64,
    /// 99 of 100 acknowledged writes took at most this, in milliseconds.
    pub write_p99_ms: u64,
    /// Faults that have taken effect.
    pub faults: usize,
    /// Terms in which somebody was seen to lead.
    pub terms: usize,
    /// Requests of visitors.
    pub probes: usize,
    /// Those that got no page.
    pub probes_failed: usize,
    /// The longest silence of a node that no fault had hit, in milliseconds.
    pub longest_gap_ms: u64,
    /// DNS answers that were looked at.
    pub dns_answers: usize,
    /// How long somebody had to wait for a processor in all, in milliseconds: how busy the machine was.
    pub late_ms: u64,
    /// Most memory that a node took, in MiB.
    pub memory_max_mib: u64,
    /// Most files and sockets that a node had open.
    pub descriptors_max: usize,
}

impl Figures {
    /// The figures of a history.
    #[must_use]
    pub fn of(history: &History) -> Self {
        let mut figures =
            Self { longest_gap_ms: serves_through::longest_gap(history) / 1000, ..Self::default() };
        let mut writes = Vec::new();
        for operation in history.operations() {
            figures.operations += 1;
            match operation.end {
                End::Ok { .. } if matches!(operation.call, Call::Write { .. }) => {
                    writes.push(operation.to - operation.from);
                }
                End::Ok { .. } => {}
                End::Fail => figures.refused += 1,
                End::Unknown => figures.unknown += 1,
            }
        }
        writes.sort_unstable();
        figures.acknowledged_writes = writes.len();
        figures.write_p50_ms = quantile(&writes, 50) / 1000;
        figures.write_p99_ms = quantile(&writes, 99) / 1000;
        let mut terms = BTreeSet::new();
        for event in &history.events {
            match &event.what {
                What::FaultStarted(_) => figures.faults += 1,
                What::Observed(seen) if seen.role == Role::Leader => {
                    terms.insert(seen.term);
                }
                What::Probe(probe) => {
                    figures.probes += 1;
                    figures.probes_failed += usize::from(probe.problem.is_some());
                }
                What::DnsAnswer(_) => figures.dns_answers += 1,
                What::Late { micros } => figures.late_ms += micros / 1000,
                What::Usage(usage) => {
                    figures.memory_max_mib = figures.memory_max_mib.max(usage.memory >> 20);
                    figures.descriptors_max = figures.descriptors_max.max(usage.descriptors);
                }
                _ => {}
            }
        }
        figures.terms = terms.len();
        figures
    }
}

/// The value that this many of 100 do not pass; 0 of none.
#[must_use]
pub fn quantile(sorted: &[u64], of_100: usize) -> u64 {
    let place = (sorted.len() * of_100).div_ceil(100).saturating_sub(1);
    sorted.get(place).copied().unwrap_or(0)
}

/// Operations that ended in each second: with success, refused, unknown.
#[must_use]
pub(super) fn per_second(history: &History, width: u64) -> BTreeMap<u64, [usize; 3]> {
    let mut buckets: BTreeMap<u64, [usize; 3]> = BTreeMap::new();
    for event in &history.events {
        let place = match &event.what {
            What::Ok { .. } => 0,
            What::Fail { .. } => 1,
            What::Unknown { .. } => 2,
            _ => continue,
        };
        buckets.entry(event.at / width).or_default()[place] += 1;
    }
    buckets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_occurred() {
        let values: Vec<u64> = (1..=200).collect();
        assert_eq!((quantile(&values, 50), quantile(&values, 99), quantile(&values, 100)), (100, 198, 200));
        assert_eq!((quantile(&[7], 50), quantile(&[], 99)), (7, 0));
    }
}
