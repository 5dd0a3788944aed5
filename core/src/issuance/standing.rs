//! How things stand with a certificate, in a word and in a sentence: whatever is not well has its reason.

use super::{Issuance, Source, Upkeep, chosen_issuer, next};
use crate::{name::HostName, record::Certificate, state::ClusterState, time::Timestamp};

use serde::{Deserialize, Serialize};

/// How a certificate stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StandingKind {
    /// It is served, and nothing is to be done.
    Valid,
    /// It is served, and the next generation is being got.
    Renewing,
    /// It is served, but its next generation is late.
    Overdue,
    /// There is none yet; it is being got.
    Pending,
    /// There is none yet, and getting it waits for something.
    Waiting,
    /// Its time is over.
    Expired,
    /// Nothing is tried until an operator changes something.
    Parked,
}

/// How a certificate stands, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// In a word.
    pub kind: StandingKind,
    /// In a sentence.
    pub reason: String,
}

/// How the certificate for these names, which are sorted, stands at `now`.
#[must_use]
pub fn standing(state: &ClusterState, names: &[HostName], now: Timestamp) -> Standing {
    let certificate = state.certificates().values().find(|certificate| certificate.names == names);
    let upkeep = state.issuance().upkeep_of(names);
    let under_way = under_way(state, names, upkeep, certificate, now);
    let parked = upkeep.is_some_and(|upkeep| upkeep.parked);
    let Some(certificate) = certificate else {
        let (kind, reason) = match under_way {
            _ if parked => (StandingKind::Parked, problem(upkeep)),
            Some(Way { waits: false, reason }) => (StandingKind::Pending, reason),
            Some(Way { waits: true, reason }) => (StandingKind::Waiting, reason),
            None => (StandingKind::Pending, "the leader is to get it".to_owned()),
        };
        return Standing { kind, reason };
    };
    let until = format!("good until {}", certificate.not_after);
    let because = under_way.as_ref().map(|way| format!(": {}", way.reason)).unwrap_or_default();
    let (kind, reason) = if certificate.not_after <= now {
        (StandingKind::Expired, format!("it ended at {}{because}", certificate.not_after))
    } else if parked {
        (StandingKind::Parked, format!("{until}, but it is not renewed: {}", problem(upkeep)))
    } else if let Some(way) = under_way {
        let late = upkeep.is_some_and(|upkeep| upkeep.failures > 0) && next::ends_soon(certificate, now);
        let kind = if late { StandingKind::Overdue } else { StandingKind::Renewing };
        (kind, format!("{until}; {}", way.reason))
    } else if next::ends_soon(certificate, now) && is_imported(state.issuance(), certificate) {
        (StandingKind::Overdue, format!("{until}; it was imported: import its successor"))
    } else {
        (StandingKind::Valid, until)
    };
    Standing { kind, reason }
}

fn is_imported(issuance: &Issuance, certificate: &Certificate) -> bool {
    issuance.sources.get(&certificate.id) == Some(&Source::Imported)
}

/// What is under way.
struct Way {
    /// It stands still for now.
    waits: bool,
    reason: String,
}

fn problem(upkeep: Option<&Upkeep>) -> String {
    match upkeep.and_then(|upkeep| upkeep.problem.as_ref()) {
        Some(problem) => format!(
            "{}; nothing is tried until the issuers are changed or `pangolinctl cert renew` is called",
            problem.detail
        ),
        None => "nothing is tried until an operator changes something".to_owned(),
    }
}

fn under_way(
    state: &ClusterState,
    names: &[HostName],
    upkeep: Option<&Upkeep>,
    certificate: Option<&Certificate>,
    now: Timestamp,
) -> Option<Way> {
    let issuance = state.issuance();
    let due = certificate.is_none_or(|c| next::renew_at(issuance, c, upkeep) <= now);
    let after = upkeep.and_then(|upkeep| upkeep.problem.as_ref()).filter(|_| due);
    let failed = |then: String| match after {
        Some(problem) => format!("the last attempt failed: {}; {then}", problem.detail),
        None => then,
    };
    let waits = |then: String| Some(Way { waits: true, reason: failed(then) });
    if issuance.issuers.is_empty() {
        return None;
    }
    let order = upkeep.and_then(|upkeep| upkeep.order.as_ref());
    if let Some(at) =
        upkeep.map(|upkeep| upkeep.not_before).filter(|at| *at > now && (due || order.is_some()))
    {
        return waits(format!("the next one is at {at}"));
    }
    let directory = order.map(|order| &*order.directory).or_else(|| {
        chosen_issuer(issuance, upkeep, certificate, now).filter(|_| due).map(|issuer| &*issuer.directory)
    });
    let Some(directory) = directory else {
        let hold = issuance.issuers.iter().find_map(|issuer| issuance.held.get(&issuer.directory));
        return match hold.filter(|_| due) {
            Some(hold) => waits(format!("every issuer is left alone until {}: {}", hold.until, hold.detail)),
            None => None,
        };
    };
    let name = issuance.name_of(directory);
    if let Some(hold) = issuance.held.get(directory).filter(|hold| hold.until > now) {
        return waits(format!("{name} is left alone until {}: {}", hold.until, hold.detail));
    }
    if let Some(order) = order {
        let reason = failed(format!("an order at {name} is {} since {}", order.phase.text(), order.since));
        return Some(Way { waits: false, reason });
    }
    let issuer = issuance.issuer(directory)?;
    if let Some(at) = next::budget(state, issuer, upkeep, names, now) {
        return waits(format!("{name} is not asked before {at}: more would be refused there"));
    }
    Some(Way { waits: false, reason: failed(format!("the leader is to order it at {name}")) })
}
