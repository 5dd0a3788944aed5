//! When results of checks change what is said of a target. Pure.

use pangolin_tunnel::control::messages::Check;

/// What is said of a target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verdict {
    /// No check has ended, or not enough of them.
    #[default]
    Unknown,
    /// Checks pass.
    Healthy,
    /// Checks fail.
    Unhealthy,
}

impl Verdict {
    /// Its name in the protocol.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// The results in a row that lead to a verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Streak {
    /// The verdict so far.
    pub(super) verdict: Verdict,
    passed: bool,
    length: u32,
}

impl Streak {
    /// Takes in the next result.
    pub(super) fn record(&mut self, passed: bool, check: &Check) {
        self.length = if self.passed == passed { self.length.saturating_add(1) } else { 1 };
        self.passed = passed;
        let (wanted, verdict) = if passed {
            (check.hc_healthy_threshold, Verdict::Healthy)
        } else {
            (check.hc_unhealthy_threshold, Verdict::Unhealthy)
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
        let check = Check { hc_healthy_threshold: 2, hc_unhealthy_threshold: 3, ..Check::default() };
        let told = |results: &str| {
            let mut streak = Streak::default();
            results.chars().for_each(|result| streak.record(result == '+', &check));
            streak.verdict.name()
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
        streak.record(false, &Check::default());
        assert_eq!(streak.verdict, Verdict::Unhealthy);
    }
}
