//! What follows from what goes wrong with an order.

use std::time::Duration;

use pangolin_acme::{AcmeError, Problem};
use pangolin_core::{
    ClusterState, Timestamp,
    issuance::{self, OrderStep, Phase, ProblemKind, Upkeep, again_at, may_give_up},
};

use super::refusal::Refusal;

/// How long an issuer is left alone that wants to be, and does not say for how long.
const HOLD: Duration = Duration::from_secs(3600);
/// Longest that a certificate waits, whatever the issuer says.
const WAIT_MAX: Duration = Duration::from_secs(7 * 86_400);
/// Longest that all other certificates wait as well. An issuer does not say whether it means the account or a name: what
/// it limits by account is free again within minutes, and days of waiting are about a name.
const HOLD_MAX: Duration = Duration::from_secs(3600);
/// How long an issuer is left alone that will not have the account, while there are others: it is asked now and then by
/// one certificate, not by all, and soon after an operator has changed something.
const UNWANTED_HOLD: Duration = Duration::from_secs(600);
/// Attempts in a row that follow at once on an order or account that the issuer has forgotten.
const AT_ONCE: u32 = 2;
/// What an issuer will not do until an operator changes something (RFC 8555 §6.7, and of profiles).
const FOR_GOOD: [&str; 4] = ["rejectedIdentifier", "unsupportedIdentifier", "badCSR", "badPublicKey"];
/// The same of all certificates: it is about the account, or about what is configured of the issuer.
const FOR_ALL: [&str; 5] = [
    "externalAccountRequired",
    "userActionRequired",
    "invalidContact",
    "unsupportedContact",
    "invalidProfile",
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

impl From<Refusal> for Trouble {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Issuer(error) => Self::Acme(error),
            Refusal::Here(reason) => Self::Here(reason),
        }
    }
}

impl Trouble {
    /// Whether the issuer does not know the account any more.
    pub(super) fn is_lost_account(&self) -> bool {
        matches!(self, Self::Acme(AcmeError::Refused(problem)) if problem.is("accountDoesNotExist"))
    }
}

/// What the cluster may do when an attempt fails.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outlook {
    /// When it is tried again, unless the issuer says something else.
    again_at: Timestamp,
    /// An order that is being issued may be given up.
    may_give_up: bool,
    /// There are other issuers.
    others: bool,
}

impl Outlook {
    pub(super) fn of(state: &ClusterState, upkeep: &Upkeep, now: Timestamp) -> Self {
        let own = upkeep.order.as_ref().map(|order| order.directory.as_str());
        let others = state.issuance().issuers.iter().any(|issuer| Some(issuer.directory.as_str()) != own);
        let may_give_up = may_give_up(state, upkeep, now);
        Self { again_at: again_at(state, upkeep, now), may_give_up, others }
    }
}

/// What happens to the order; the reason to go on without a note where that is none of its business.
pub(super) fn failed(
    trouble: &Trouble,
    upkeep: &Upkeep,
    outlook: Outlook,
    now: Timestamp,
) -> Result<OrderStep, String> {
    let phase = upkeep.order.as_ref().map_or(Phase::Planned, |order| order.phase);
    let placed = phase >= Phase::Ordered;
    let step = |kind, detail: String, give_up| OrderStep::Failed {
        problem: issuance::Problem { kind, detail, at: now },
        again_at: outlook.again_at,
        hold_until: None,
        give_up,
        park: false,
    };
    let step = match trouble {
        Trouble::Here(reason) => return Err(reason.clone()),
        Trouble::NotPublished(reason) => step(ProblemKind::NotPublished, reason.clone(), false),
        Trouble::Slow(reason) => step(ProblemKind::Unreachable, reason.clone(), false),
        Trouble::Unusable(reason) => step(ProblemKind::Unusable, reason.clone(), true),
        Trouble::Unproved(problem) => step(ProblemKind::Unproved, problem.to_string(), true),
        Trouble::Acme(AcmeError::Refused(problem)) => refused(problem, upkeep, outlook, now, step, placed),
        Trouble::Acme(error @ (AcmeError::Unreachable { .. } | AcmeError::Foreign { .. })) => {
            step(ProblemKind::Unreachable, error.to_string(), false)
        }
        Trouble::Acme(error) => step(ProblemKind::Other, error.to_string(), placed),
    };
    Ok(match step {
        // The next order is another generation's, and waits for nobody: it took long enough to get here.
        OrderStep::Failed { problem, hold_until, give_up: false, park: false, .. } if outlook.may_give_up => {
            OrderStep::Failed { problem, again_at: now, hold_until, give_up: true, park: false }
        }
        step => step,
    })
}

