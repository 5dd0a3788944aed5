//! What is to be done next for each certificate: the leader's judgement.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    Account, Bucket, Issuance, Issuer, Order, Phase, Source, Upkeep, rate, retry,
    turns::{chosen_issuer, held_until, stand_in},
};
use crate::{
    decide::certificates_wanted, id::CertificateId, name::HostName, outcome::Object, plan::served_below,
    record::Certificate, state::ClusterState, time::Timestamp,
};

const DAY: Duration = Duration::from_secs(86_400);
/// Certificates that live shorter than this are renewed when half of their life is left, others at a third.
const SHORT_LIFE: Duration = Duration::from_secs(10 * 86_400);

/// The next step for a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Forget failures and waits that are older than the issuers as they are now.
    StartAfresh,
    /// Decide on an order.
    Plan {
        /// The issuer's directory.
        directory: String,
        /// It replaces the certificate in force, and the issuer is to know.
        replaces: bool,
    },
    /// Register an account first.
    Register {
        /// The issuer's directory.
        directory: String,
    },
    /// Make the certificate's key.
    MakeKey,
    /// Place the order.
    Place,
    /// Learn what has to be proved, and let DNS answer it.
    Publish,
    /// Wait until every name server answers it, then decide to tell the issuer.
    Trigger,
    /// Tell the issuer to look, wait until it is satisfied, then decide to have the certificate issued.
    Validate,
    /// Have it issued, and fetch it.
    Finalize,
}

/// Something to do for a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// Its names, sorted.
    pub names: Vec<HostName>,
    /// Its id, where it has one.
    pub id: Option<CertificateId>,
    /// The generation that it is about.
    pub generation: u64,
    /// What to do.
    pub step: Step,
}

/// What there is to do now, in the order of the names. Empty while the internal issuer makes the certificates, except
/// that orders under way at issuers that are gone are for nobody to finish.
#[must_use]
pub fn tasks(state: &ClusterState, now: Timestamp) -> Vec<Task> {
    looked_at(state, now).into_iter().filter_map(|(task, _)| task).collect()
}

/// When there is something to do that is not yet: the earliest moment behind `now`.
#[must_use]
pub fn next_wake(state: &ClusterState, now: Timestamp) -> Option<Timestamp> {
    looked_at(state, now).into_iter().filter_map(|(_, wake)| wake).filter(|at| *at > now).min()
}

/// The accounts whose next key their issuer is to take now, by directory: those of which no order is under way.
#[must_use]
pub fn account_keys_due(state: &ClusterState) -> Vec<&str> {
    let orders = state.issuance().upkeeps.values().filter_map(|upkeep| upkeep.order.as_ref());
    let busy: BTreeSet<&str> = orders.map(|order| &*order.directory).collect();
    let due = state.rollovers().account_keys.keys().map(|directory| &**directory);
    due.filter(|directory| !busy.contains(directory)).collect()
}

type Look = (Option<Task>, Option<Timestamp>);

fn looked_at(state: &ClusterState, now: Timestamp) -> Vec<Look> {
    let issuance = state.issuance();
    if issuance.issuers.is_empty() {
        return Vec::new();
    }
    let upkeeps: BTreeMap<&[HostName], &Upkeep> =
        issuance.upkeeps.values().map(|upkeep| (&*upkeep.names, upkeep)).collect();
    let certificates: BTreeMap<&[HostName], &Certificate> =
        state.certificates().values().map(|certificate| (&*certificate.names, certificate)).collect();
    let imported = imported(state, now);
    let wanted = certificates_wanted(state);
    let any_failed = issuance.upkeeps.values().any(|upkeep| upkeep.failures > 0);
    let around = Around { imported, changed: any_failed.then(|| issuers_changed(state)).flatten() };
    let looked = wanted.into_iter().map(|names| {
        let (upkeep, certificate) = (upkeeps.get(&*names).copied(), certificates.get(&*names).copied());
        look(state, &around, &names, upkeep, certificate, now)
    });
    looked.collect()
}

/// What is the same for all certificates.
struct Around<'a> {
    /// The names that certificates of operators are good for now.
    imported: BTreeSet<&'a HostName>,
    /// When the issuers were last changed, where that counts.
    changed: Option<Timestamp>,
}

