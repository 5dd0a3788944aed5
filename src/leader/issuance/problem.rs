//! What follows from what goes wrong with an order.

use std::time::Duration;

use pangolin_acme::{AcmeError, Problem};
use pangolin_core::{
    Timestamp,
    issuance::{self, OrderStep, Phase, ProblemKind, Upkeep, retry_at},
};

/// How long an issuer is left alone that wants to be, and does not say for how long.
const HOLD: Duration = Duration::from_secs(3600);
/// Longest that a certificate waits, whatever the issuer says.
const WAIT_MAX: Duration = Duration::from_secs(7 * 86_400);
/// Longest that all other certificates wait as well. An issuer does not say whether it means the account or a name: what
/// it limits by account is free again within minutes, and days of waiting are about a name.
const HOLD_MAX: Duration = Duration::from_secs(3600);
/// Attempts in a row that follow at once on an order or account that the issuer has forgotten.
const AT_ONCE: u32 = 2;
/// What an issuer will not do until an operator changes something (RFC 8555 §6.7, and of profiles).
const FOR_GOOD: [&str; 9] = [
    "rejectedIdentifier",
    "unsupportedIdentifier",
    "externalAccountRequired",
    "userActionRequired",
    "invalidContact",
    "unsupportedContact",
    "invalidProfile",
    "badCSR",
    "badPublicKey",
];
/// What an issuer says when it has looked at a name and not found the proof.
const UNPROVED: [&str; 6] = ["unauthorized", "caa", "dns", "connection", "incorrectResponse", "tls"];

/// Something that went wrong on the way to a certificate.
#[derive(Debug)]
pub(super) enum Trouble {
    /// With the issuer.
    Acme(AcmeError),
    /// A name server does not show the proof.
    NotPublished(String),
    /// What came is not what was asked for.
    Unusable(String),
    /// The issuer has not found the proof.
    Unproved(Problem),
    /// The issuer takes too long.
    Slow(String),
    /// On this node, or with the cluster: nothing to note in the log.
    Here(String),
}

impl From<AcmeError> for Trouble {
    fn from(error: AcmeError) -> Self {
        Self::Acme(error)
    }
}

impl Trouble {
    /// Whether the issuer does not know the account any more.
    pub(super) fn is_lost_account(&self) -> bool {
        matches!(self, Self::Acme(AcmeError::Refused(problem)) if problem.is("accountDoesNotExist"))
    }
}

/// What happens to the order; the reason to go on without a note where that is none of its business.
pub(super) fn failed(trouble: &Trouble, upkeep: &Upkeep, now: Timestamp) -> Result<OrderStep, String> {
    let phase = upkeep.order.as_ref().map_or(Phase::Planned, |order| order.phase);
    let placed = phase >= Phase::Ordered;
    let again = |asked| retry_at(upkeep.id, upkeep.failures + 1, now, asked);
    let step = |kind, detail: String, give_up| OrderStep::Failed {
        problem: issuance::Problem { kind, detail, at: now },
        again_at: again(None),
        hold_until: None,
        give_up,
        park: false,
    };
    Ok(match trouble {
        Trouble::Here(reason) => return Err(reason.clone()),
        Trouble::NotPublished(reason) => step(ProblemKind::NotPublished, reason.clone(), false),
        Trouble::Slow(reason) => step(ProblemKind::Unreachable, reason.clone(), false),
        Trouble::Unusable(reason) => step(ProblemKind::Unusable, reason.clone(), true),
        Trouble::Unproved(problem) => step(ProblemKind::Unproved, problem.to_string(), true),
        Trouble::Acme(AcmeError::Refused(problem)) => refused(problem, upkeep, now, step, placed),
        Trouble::Acme(error @ (AcmeError::Unreachable { .. } | AcmeError::Foreign { .. })) => {
            step(ProblemKind::Unreachable, error.to_string(), false)
        }
        Trouble::Acme(error) => step(ProblemKind::Other, error.to_string(), placed),
    })
}

fn refused(
    problem: &Problem,
    upkeep: &Upkeep,
    now: Timestamp,
    step: impl Fn(ProblemKind, String, bool) -> OrderStep,
    placed: bool,
) -> OrderStep {
    let text = problem.to_string();
    let kind = problem.kind.as_str();
    let alone = kind == "rateLimited" || problem.status == 429 || problem.retry_after.is_some();
    let made = match kind {
        _ if alone && (problem.status >= 429 || kind == "rateLimited") => {
            let wait = problem.retry_after.unwrap_or(HOLD).min(WAIT_MAX);
            return OrderStep::Failed {
                problem: issuance::Problem { kind: ProblemKind::RateLimited, detail: text, at: now },
                again_at: now + wait,
                hold_until: Some(now + wait.min(HOLD_MAX)),
                give_up: false,
                park: false,
            };
        }
        "accountDoesNotExist" => return forgotten(text, upkeep, now, placed),
        "malformed" if problem.status == 404 => return forgotten(text, upkeep, now, placed),
        "" if problem.status == 404 => return forgotten(text, upkeep, now, placed),
        _ if FOR_GOOD.contains(&kind) => step(ProblemKind::Refused, text, placed),
        _ if UNPROVED.contains(&kind) => step(ProblemKind::Unproved, text, placed),
        "badNonce" => step(ProblemKind::Unreachable, text, false),
        _ if problem.status >= 500 => step(ProblemKind::Unreachable, text, false),
        _ => step(ProblemKind::Other, text, placed),
    };
    match made {
        OrderStep::Failed { problem, again_at, hold_until, give_up, .. }
            if problem.kind == ProblemKind::Refused =>
        {
            OrderStep::Failed { problem, again_at, hold_until, give_up, park: true }
        }
        other => other,
    }
}

