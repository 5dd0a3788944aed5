//! How long an issuer is left alone that could not be asked, or told, what is not a step of an order: it may say so
//! itself, or have said so when an order was placed.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use pangolin_acme::AcmeError;
use pangolin_core::{ClusterState, Timestamp};

/// Pause after an issuer could not be asked or told.
const RETRY: Duration = Duration::from_secs(60);
/// The longest that such pauses become, each twice as long as the one before.
const RETRY_MAX: Duration = Duration::from_secs(3600);
/// Pause after an issuer wants to be asked less, and does not say when.
const HOLD: Duration = Duration::from_secs(3600);
/// The longest pause, whatever it says.
const HOLD_MAX: Duration = Duration::from_secs(24 * 3600);

/// Why something could not be asked or told.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The issuer's doing.
    Issuer(AcmeError),
    /// On this node, or with the cluster.
    Here(String),
}

impl From<AcmeError> for Refusal {
    fn from(error: AcmeError) -> Self {
        Self::Issuer(error)
    }
}

impl From<String> for Refusal {
    fn from(reason: String) -> Self {
        Self::Here(reason)
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Issuer(error) => error.fmt(f),
            Self::Here(reason) => reason.fmt(f),
        }
    }
}

impl Refusal {
    /// Whether the issuer does not know the account any more.
    pub(super) fn is_lost_account(&self) -> bool {
        matches!(self, Self::Issuer(AcmeError::Refused(problem)) if problem.is("accountDoesNotExist"))
    }

    /// How long everything that concerns the issuer rests; none where only this matter does.
    fn rest(&self) -> Option<Duration> {
        match self {
            Self::Issuer(AcmeError::Refused(problem)) => {
                let limited = problem.status == 429 || problem.is("rateLimited");
                let asked = problem.retry_after.or(limited.then_some(HOLD));
                let own = (problem.status >= 500).then_some(RETRY);
                asked.map(|asked| asked.clamp(RETRY, HOLD_MAX)).or(own)
            }
            Self::Issuer(AcmeError::Unreachable { .. } | AcmeError::Foreign { .. }) => Some(RETRY),
            _ => None,
        }
    }
}

/// What waits, of one kind: matters, and issuers.
#[derive(Debug)]
pub(super) struct Waits<M> {
    matters: BTreeMap<M, (Instant, u32)>,
    issuers: BTreeMap<String, Instant>,
}

impl<M> Default for Waits<M> {
    fn default() -> Self {
        Self { matters: BTreeMap::new(), issuers: BTreeMap::new() }
    }
}

impl<M: Ord> Waits<M> {
    /// Whether a matter of an issuer waits, or the issuer is left alone as it asked.
    pub(super) fn holds(&self, state: &ClusterState, now: Timestamp, directory: &str, matter: &M) -> bool {
        let held = state.issuance().held.get(directory).is_some_and(|hold| hold.until > now);
        let later = |at: &Instant| *at > Instant::now();
        held || self.issuers.get(directory).is_some_and(later)
            || self.matters.get(matter).is_some_and(|(at, _)| later(at))
    }

    /// It went well, and is to be done again after a while.
    pub(super) fn again_after(&mut self, matter: M, pause: Duration) {
        self.matters.insert(matter, (Instant::now() + pause, 0));
    }

    /// It did not go well.
    pub(super) fn failed(&mut self, directory: &str, matter: M, refusal: &Refusal) {
        let failures = self.matters.get(&matter).map_or(0, |(_, failures)| *failures);
        let pause = RETRY.saturating_mul(2_u32.saturating_pow(failures)).min(RETRY_MAX);
        if let Some(rest) = refusal.rest() {
            self.issuers.insert(directory.to_owned(), Instant::now() + rest);
        }
        self.matters.insert(matter, (Instant::now() + pause, failures.saturating_add(1)));
    }

    /// Forgets what is no matter any more.
    pub(super) fn retain(&mut self, is_one: impl Fn(&M) -> bool) {
        self.matters.retain(|matter, _| is_one(matter));
        self.issuers.retain(|_, at| *at > Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use pangolin_acme::Problem;

    use super::*;

    fn says(status: u16, kind: &str, retry_after: Option<u64>) -> Refusal {
        let retry_after = retry_after.map(Duration::from_secs);
        AcmeError::Refused(Problem { status, kind: kind.to_owned(), detail: String::new(), retry_after })
            .into()
    }

    #[test]
    fn an_issuer_is_left_alone_as_long_as_it_wants_to_be() {
        let away = AcmeError::Unreachable { host: "ca.test".to_owned(), reason: "away".to_owned() };
        // what happened; for how many seconds the issuer is left alone with everything
        let cases = [
            (says(429, "rateLimited", Some(600)), Some(600)),
            (says(429, "rateLimited", None), Some(3600)),
            (says(429, "", Some(5)), Some(60)),
            (says(503, "", Some(1800)), Some(1800)),
            (says(503, "", Some(400 * 86_400)), Some(86_400)),
            (says(500, "serverInternal", None), Some(60)),
            (says(403, "unauthorized", None), None),
            (says(404, "malformed", None), None),
            (away.into(), Some(60)),
            (Refusal::Here("no keyring".to_owned()), None),
        ];
        for (refusal, seconds) in cases {
            assert_eq!(refusal.rest().map(|rest| rest.as_secs()), seconds, "{refusal:?}");
        }
    }

    #[test]
    fn what_is_refused_alone_waits_alone_and_an_issuer_waits_with_everything() {
        let (state, now) = (ClusterState::default(), Timestamp(0));
        let mut waits = Waits::default();
        waits.failed("one", 1, &says(403, "unauthorized", None));
        let holds =
            |waits: &Waits<u32>, directory: &str, matter| waits.holds(&state, now, directory, &matter);
        assert!(holds(&waits, "one", 1) && !holds(&waits, "one", 2));
        waits.failed("one", 1, &says(429, "", Some(120)));
        assert!(holds(&waits, "one", 2) && !holds(&waits, "other", 2));
        waits.again_after(3, Duration::ZERO);
        assert!(!holds(&waits, "other", 3));
        waits.retain(|matter| *matter != 1);
        assert!(!holds(&waits, "other", 1));
    }
}
