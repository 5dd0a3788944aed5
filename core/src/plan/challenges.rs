//! What DNS answers on behalf of certificates: the proofs that issuers ask for, and who may issue.

use std::collections::BTreeMap;

use crate::{
    issuance::{Account, Issuance, Phase},
    name::HostName,
    record::{RecordData, RecordKind},
    state::ClusterState,
};

/// The first label of the names at which proofs stand (RFC 8555 §8.4).
pub const CHALLENGE_LABEL: &str = "_acme-challenge";

/// The names at which the proof of a name is answered: `_acme-challenge.NAME`, and for names outside of the cluster's
/// zone `_acme-challenge.NAME.ZONE` as well, so that whoever cannot delegate a domain points a CNAME there.
#[must_use]
pub fn challenge_names(state: &ClusterState, name: &HostName) -> Vec<HostName> {
    let direct = name.child(CHALLENGE_LABEL).ok();
    let zone = state.settings().map(|settings| &settings.zone).filter(|zone| !name.is_within(zone));
    let alias = zone.and_then(|zone| format!("{CHALLENGE_LABEL}.{name}.{zone}").parse().ok());
    direct.into_iter().chain(alias).collect()
}

/// The TXT records that prove names now, by the name at which they stand. They are never to be kept: TTL 0.
pub(super) fn proofs(state: &ClusterState) -> BTreeMap<HostName, Vec<RecordData>> {
    let mut proofs: BTreeMap<HostName, Vec<RecordData>> = BTreeMap::new();
    let orders = state.issuance().upkeeps.values().filter_map(|upkeep| upkeep.order.as_ref());
    for order in orders.filter(|order| order.phase >= Phase::TxtPublished) {
        for challenge in &order.challenges {
            let data = RecordData::Txt(challenge.value.clone().into_bytes());
            for name in challenge_names(state, &challenge.name) {
                proofs.entry(name).or_default().push(data.clone());
            }
        }
    }
    for data in proofs.values_mut() {
        data.sort_unstable();
        data.dedup();
    }
    proofs
}

/// The CAA records (RFC 8659, RFC 8657) of every zone: only the cluster's own accounts, by DNS. None as long as some
/// account's authority has not told under which names it looks for itself, because it would be shut out.
pub(super) fn issuers_allowed(issuance: &Issuance) -> Vec<RecordData> {
    let configured = issuance.issuers.iter().filter_map(|issuer| {
        let account = issuance.accounts.get(&issuer.directory).filter(|account| account.url.is_some())?;
        Some((if issuer.caa.is_empty() { &account.caa } else { &issuer.caa }, account))
    });
    let configured: Vec<(&Vec<String>, &Account)> = configured.collect();
    if configured.iter().any(|(names, _)| names.is_empty()) {
        return Vec::new();
    }
    let mut allowed: Vec<RecordData> = configured
        .into_iter()
        .flat_map(|(names, account)| {
            let url = account.url.as_deref().unwrap_or_default();
            names.iter().map(move |name| {
                let value = format!("{name}; accounturi={url}; validationmethods=dns-01");
                RecordData::Caa(0, "issue".to_owned(), value.into_bytes())
            })
        })
        .collect();
    allowed.sort_unstable();
    allowed.dedup();
    allowed
}

/// Adds proofs to a zone's record sets. What operators wrote stays: proofs join their TXT records, and an alias of theirs
/// leads elsewhere.
pub(super) fn add_proofs(proofs: Vec<(HostName, Vec<RecordData>)>, sets: &mut super::RecordSets) {
    for (name, data) in proofs {
        let at = sets.entry(name).or_default();
        if at.contains_key(&RecordKind::Cname) {
            continue;
        }
        let set = at.entry(RecordKind::Txt).or_insert(super::PlannedSet { ttl: 0, data: Vec::new() });
        set.ttl = 0;
        set.data.extend(data);
        set.data.sort_unstable();
        set.data.dedup();
    }
}

/// Adds to a zone's record sets who may issue certificates for it. CAA records of operators are the only ones there.
pub(super) fn add_issuers(apex: &HostName, ttl: u32, allowed: &[RecordData], sets: &mut super::RecordSets) {
    if allowed.is_empty() {
        return;
    }
    let at = sets.entry(apex.clone()).or_default();
    if !at.contains_key(&RecordKind::Cname) {
        at.entry(RecordKind::Caa).or_insert_with(|| super::PlannedSet { ttl, data: allowed.to_vec() });
    }
}