/// The issuer begins anew with us: so do we, at once unless that happens again and again.
fn forgotten(detail: String, upkeep: &Upkeep, now: Timestamp, give_up: bool) -> OrderStep {
    let again_at =
        if upkeep.failures < AT_ONCE { now } else { retry_at(upkeep.id, upkeep.failures + 1, now, None) };
    OrderStep::Failed {
        problem: issuance::Problem { kind: ProblemKind::Forgotten, detail, at: now },
        again_at,
        hold_until: None,
        give_up,
        park: false,
    }
}

#[cfg(test)]
mod tests {
    use pangolin_core::{CertificateId, Revision, issuance::Order};

    use super::*;

    fn upkeep(phase: Phase) -> Upkeep {
        let order = Order {
            attempt: Revision { lineage: 1, index: 7 },
            directory: "https://ca.test/dir".to_owned(),
            since: Timestamp(0),
            phase,
            replaces: false,
            key: None,
            csr: Vec::new(),
            url: None,
            expires: None,
            challenges: Vec::new(),
        };
        Upkeep { order: Some(order), ..Upkeep::new(CertificateId(1), Vec::new(), 1) }
    }

    fn says(status: u16, kind: &str, retry_after: Option<u64>) -> Trouble {
        let retry_after = retry_after.map(Duration::from_secs);
        let problem = Problem { status, kind: kind.to_owned(), detail: "so".to_owned(), retry_after };
        Trouble::Acme(AcmeError::Refused(problem))
    }

    #[test]
    fn each_refusal_has_its_consequence() {
        use Phase::{Finalizing, KeyReady, Triggered};
        use ProblemKind::{Forgotten, Other, RateLimited, Refused, Unproved, Unreachable};
        // what the issuer says, when; its kind, whether the order is given up, parked, the issuer left alone (seconds)
        let cases = [
            (says(429, "rateLimited", Some(120)), KeyReady, RateLimited, false, false, Some(120)),
            (says(429, "rateLimited", None), KeyReady, RateLimited, false, false, Some(3600)),
            (says(503, "", Some(30)), Triggered, RateLimited, false, false, Some(30)),
            (says(429, "", Some(90 * 86_400)), KeyReady, RateLimited, false, false, Some(3600)),
            (says(500, "serverInternal", None), Finalizing, Unreachable, false, false, None),
            (says(400, "badNonce", None), Triggered, Unreachable, false, false, None),
            (says(400, "accountDoesNotExist", None), KeyReady, Forgotten, false, false, None),
            (says(400, "accountDoesNotExist", None), Finalizing, Forgotten, true, false, None),
            (says(404, "malformed", None), Triggered, Forgotten, true, false, None),
            (says(400, "rejectedIdentifier", None), KeyReady, Refused, false, true, None),
            (says(403, "externalAccountRequired", None), Phase::Planned, Refused, false, true, None),
            (says(403, "caa", None), Triggered, Unproved, true, false, None),
            (says(403, "orderNotReady", None), Finalizing, Other, true, false, None),
        ];
        let now = Timestamp(1_000_000);
        for (trouble, phase, kind, gives_up, parks, alone) in cases {
            let step = failed(&trouble, &upkeep(phase), now).expect("a step");
            let OrderStep::Failed { problem, again_at, hold_until, give_up, park } = step else {
                panic!("{step:?}")
            };
            let held = hold_until.map(|until| until.since(now).as_secs());
            assert_eq!(
                (problem.kind, give_up, park, held),
                (kind, gives_up, parks, alone),
                "{trouble:?} {phase:?}"
            );
            assert!(again_at >= now);
            if kind == Forgotten {
                assert_eq!(again_at, now, "at once");
            }
        }
    }

    #[test]
    fn an_issuer_that_forgets_again_and_again_is_not_asked_at_once() {
        let upkeep = Upkeep { failures: AT_ONCE, ..upkeep(Phase::Triggered) };
        let step = failed(&says(404, "malformed", None), &upkeep, Timestamp(0)).expect("a step");
        assert!(
            matches!(step, OrderStep::Failed { again_at, .. } if again_at > Timestamp(1_000_000)),
            "{step:?}"
        );
    }

    #[test]
    fn what_fails_here_is_not_the_issuers_fault() {
        let trouble = Trouble::Here("no keyring".to_owned());
        assert!(failed(&trouble, &upkeep(Phase::Planned), Timestamp(0)).is_err());
    }
}