/// When the issuers were last changed, as far as it is remembered.
fn issuers_changed(state: &ClusterState) -> Option<Timestamp> {
    let edit = state.decisions().latest_edit(&Object::Cluster, &["issuers", "settings of the issuers"]);
    edit.map(|decision| decision.at)
}

/// Whether the failures of an upkeep that has something to do are of issuers as they were before: what waits for its
/// next attempt waits for nothing.
fn is_outdated(
    issuance: &Issuance,
    upkeep: &Upkeep,
    certificate: Option<&Certificate>,
    changed: Option<Timestamp>,
    now: Timestamp,
) -> bool {
    let before = || upkeep.problem.as_ref().is_some_and(|problem| changed.is_some_and(|at| at > problem.at));
    let due =
        || upkeep.order.is_some() || certificate.is_none_or(|c| renew_at(issuance, c, Some(upkeep)) <= now);
    upkeep.failures > 0
        && before()
        && due()
        && !upkeep.parked
        // Nobody may wish for another one of those.
        && issuance.sources.get(&upkeep.id) != Some(&Source::Imported)
}

/// The names that certificates of operators are good for now.
fn imported(state: &ClusterState, now: Timestamp) -> BTreeSet<&HostName> {
    let sources = state.issuance().sources.iter().filter(|(_, source)| **source == Source::Imported);
    let certificates = sources.filter_map(|(id, _)| state.certificates().get(id));
    certificates.filter(|certificate| certificate.not_after > now).flat_map(|c| &c.names).collect()
}

fn look(
    state: &ClusterState,
    around: &Around<'_>,
    names: &[HostName],
    upkeep: Option<&Upkeep>,
    certificate: Option<&Certificate>,
    now: Timestamp,
) -> Look {
    let issuance = state.issuance();
    let task = |step| Task {
        names: names.to_vec(),
        id: upkeep.map(|upkeep| upkeep.id),
        generation: generation(upkeep, certificate),
        step,
    };
    if let Some(upkeep) = upkeep {
        if upkeep.parked {
            return (None, None);
        }
        if is_outdated(issuance, upkeep, certificate, around.changed, now) {
            return (Some(task(Step::StartAfresh)), None);
        }
        if let Some(issuer) = stand_in(state, upkeep, certificate, now) {
            return (Some(task(Step::Plan { directory: issuer.directory.clone(), replaces: false })), None);
        }
        if upkeep.not_before > now {
            return (None, Some(upkeep.not_before));
        }
        if let Some(order) = &upkeep.order {
            return match held_until(issuance, &order.directory, now) {
                Some(until) => (None, Some(until)),
                None => (Some(task(step_of(issuance, order))), None),
            };
        }
    }
    // What operators brought is theirs to renew, as long as it is good.
    if !names.is_empty() && names.iter().all(|name| around.imported.contains(name)) {
        return (None, None);
    }
    if let Some(certificate) = certificate {
        let at = renew_at(issuance, certificate, upkeep);
        if at > now {
            return (None, Some(at));
        }
    }
    let Some(issuer) = chosen_issuer(issuance, upkeep, certificate, now) else {
        let earliest = issuance.issuers.iter().filter_map(|i| held_until(issuance, &i.directory, now)).min();
        return (None, earliest);
    };
    // Proofs are made with the key of the account: none is begun while that is exchanged.
    if state.rollovers().account_keys.contains_key(&issuer.directory) {
        return (None, None);
    }
    let replaces =
        certificate.is_some_and(|certificate| is_known_there(issuance, certificate, upkeep, issuer));
    // Renewals that the issuer knows as such do not count there (RFC 9773 §5).
    if !replaces && let Some(at) = budget(state, issuer, upkeep, names, now) {
        return (None, Some(at));
    }
    (Some(task(Step::Plan { directory: issuer.directory.clone(), replaces })), None)
}

/// The generation that is got next.
fn generation(upkeep: Option<&Upkeep>, certificate: Option<&Certificate>) -> u64 {
    let after = certificate.map_or(1, |certificate| certificate.generation + 1);
    upkeep.map_or(after, |upkeep| upkeep.generation.max(after))
}

