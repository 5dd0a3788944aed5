//! What is known of one target, from its checks and from the connections to it. Pure.

use std::time::{Duration, Instant};

use pangolin_core::observation::TargetHealth;

/// A connector that comes back, or whose control socket moves to another node, says nothing of its targets until it
/// has checked them again: what was known before holds for so long.
const HOLD: Duration = Duration::from_secs(10);
/// Failures in a row that eject a target: one or two happen when a program restarts.
const FAILURES: u32 = 3;
/// How long it is ejected the first time, and at most; each time in a row doubles it.
const EJECTED_FIRST: Duration = Duration::from_secs(5);
const EJECTED_MAX: Duration = Duration::from_secs(300);

/// What has been seen of a target so far.
#[derive(Debug, Default)]
pub(crate) struct Record {
    told: TargetHealth,
    /// Nobody says anything any more; what was told holds until then.
    silent: Option<Instant>,
    failures: u32,
    ejection: Option<Ejection>,
}

/// A target gets no traffic as long as there are others.
#[derive(Clone, Copy, Debug)]
struct Ejection {
    until: Instant,
    lasts: Duration,
}

impl Record {
    /// What the checks say now.
    pub(crate) fn tell(&mut self, now: Instant, health: TargetHealth) {
        if health != TargetHealth::Unknown {
            (self.told, self.silent) = (health, None);
        } else if self.told != TargetHealth::Unknown && self.silent.is_none() {
            self.silent = Some(now + HOLD);
        }
    }

    /// What the checks say, or said a moment ago.
    pub(crate) fn health(&self, now: Instant) -> TargetHealth {
        if self.silent.is_some_and(|until| now >= until) { TargetHealth::Unknown } else { self.told }
    }

    /// It refused a connection, broke it before an answer, or answered for a gateway that reaches nobody.
    pub(crate) fn failed(&mut self, now: Instant) {
        if self.is_ejected(now) {
            return;
        }
        self.failures += 1;
        if self.failures < FAILURES {
            return;
        }
        let lasts = self.ejection.map_or(EJECTED_FIRST, |before| (before.lasts * 2).min(EJECTED_MAX));
        self.ejection = Some(Ejection { until: now + lasts, lasts });
        // The next failure after that is enough.
        self.failures = FAILURES - 1;
    }

    /// It answered. Once it has done so for as long as it was ejected, that is forgotten.
    pub(crate) fn succeeded(&mut self, now: Instant) {
        match self.ejection {
            Some(ejection) if now < ejection.until + ejection.lasts => {
                if now >= ejection.until {
                    self.failures = 0;
                }
            }
            _ => (self.failures, self.ejection) = (0, None),
        }
    }

    pub(crate) fn is_ejected(&self, now: Instant) -> bool {
        self.ejected_for(now).is_some()
    }

    /// For how long it is still ejected.
    pub(crate) fn ejected_for(&self, now: Instant) -> Option<Duration> {
        let until = self.ejection?.until;
        (now < until).then(|| until - now)
    }

    /// Whether a success changes anything: so that the many after the first cost nothing.
    pub(crate) fn is_marked(&self) -> bool {
        self.failures > 0 || self.ejection.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn what_was_known_holds_while_a_connector_comes_back() {
        let start = Instant::now();
        let mut record = Record::default();
        record.tell(start, TargetHealth::Healthy);
        record.tell(at(start, 1), TargetHealth::Unknown);
        record.tell(at(start, 5), TargetHealth::Unknown);
        assert_eq!(record.health(at(start, 6)), TargetHealth::Healthy);
        assert_eq!(record.health(at(start, 11)), TargetHealth::Unknown);
        record.tell(at(start, 12), TargetHealth::Unhealthy);
        assert_eq!(record.health(at(start, 12)), TargetHealth::Unhealthy);
    }

    #[test]
    fn three_failures_in_a_row_eject_and_fewer_do_not() {
        let start = Instant::now();
        let mut record = Record::default();
        record.failed(start);
        record.failed(start);
        record.succeeded(start);
        record.failed(start);
        record.failed(start);
        assert!(!record.is_ejected(start));
        record.failed(start);
        assert_eq!(record.ejected_for(start), Some(EJECTED_FIRST));
        assert!(!record.is_ejected(start + EJECTED_FIRST));
    }

    #[test]
    fn each_ejection_in_a_row_lasts_twice_as_long_up_to_a_limit() {
        let mut now = Instant::now();
        let mut record = Record::default();
        let mut lasted = Vec::new();
        for _ in 0..FAILURES {
            record.failed(now);
        }
        for _ in 0..8 {
            let lasts = record.ejected_for(now).expect("ejected");
            lasted.push(lasts.as_secs());
            now += lasts;
            record.failed(now);
        }
        assert_eq!(lasted, [5, 10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn a_target_that_stays_well_is_forgiven() {
        let start = Instant::now();
        let mut record = Record::default();
        for _ in 0..FAILURES {
            record.failed(start);
        }
        record.succeeded(at(start, 1));
        assert!(record.is_ejected(at(start, 1)), "a late answer of before does not count");
        record.succeeded(at(start, 6));
        assert!(record.is_marked());
        record.succeeded(at(start, 10));
        assert!(!record.is_marked());
    }
}
