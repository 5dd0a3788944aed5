//! Which certificates have to be issued.

use std::time::Duration;

use crate::{
    command::{Actor, Cause},
    decision::Aspect,
    id::{CertificateId, NodeId},
    name::HostName,
    outcome::Object,
    record::Certificate,
    state::ClusterState,
    time::Timestamp,
};

/// The names of every certificate that is wanted and missing, or due for renewal: one with apex and wildcard for
/// each zone and domain, and one of its own for every resource that none of those covers.
#[must_use]
pub fn certificates_due(state: &ClusterState, now: Timestamp) -> Vec<Vec<HostName>> {
    certificates_wanted(state)
        .into_iter()
        .filter(|names| {
            let current = state.certificates().values().find(|certificate| certificate.names == *names);
            current.is_none_or(|certificate| is_due(certificate, now))
        })
        .collect()
}

/// The certificates whose names nothing wants any more: their domain or resource is gone.
#[must_use]
pub fn certificates_unneeded(state: &ClusterState) -> Vec<CertificateId> {
    let wanted = certificates_wanted(state);
    state.certificates().values().filter(|c| !wanted.contains(&c.names)).map(|c| c.id).collect()
}

/// Why the leader gets a certificate for these names.
#[must_use]
pub fn certificate_cause(state: &ClusterState, names: &[HostName], leader: NodeId) -> Cause {
    let cause = |reason: String| Cause::new(Actor::Leader(leader), reason);
    let made = |object: Object| {
        state.decisions().latest(&object, Aspect::Existence).map(|decision| decision.revision)
    };
    if let Some(current) = state.certificates().values().find(|certificate| certificate.names == *names) {
        let reason = format!("renewal: the one before is good until {}", current.not_after);
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

/// Due when a third of its life is left.
#[must_use]
pub fn is_due(certificate: &Certificate, now: Timestamp) -> bool {
    let life = certificate.not_after.since(certificate.not_before);
    certificate.not_after.since(now)
        < Duration::from_millis(u64::try_from(life.as_millis()).unwrap_or(u64::MAX) / 3)
}

/// The names of every certificate that there should be.
#[must_use]
pub fn certificates_wanted(state: &ClusterState) -> Vec<Vec<HostName>> {
    let Some(settings) = state.settings() else { return Vec::new() };
    let zones = std::iter::once(&settings.zone).chain(state.domains().values().map(|domain| &domain.name));
    let mut wanted: Vec<Vec<HostName>> = zones
        .filter_map(|zone| {
            let mut names = vec![zone.clone(), zone.wildcard().ok()?];
            names.sort_unstable();
            Some(names)
        })
        .collect();
    let hosts = state.resources().values().filter(|resource| resource.enabled).map(|resource| &resource.host);
    for host in std::iter::once(&settings.control_host).chain(hosts) {
        if !wanted.iter().flatten().any(|name| name == host || name.covers(host)) {
            wanted.push(vec![host.clone()]);
        }
    }
    wanted.sort_unstable();
    wanted.dedup();
    wanted
}
