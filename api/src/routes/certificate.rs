//! Certificates and their issuers.

use std::collections::BTreeSet;

use pangolin_core::{
    Body, CertificateId, ClusterState, HostName, Object, Slug,
    decide::certificates_wanted,
    issuance::{CertificatesChange, Issuer, Source, StandingKind, renew_at, standing},
};
use pangolin_wire::{
    Certificate, CertificateIssuer, CertificateList, Code, IssuerList, Moment, OrderStatus,
    RevokeCertificate, SetIssuer,
};

use super::Routes;
use crate::{
    answer::Answer,
    call::{Call, Changed},
    failure::ApiFailure,
};

pub(super) fn routes(routes: &mut Routes) {
    routes.get("/certificates", list);
    routes.put("/certificate", import);
    routes.get("/certificate/{certificateId}", show);
    routes.delete("/certificate/{certificateId}", remove);
    routes.post("/certificate/{certificateId}/renew", renew);
    routes.post("/certificate/{certificateId}/revoke", revoke);
    routes.get("/certificate-issuers", issuers);
    routes.put("/certificate-issuer", set_issuer);
    routes.delete("/certificate-issuer/{name}", remove_issuer);
    routes.post("/certificate-issuer/{name}/account-key", change_account_key);
}

/// Whether the caller may see and change what is good for these names.
fn sees(call: &Call, names: &[HostName]) -> bool {
    call.principal.is_administrator()
        || names.iter().all(|name| owner(&call.state, name).is_some_and(|org| call.view().sees(org)))
}

fn owner<'a>(state: &'a ClusterState, name: &HostName) -> Option<&'a pangolin_core::Slug> {
    let holding = state.domains().values().filter(|domain| name.is_within(&domain.name));
    holding.max_by_key(|domain| domain.name.as_str().len()).map(|domain| &domain.org)
}

async fn list(call: Call) -> Result<Answer, ApiFailure> {
    let state = &call.state;
    let kept = state.certificates().values().map(|certificate| certificate.names.clone());
    let kept_up = state.issuance().upkeeps.values().map(|upkeep| upkeep.names.clone());
    let all: BTreeSet<Vec<HostName>> =
        certificates_wanted(state).into_iter().chain(kept).chain(kept_up).collect();
    let seen = all.iter().filter(|names| sees(&call, names));
    let (certificates, pagination) = call.page(seen.map(|names| render(state, names)))?;
    Answer::ok(state.revision(), "certificates", &CertificateList { certificates, pagination })
}

/// The names of a certificate that the caller may see.
fn names_of(call: &Call, id: CertificateId) -> Result<Vec<HostName>, ApiFailure> {
    let state = &call.state;
    let names = state.certificates().get(&id).map(|certificate| &certificate.names);
    let names = names.or_else(|| state.issuance().upkeeps.get(&id).map(|upkeep| &upkeep.names));
    let names = names.filter(|names| sees(call, names));
    names.cloned().ok_or_else(|| ApiFailure::not_found(&Object::Certificate(id)))
}

async fn show(call: Call) -> Result<Answer, ApiFailure> {
    let id: CertificateId = call.parameter("certificateId")?;
    let names = names_of(&call, id)?;
    Answer::ok(call.state.revision(), format!("certificate {id}"), &render(&call.state, &names))
}

fn made(changed: &Changed) -> Result<CertificateId, ApiFailure> {
    changed.made(|object| match object {
        Object::Certificate(id) => Some(*id),
        _ => None,
    })
}

fn rendered(changed: &Changed, id: CertificateId) -> Result<Certificate, ApiFailure> {
    let state = &changed.state;
    let names = state.certificates().get(&id).map(|certificate| &certificate.names);
    let names = names.or_else(|| state.issuance().upkeeps.get(&id).map(|upkeep| &upkeep.names));
    names.map(|names| render(state, names)).ok_or_else(|| ApiFailure::not_found(&Object::Certificate(id)))
}

fn body(change: CertificatesChange) -> Body {
    Body::Certificates(Box::new(change))
}

async fn import(call: Call) -> Result<Answer, ApiFailure> {
    let certificate = call.app.node.certificates().import(&call.body()?)?;
    if !sees(&call, &certificate.names) {
        let names: Vec<&str> = certificate.names.iter().map(HostName::as_str).collect();
        return Err(ApiFailure::new(
            Code::Forbidden,
            format!("the certificate is good for {}, which are not all names of yours", names.join(", ")),
        ));
    }
    let changed = call.propose(body(CertificatesChange::Imported(certificate))).await?;
    let id = made(&changed)?;
    Answer::created(changed.revision, format!("certificate {id} imported"), &rendered(&changed, id)?)
}

async fn renew(call: Call) -> Result<Answer, ApiFailure> {
    let id: CertificateId = call.parameter("certificateId")?;
    names_of(&call, id)?;
    let changed = call.propose(body(CertificatesChange::RenewalWanted(id))).await?;
    let message = format!("a new generation of certificate {id} is being got");
    Answer::ok(changed.revision, message, &rendered(&changed, id)?)
}

async fn revoke(call: Call) -> Result<Answer, ApiFailure> {
    let id: CertificateId = call.parameter("certificateId")?;
    names_of(&call, id)?;
    let RevokeCertificate { reason } = call.body()?;
    let changed = call.propose(body(CertificatesChange::RevocationWanted { id, reason })).await?;
    let message = format!("certificate {id} is being revoked, and a new one is being got");
    Answer::ok(changed.revision, message, &rendered(&changed, id)?)
}