fn step_of(issuance: &Issuance, order: &Order) -> Step {
    let registered = |account: &Account| account.url.is_some();
    if !issuance.accounts.get(&order.directory).is_some_and(registered) {
        return Step::Register { directory: order.directory.clone() };
    }
    match order.phase {
        Phase::Planned => Step::MakeKey,
        Phase::KeyReady => Step::Place,
        Phase::Ordered => Step::Publish,
        Phase::TxtPublished => Step::Trigger,
        Phase::Triggered => Step::Validate,
        Phase::Finalizing => Step::Finalize,
    }
}

/// When a certificate is renewed: when an operator wants it, else when the issuer does, at the latest when a third of
/// its life is left; of a short life, when half is.
#[must_use]
pub fn renew_at(issuance: &Issuance, certificate: &Certificate, upkeep: Option<&Upkeep>) -> Timestamp {
    if upkeep.is_some_and(|upkeep| upkeep.wanted) {
        return Timestamp::default();
    }
    let from_issuer = matches!(issuance.sources.get(&certificate.id), Some(Source::Issuer(_)));
    if !from_issuer {
        // An internal one is nothing that a visitor trusts; one that was imported is looked at when it has ended.
        return match issuance.sources.get(&certificate.id) {
            Some(Source::Imported) => certificate.not_after,
            _ => Timestamp::default(),
        };
    }
    let life = certificate.not_after.since(certificate.not_before);
    let left = if life < SHORT_LIFE { life / 2 } else { life / 3 };
    let earlier = retry::earlier(certificate.id, certificate.generation, life / 30);
    let backstop = Timestamp(certificate.not_after.0.saturating_sub(millis(left + earlier)));
    match upkeep.and_then(|upkeep| upkeep.window.as_ref()) {
        Some(window) => window.selected.min(backstop),
        None => backstop,
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Whether the certificate in force came from this issuer, which has said when it wants it renewed.
fn is_known_there(
    issuance: &Issuance,
    certificate: &Certificate,
    upkeep: Option<&Upkeep>,
    issuer: &Issuer,
) -> bool {
    let from = issuance.sources.get(&certificate.id);
    matches!(from, Some(Source::Issuer(directory)) if *directory == issuer.directory)
        && upkeep.is_some_and(|upkeep| upkeep.window.is_some() && upkeep.failures == 0)
}

/// When an order for these names may be placed at an issuer, so that it is not asked for more than it gives; none =
/// now.
pub(super) fn budget(
    state: &ClusterState,
    issuer: &Issuer,
    upkeep: Option<&Upkeep>,
    names: &[HostName],
    now: Timestamp,
) -> Option<Timestamp> {
    let spent = &state.issuance().spent;
    let mut buckets = buckets(state, upkeep.map(|upkeep| upkeep.id), names);
    buckets.extend(names.iter().map(|name| Bucket::Failures(proved_name(name))));
    let free = |bucket: &Bucket| rate::free_at(spent, &issuer.rates, &issuer.directory, bucket, now);
    buckets.iter().filter_map(free).max()
}

/// What an order for these names counts for.
pub(crate) fn buckets(state: &ClusterState, id: Option<CertificateId>, names: &[HostName]) -> Vec<Bucket> {
    let zones: BTreeSet<&HostName> = names.iter().filter_map(|name| served_below(state, name)).collect();
    let zones = zones.into_iter().cloned().map(Bucket::Zone);
    std::iter::once(Bucket::Orders).chain(zones).chain(id.map(Bucket::Set)).collect()
}

/// The name whose control proves a name: a wildcard's parent (RFC 8555 §7.1.3).
pub(crate) fn proved_name(name: &HostName) -> HostName {
    if name.is_wildcard() { name.parent().unwrap_or_else(|| name.clone()) } else { name.clone() }
}

/// Whether a certificate's end is near enough for an operator to look: less than a third of its life is left.
pub(super) fn ends_soon(certificate: &Certificate, now: Timestamp) -> bool {
    let life = certificate.not_after.since(certificate.not_before);
    certificate.not_after.since(now) < (life / 3).min(30 * DAY)
}
