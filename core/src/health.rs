//! When results of checks change what is said of a target. Pure.

use crate::observation::TargetHealth;

/// The results in a row that lead to a verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Streak {
    verdict: TargetHealth,
    passed: bool,
    length: u32,
}

/// How many results in a row a verdict needs; nought means one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Successes that make a target healthy.
    pub healthy: u32,
    /// Failures that make it unhealthy.
    pub unhealthy: u32,
}

impl Streak {
    /// The verdict so far.
    #[must_use]
    pub fn verdict(&self) -> TargetHealth {
        self.verdict
    }

    /// Takes in the next result.
    pub fn record(&mut self, passed: bool, thresholds: Thresholds) {
        self.length = if self.passed == passed { self.length.saturating_add(1) } else { 1 };
        self.passed = passed;
        let (wanted, verdict) = if passed {
            (thresholds.healthy, TargetHealth::Healthy)
        } else {
            (thresholds.unhealthy, TargetHealth::Unhealthy)
        };
        if self.length >= wanted.max(1) {
            self.verdict = verdict;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_needs_enough_results_in_a_row() {
        let told = |results: &str| {
            let mut streak = Streak::default();
            let thresholds = Thresholds { healthy: 2, unhealthy: 3 };
            results.chars().for_each(|result| streak.record(result == '+', thresholds));
            streak.verdict().name()
        };
        for (results, expected) in [
            ("", "unknown"),
            ("+", "unknown"),
            ("++", "healthy"),
            ("++--", "healthy"),
            ("++--+-", "healthy"),
            ("++---", "unhealthy"),
            ("++---+", "unhealthy"),
            ("++---++", "healthy"),
            ("--", "unknown"),
        ] {
            assert_eq!(told(results), expected, "{results}");
        }
    }

    #[test]
    fn a_threshold_of_nought_means_one() {
        let mut streak = Streak::default();
        streak.record(false, Thresholds { healthy: 0, unhealthy: 0 });
        assert_eq!(streak.verdict(), TargetHealth::Unhealthy);
    }
}