fn refused(
    problem: &Problem,
    upkeep: &Upkeep,
    outlook: Outlook,
    now: Timestamp,
    step: impl Fn(ProblemKind, String, bool) -> OrderStep,
    placed: bool,
) -> OrderStep {
    let text = problem.to_string();
    let kind = problem.kind.as_str();
    let alone = kind == "rateLimited" || problem.status == 429 || problem.retry_after.is_some();
    match kind {
        _ if alone && (problem.status >= 429 || kind == "rateLimited") => {
            let wait = problem.retry_after.unwrap_or(HOLD).min(WAIT_MAX);
            OrderStep::Failed {
                problem: issuance::Problem { kind: ProblemKind::RateLimited, detail: text, at: now },
                again_at: now + wait,
                hold_until: Some(now + wait.min(HOLD_MAX)),
                give_up: false,
                park: false,
            }
        }
        "accountDoesNotExist" => forgotten(text, upkeep, outlook, now, placed),
        "malformed" if problem.status == 404 => forgotten(text, upkeep, outlook, now, placed),
        "" if problem.status == 404 => forgotten(text, upkeep, outlook, now, placed),
        _ if FOR_GOOD.contains(&kind) || FOR_ALL.contains(&kind) => OrderStep::Failed {
            problem: issuance::Problem { kind: ProblemKind::Refused, detail: text, at: now },
            again_at: outlook.again_at,
            hold_until: (outlook.others && FOR_ALL.contains(&kind)).then(|| now + UNWANTED_HOLD),
            give_up: placed,
            // What one issuer refuses another may do.
            park: !outlook.others,
        },
        _ if UNPROVED.contains(&kind) => step(ProblemKind::Unproved, text, placed),
        "badNonce" => step(ProblemKind::Unreachable, text, false),
        _ if problem.status >= 500 => step(ProblemKind::Unreachable, text, false),
        _ => step(ProblemKind::Other, text, placed),
    }
}

/// The issuer begins anew with us: so do we, at once unless that happens again and again.
fn forgotten(detail: String, upkeep: &Upkeep, outlook: Outlook, now: Timestamp, give_up: bool) -> OrderStep {
    OrderStep::Failed {
        problem: issuance::Problem { kind: ProblemKind::Forgotten, detail, at: now },
        again_at: if upkeep.failures < AT_ONCE { now } else { outlook.again_at },
        hold_until: None,
        give_up,
        park: false,
    }
}

#[cfg(test)]
mod tests {
    use pangolin_core::{CertificateId, Revision, issuance::Order};

    use super::*;

    const NOW: Timestamp = Timestamp(1_000_000);

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

    /// Of one issuer that is configured and alone.
    fn alone() -> Outlook {
        Outlook { again_at: NOW + Duration::from_secs(60), may_give_up: false, others: false }
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
        let now = NOW;
        for (trouble, phase, kind, gives_up, parks, left_alone) in cases {
            let step = failed(&trouble, &upkeep(phase), alone(), now).expect("a step");
            let OrderStep::Failed { problem, again_at, hold_until, give_up, park } = step else {
                panic!("{step:?}")
            };
            let held = hold_until.map(|until| until.since(now).as_secs());
            assert_eq!(
                (problem.kind, give_up, park, held),
                (kind, gives_up, parks, left_alone),
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
        let step = failed(&says(404, "malformed", None), &upkeep, alone(), NOW).expect("a step");
        assert!(matches!(step, OrderStep::Failed { again_at, .. } if again_at > NOW), "{step:?}");
    }

    #[test]
    fn what_is_being_issued_is_given_up_only_if_it_may_be() {
        let unreachable = || {
            Trouble::Acme(AcmeError::Unreachable { host: "ca.test".to_owned(), reason: "away".to_owned() })
        };
        let slow = || Trouble::Slow("it takes long".to_owned());
        // whether it may be; what happens; whether it is given up then
        let cases = [
            (false, unreachable(), false),
            (true, unreachable(), true),
            (false, slow(), false),
            (true, slow(), true),
            (false, says(500, "serverInternal", None), false),
            (true, says(500, "serverInternal", None), true),
            (true, says(503, "", Some(30)), true),
            (true, says(400, "badNonce", None), true),
            (false, Trouble::Unusable("another key".to_owned()), true),
        ];
        for (may_give_up, trouble, gives_up) in cases {
            let outlook = Outlook { may_give_up, ..alone() };
            let step = failed(&trouble, &upkeep(Phase::Finalizing), outlook, NOW).expect("a step");
            let OrderStep::Failed { again_at, give_up, .. } = step else { panic!("{step:?}") };
            assert_eq!(give_up, gives_up, "{may_give_up} {trouble:?}");
            assert_eq!(again_at == NOW, may_give_up, "{trouble:?}: whoever is next is asked at once");
        }
    }

    #[test]
    fn what_one_of_several_issuers_refuses_is_asked_of_the_next_one() {
        let outlook = Outlook { others: true, ..alone() };
        // what it says; for how many seconds it is left alone, by all certificates
        let cases = [
            ("externalAccountRequired", Some(600)),
            ("invalidProfile", Some(600)),
            ("rejectedIdentifier", None),
        ];
        for (kind, left_alone) in cases {
            let step =
                failed(&says(403, kind, None), &upkeep(Phase::KeyReady), outlook, NOW).expect("a step");
            let OrderStep::Failed { problem, hold_until, give_up, park, .. } = step else {
                panic!("{step:?}")
            };
            let held = hold_until.map(|until| until.since(NOW).as_secs());
            assert_eq!((problem.kind, held, give_up, park), (ProblemKind::Refused, left_alone, false, false));
        }
    }

    #[test]
    fn what_fails_here_is_not_the_issuers_fault() {
        let trouble = Trouble::Here("no keyring".to_owned());
        assert!(failed(&trouble, &upkeep(Phase::Planned), alone(), NOW).is_err());
    }
}
