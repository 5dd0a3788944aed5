//! What a run of operations was like.

use std::time::Duration;

use serde::Serialize;

/// The durations of operations, in microseconds, and the longest time of each round in which none was finished.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample {
    micros: Vec<u64>,
    stalls: Vec<Duration>,
    took: Duration,
    failed: u64,
    /// CPU time of all nodes, in seconds.
    pub(crate) cpu: f64,
}

/// A [`Sample`] in a few numbers.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figures {
    pub(crate) per_second: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) max_ms: f64,
    /// The longest time of a round in which no operation of any client was finished: the median of the rounds. One
    /// event outside of the systems would else decide what the longest is.
    pub(crate) stall_ms: f64,
    /// The longest of all rounds.
    pub(crate) stall_max_ms: f64,
    /// CPU time of all nodes together per operation, in microseconds.
    pub(crate) cpu_us: f64,
    pub(crate) operations: usize,
    pub(crate) failed: u64,
}

impl Sample {
    /// Operations that were finished within `took`, with the longest pause between two of them.
    pub(crate) fn new(micros: Vec<u64>, stall: Duration, took: Duration, failed: u64) -> Self {
        Self { micros, stalls: vec![stall], took, failed, cpu: 0.0 }
    }

    /// A sample of single events, for which a rate means nothing.
    pub(crate) fn of(durations: &[Duration]) -> Self {
        let micros = durations.iter().map(|d| u64::try_from(d.as_micros()).unwrap_or(u64::MAX)).collect();
        let stall = durations.iter().max().copied().unwrap_or_default();
        Self { micros, stalls: vec![stall], took: durations.iter().sum(), failed: 0, cpu: 0.0 }
    }

    /// Adds the operations of another round.
    pub(crate) fn add(&mut self, other: &Self) {
        self.micros.extend_from_slice(&other.micros);
        self.stalls.extend_from_slice(&other.stalls);
        self.took += other.took;
        self.failed += other.failed;
        self.cpu += other.cpu;
    }

    /// In a few numbers.
    pub(crate) fn figures(&self) -> Figures {
        let mut sorted = self.micros.clone();
        sorted.sort_unstable();
        let millis = |micros: u64| round(micros as f64 / 1000.0);
        let mut stalls: Vec<u64> = self.stalls.iter().map(|stall| stall.as_micros() as u64).collect();
        stalls.sort_unstable();
        Figures {
            per_second: round(sorted.len() as f64 / self.took.as_secs_f64().max(f64::MIN_POSITIVE)),
            p50_ms: millis(quantile(&sorted, 0.50)),
            p99_ms: millis(quantile(&sorted, 0.99)),
            max_ms: millis(sorted.last().copied().unwrap_or(0)),
            stall_ms: millis(quantile(&stalls, 0.5)),
            stall_max_ms: millis(stalls.last().copied().unwrap_or(0)),
            cpu_us: round(self.cpu * 1e6 / sorted.len().max(1) as f64),
            operations: sorted.len(),
            failed: self.failed,
        }
    }
}

/// Two digits behind the point: more would pretend.
pub(crate) fn round(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}

/// The smallest value that at least this share of a sorted list does not exceed (nearest rank).
fn quantile(sorted: &[u64], share: f64) -> u64 {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_of_the_sample() {
        let sorted: Vec<u64> = (1..=100).collect();
        assert_eq!([0.5, 0.99, 1.0].map(|share| quantile(&sorted, share)), [50, 99, 100]);
        assert_eq!((quantile(&[7], 0.5), quantile(&[], 0.5)), (7, 0));
    }

    #[test]
    fn rounds_add_up() {
        let mut sample = Sample::new(vec![1000, 3000], Duration::from_millis(5), Duration::from_secs(1), 0);
        sample.add(&Sample::new(vec![2000; 4], Duration::from_millis(2), Duration::from_secs(1), 1));
        let figures = sample.figures();
        assert_eq!((figures.per_second, figures.p50_ms, figures.p99_ms), (3.0, 2.0, 3.0));
        assert_eq!((figures.stall_ms, figures.stall_max_ms), (2.0, 5.0));
        assert_eq!((figures.operations, figures.failed), (6, 1));
    }
}
