//! Domains.

use pangolin_core::{CatalogChange, DomainId, Object, Slug, record};
use pangolin_wire::{CreateDomain, Domain, DomainList};

use super::Routes;
use crate::{answer::Answer, call::Call, failure::ApiFailure};

pub(super) fn routes(routes: &mut Routes) {
    routes.put("/org/{orgId}/domain", create);
    routes.get("/org/{orgId}/domains", list);
    routes.get("/domain/{domainId}", show);
    routes.delete("/domain/{domainId}", remove);
}

async fn create(call: Call) -> Result<Answer, ApiFailure> {
    let org: Slug = call.parameter("orgId")?;
    call.view().org(&org)?;
    let CreateDomain { base_domain: name } = call.body()?;
    let changed = call.change(CatalogChange::DomainCreated { id: None, org, name }).await?;
    let id = changed.made(|object| match object {
        Object::Domain(id) => Some(*id),
        _ => None,
    })?;
    let domain = render(call.view_of(&changed).domain(id)?);
    Answer::created(changed.revision, format!("domain {} created with id {id}", domain.base_domain), &domain)
}

async fn list(call: Call) -> Result<Answer, ApiFailure> {
    let org: Slug = call.parameter("orgId")?;
    call.view().org(&org)?;
    let domains = call.state.domains().values().filter(|domain| domain.org == org);
    let (domains, pagination) = call.page(domains.map(render))?;
    Answer::ok(call.state.revision(), format!("domains of org {org}"), &DomainList { domains, pagination })
}

async fn show(call: Call) -> Result<Answer, ApiFailure> {
    let id = call.parameter("domainId")?;
    Answer::ok(call.state.revision(), format!("domain {id}"), &render(call.view().domain(id)?))
}

async fn remove(call: Call) -> Result<Answer, ApiFailure> {
    let id: DomainId = call.parameter("domainId")?;
    call.may_remove(|view| view.domain(id).map(|_| ()))?;
    let changed = call.change(CatalogChange::DomainRemoved(id)).await?;
    Ok(Answer::done(changed.revision, format!("domain {id} deleted")))
}

fn render(domain: &record::Domain) -> Domain {
    Domain {
        domain_id: domain.id,
        org_id: domain.org.clone(),
        base_domain: domain.name.clone(),
        created_at: domain.created_at.into(),
    }
}