async fn remove(call: Call) -> Result<Answer, ApiFailure> {
    let id: CertificateId = call.parameter("certificateId")?;
    if call.state.outcome_of(call.request()).is_none() {
        names_of(&call, id)?;
        if call.state.issuance().sources.get(&id) != Some(&Source::Imported) {
            return Err(ApiFailure::new(Code::Conflict, format!("certificate {id} was not imported"))
                .hint("The cluster removes its own certificates when nothing needs their names any more."));
        }
    }
    let changed = call.propose(Body::CertificateRemoved(id)).await?;
    Ok(Answer::done(changed.revision, format!("certificate {id} deleted")))
}

fn render(state: &ClusterState, names: &[HostName]) -> Certificate {
    let issuance = state.issuance();
    let certificate = state.certificates().values().find(|certificate| certificate.names == names);
    let upkeep = issuance.upkeep_of(names);
    let how = standing(state, names, state.time());
    let issuer = certificate.map(|certificate| match issuance.sources.get(&certificate.id) {
        None => "internal".to_owned(),
        Some(Source::Imported) => "imported".to_owned(),
        Some(Source::Issuer(directory)) => issuance.name_of(directory).to_owned(),
    });
    let renewed = certificate.filter(|c| matches!(issuance.sources.get(&c.id), Some(Source::Issuer(_))));
    let order = upkeep.and_then(|upkeep| Some((upkeep, upkeep.order.as_ref()?)));
    Certificate {
        certificate_id: certificate.map(|c| c.id).or_else(|| upkeep.map(|upkeep| upkeep.id)),
        names: names.to_vec(),
        state: how.kind,
        reason: how.reason,
        issuer,
        generation: certificate.map(|certificate| certificate.generation),
        not_before: certificate.map(|certificate| Moment(certificate.not_before)),
        not_after: certificate.map(|certificate| Moment(certificate.not_after)),
        renew_at: renewed
            .filter(|_| how.kind == StandingKind::Valid)
            .map(|certificate| Moment(renew_at(issuance, certificate, upkeep))),
        order: order.map(|(upkeep, order)| OrderStatus {
            issuer: issuance.name_of(&order.directory).to_owned(),
            generation: upkeep.generation,
            phase: order.phase,
            since: Moment(order.since),
            url: order.url.clone(),
        }),
        failures: upkeep.map_or(0, |upkeep| upkeep.failures),
        surplus_orders: upkeep.map_or(0, |upkeep| upkeep.surplus),
    }
}

async fn issuers(call: Call) -> Result<Answer, ApiFailure> {
    call.administrator()?;
    let state = &call.state;
    let (issuers, pagination) =
        call.page(state.issuance().issuers.iter().map(|issuer| told(state, issuer)))?;
    Answer::ok(state.revision(), "issuers of certificates", &IssuerList { issuers, pagination })
}

async fn set_issuer(call: Call) -> Result<Answer, ApiFailure> {
    call.administrator()?;
    let wanted: SetIssuer = call.body()?;
    let known = issuer_named(&call.state, &wanted.name);
    let issuer = call.app.node.certificates().issuer(&wanted, known)?;
    let before = known.map(Issuer::digest);
    let change = CertificatesChange::IssuerSet { issuer: Box::new(issuer), first: wanted.first, before };
    let changed = call.propose(body(change)).await?;
    let state = &changed.state;
    let issuer = issuer_named(state, &wanted.name).ok_or_else(|| {
        ApiFailure::new(Code::NotFound, format!("issuer {} was removed at the same time", wanted.name))
    })?;
    Answer::created(changed.revision, format!("issuer {} set", wanted.name), &told(state, issuer))
}

fn issuer_named<'a>(state: &'a ClusterState, name: &Slug) -> Option<&'a Issuer> {
    state.issuance().issuers.iter().find(|issuer| issuer.name == *name)
}

async fn remove_issuer(call: Call) -> Result<Answer, ApiFailure> {
    call.administrator()?;
    let name: Slug = call.parameter("name")?;
    let changed = call.propose(body(CertificatesChange::IssuerRemoved(name.clone()))).await?;
    Ok(Answer::done(changed.revision, format!("issuer {name} deleted")))
}

async fn change_account_key(call: Call) -> Result<Answer, ApiFailure> {
    call.administrator()?;
    let name: Slug = call.parameter("name")?;
    let issuer = issuer_named(&call.state, &name);
    let issuer = issuer.ok_or_else(|| ApiFailure::not_found(&Object::Issuer(name.clone())))?;
    let directory = issuer.directory.clone();
    let key = call.app.node.certificates().account_key(&directory)?;
    let changed = call.propose(body(CertificatesChange::NextAccountKeyMade { directory, key })).await?;
    let message = format!("the account at {name} gets another key, as soon as no order is under way there");
    Ok(Answer::done(changed.revision, message))
}

fn told(state: &ClusterState, issuer: &Issuer) -> CertificateIssuer {
    let issuance = state.issuance();
    let hold = issuance.held.get(&issuer.directory).filter(|hold| hold.until > state.time());
    CertificateIssuer {
        name: issuer.name.clone(),
        directory: issuer.directory.clone(),
        roots: issuer.roots.len(),
        contacts: issuer.contacts.clone(),
        profile: issuer.profile.clone(),
        external_account: issuer.external.as_ref().map(|external| external.key_id.clone()),
        caa: issuer.caa.clone(),
        account: issuance.accounts.get(&issuer.directory).and_then(|account| account.url.clone()),
        held_until: hold.map(|hold| Moment(hold.until)),
        held_because: hold.map(|hold| hold.detail.clone()),
        key_exchange: state.rollovers().account_keys.contains_key(&issuer.directory),
    }
}
