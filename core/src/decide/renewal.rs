//! Which certificates have to be issued.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{
    command::{Actor, Cause},
    decision::Aspect,
    id::{CertificateId, NodeId},
    issuance::Source,
    name::HostName,
    outcome::Object,
    plan::served_below,
    record::Certificate,
    state::ClusterState,
    time::Timestamp,
};

/// The names of every certificate that the internal issuer is to make: those that are wanted and missing, or due for
/// renewal. None where public issuers are configured.
#[must_use]
pub fn certificates_due(state: &ClusterState, now: Timestamp) -> Vec<Vec<HostName>> {
    let issuance = state.issuance();
    if !issuance.issuers.is_empty() {
        return Vec::new();
    }
    let current: BTreeMap<&[HostName], &Certificate> =
        state.certificates().values().map(|certificate| (&*certificate.names, certificate)).collect();
    let asked: BTreeSet<&[HostName]> =
        issuance.upkeeps.values().filter(|upkeep| upkeep.wanted).map(|upkeep| &*upkeep.names).collect();
    let due = |names: &Vec<HostName>| {
        asked.contains(&**names)
            || current.get(&**names).is_none_or(|certificate| match issuance.sources.get(&certificate.id) {
                // What operators brought is theirs to renew.
                Some(Source::Imported) => certificate.not_after <= now,
                _ => is_due(certificate, now),
            })
    };
    certificates_wanted(state).into_iter().filter(due).collect()
}

/// The certificates, and those in the making, whose names nothing wants any more: their domain or resource is gone. One
/// that an operator brought is needed as long as it names something that is published.
#[must_use]
pub fn certificates_unneeded(state: &ClusterState) -> Vec<CertificateId> {
    let wanted: BTreeSet<Vec<HostName>> = certificates_wanted(state).into_iter().collect();
    let issuance = state.issuance();
    let needed = |certificate: &&Certificate| {
        wanted.contains(&certificate.names)
            || (issuance.sources.get(&certificate.id) == Some(&Source::Imported)
                && certificate.names.iter().any(|name| served_below(state, name).is_some()))
    };
    let certificates = state.certificates().values().filter(|c| !needed(c)).map(|c| c.id);
    let upkeeps = issuance
        .upkeeps
        .values()
        .filter(|upkeep| !state.certificates().contains_key(&upkeep.id) && !wanted.contains(&upkeep.names));
    certificates.chain(upkeeps.map(|upkeep| upkeep.id)).collect()
}

/// Why the leader gets a certificate for these names.
#[must_use]
pub fn certificate_cause(state: &ClusterState, names: &[HostName], leader: NodeId) -> Cause {
    let cause = |reason: String| Cause::new(Actor::Leader(leader), reason);
    let made = |object: Object| {
        state.decisions().latest(&object, Aspect::Existence).map(|decision| decision.revision)
    };
    if let Some(current) = state.certificates().values().find(|certificate| certificate.names == *names) {
        let asked = state.issuance().upkeep_of(names).is_some_and(|upkeep| upkeep.wanted);
        if asked {
            let wish = state.decisions().latest(&Object::Certificate(current.id), Aspect::Values);
            return cause("an operator wants a new one".to_owned()).because(wish.map(|wish| wish.revision));
        }
        let reason = if current.not_before > state.time() {
            format!(
                "the one before is not good before {}: the clock that made it was ahead",
                current.not_before
            )
        } else {
            format!("renewal: the one before is good until {}", current.not_after)
        };
        return cause(reason).because([current.revision]);
    }
    if let Some(domain) = state.domains().values().find(|domain| names.contains(&domain.name)) {
        let reason = format!("domain {} has none yet", domain.name);
        return cause(reason).because(made(Object::Domain(domain.id)));
    }
    if let Some(resource) = state.resources().values().find(|resource| names.contains(&resource.host)) {
        let reason = format!("no other certificate covers {}", resource.host);
        return cause(reason).because(made(Object::Resource(resource.id)));
    }
    cause("the cluster's own zone has none yet".to_owned()).because(made(Object::Cluster))
}

/// Why the leader orders it at this directory: where that is not the first issuer's, also why the first one is passed
/// over.
#[must_use]
pub fn order_cause(state: &ClusterState, names: &[HostName], directory: &str, leader: NodeId) -> Cause {
    let mut cause = certificate_cause(state, names, leader);
    let issuance = state.issuance();
    let Some(first) = issuance.issuers.first().filter(|first| first.directory != directory) else {
        return cause;
    };
    let held = issuance.held.get(&first.directory).filter(|hold| hold.until > state.time());
    let failed = || issuance.upkeep_of(names).and_then(|upkeep| upkeep.problem.as_ref());
    let why = match held.map(|hold| &hold.detail).or_else(|| failed().map(|problem| &problem.detail)) {
        Some(detail) => format!("{} stands in for {}: {detail}", issuance.name_of(directory), first.name),
        None => format!("{} stands in for {}", issuance.name_of(directory), first.name),
    };
    cause.reason = format!("{}; {why}", cause.reason);
    cause
}

/// Due when a third of its life is left, or when it is not good yet: it was made by a clock that was ahead, and nobody takes
/// it.
#[must_use]
pub fn is_due(certificate: &Certificate, now: Timestamp) -> bool {
    if certificate.not_before > now {
        return true;
    }
    let life = certificate.not_after.since(certificate.not_before);
    certificate.not_after.since(now)
        < Duration::from_millis(u64::try_from(life.as_millis()).unwrap_or(u64::MAX) / 3)
}

/// The names of every certificate that there should be.
#[must_use]
pub fn certificates_wanted(state: &ClusterState) -> Vec<Vec<HostName>> {
    let Some(settings) = state.settings() else { return Vec::new() };
    let zones = std::iter::once(&settings.zone).chain(state.domains().values().map(|domain| &domain.name));
    let mut wanted: BTreeSet<Vec<HostName>> = BTreeSet::new();
    let mut covered: BTreeSet<HostName> = BTreeSet::new();
    for zone in zones {
        let Ok(wildcard) = zone.wildcard() else { continue };
        covered.extend([zone.clone(), wildcard.clone()]);
        // A wildcard sorts before every other name.
        wanted.insert(vec![wildcard, zone.clone()]);
    }
    let hosts = state.resources().values().filter(|resource| resource.enabled).map(|resource| &resource.host);
    for host in std::iter::once(&settings.control_host).chain(hosts) {
        let above = host.parent().and_then(|parent| parent.wildcard().ok());
        if !covered.contains(host) && !above.is_some_and(|wildcard| covered.contains(&wildcard)) {
            covered.insert(host.clone());
            wanted.insert(vec![host.clone()]);
        }
    }
    wanted.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Revision, record::Sealed};

    #[test]
    fn a_certificate_is_due_before_it_is_good_and_when_a_third_is_left() {
        let certificate = Certificate {
            id: CertificateId(1),
            names: Vec::new(),
            generation: 1,
            chain: Vec::new(),
            key: Sealed { kek: 1, wrapped_key: Vec::new(), content: Vec::new() },
            not_before: Timestamp(1_000),
            not_after: Timestamp(10_000),
            revision: Revision::default(),
        };
        // (now, due)
        let cases = [(0, true), (999, true), (1_000, false), (7_000, false), (7_001, true), (20_000, true)];
        for (now, due) in cases {
            assert_eq!(is_due(&certificate, Timestamp(now)), due, "at {now}");
        }
    }
}
