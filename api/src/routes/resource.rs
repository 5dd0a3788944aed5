//! Resources.

use pangolin_core::{CatalogChange, ClusterState, DomainId, HostName, Object, ResourceId, Slug, record};
use pangolin_wire::{CreateResource, Resource, ResourceList, UpdateResource};

use super::Routes;
use crate::{answer::Answer, call::Call, failure::ApiFailure, view::View};

pub(super) fn routes(routes: &mut Routes) {
    routes.put("/org/{orgId}/resource", create);
    routes.get("/org/{orgId}/resources", list);
    routes.get("/resource/{resourceId}", show);
    routes.post("/resource/{resourceId}", update);
    routes.delete("/resource/{resourceId}", remove);
}

async fn create(call: Call) -> Result<Answer, ApiFailure> {
    let org: Slug = call.parameter("orgId")?;
    call.view().org(&org)?;
    let CreateResource { name, nice_id, full_domain, domain_id, subdomain, http } = call.body()?;
    if http == Some(false) {
        return Err(ApiFailure::invalid("http is false: only HTTP resources can be published"));
    }
    let (domain, host) = place(call.view(), &org, full_domain, domain_id, subdomain.as_deref())?;
    let name = name.unwrap_or_else(|| host.to_string());
    let change = CatalogChange::ResourceCreated { id: None, org, nice_id, name, domain, host };
    let changed = call.change(change).await?;
    let id = changed.made(|object| match object {
        Object::Resource(id) => Some(*id),
        _ => None,
    })?;
    let resource = render(&changed.state, call.view_of(&changed).resource(id)?);
    let message = format!("resource {} created with id {id}", resource.full_domain);
    Answer::created(changed.revision, message, &resource)
}

/// The domain and the full name of a new resource.
fn place(
    view: View<'_>,
    org: &Slug,
    full: Option<HostName>,
    domain: Option<DomainId>,
    subdomain: Option<&str>,
) -> Result<(DomainId, HostName), ApiFailure> {
    match (full, domain) {
        (Some(_), _) if subdomain.is_some() => {
            Err(ApiFailure::invalid("fullDomain and subdomain do not go together: give one of them"))
        }
        (Some(host), Some(domain)) => Ok((domain, host)),
        (Some(host), None) => {
            let above = view.state.domains().values();
            let above = above.filter(|domain| domain.org == *org && host.is_within(&domain.name));
            match above.max_by_key(|domain| domain.name.as_str().len()) {
                Some(domain) => Ok((domain.id, host)),
                None => Err(ApiFailure::invalid(format!("no domain of org {org} holds {host}"))
                    .hint("Add one: `pangolinctl domain create`.")),
            }
        }
        (None, Some(id)) => {
            let base = &view.domain(id)?.name;
            let host = match subdomain.filter(|subdomain| !subdomain.is_empty()) {
                Some(subdomain) => base
                    .child(subdomain)
                    .map_err(|error| ApiFailure::invalid(format!("subdomain is not acceptable: {error}")))?,
                None => base.clone(),
            };
            Ok((id, host))
        }
        (None, None) => {
            Err(ApiFailure::invalid("the name is missing: give fullDomain, or domainId and subdomain"))
        }
    }
}

async fn list(call: Call) -> Result<Answer, ApiFailure> {
    let org: Slug = call.parameter("orgId")?;
    call.view().org(&org)?;
    let resources = call.state.resources().values().filter(|resource| resource.org == org);
    let (resources, pagination) = call.page(resources.map(|resource| render(&call.state, resource)))?;
    let message = format!("resources of org {org}");
    Answer::ok(call.state.revision(), message, &ResourceList { resources, pagination })
}

async fn show(call: Call) -> Result<Answer, ApiFailure> {
    let id = call.parameter("resourceId")?;
    let resource = render(&call.state, call.view().resource(id)?);
    Answer::ok(call.state.revision(), format!("resource {id}"), &resource)
}

async fn update(call: Call) -> Result<Answer, ApiFailure> {
    let (id, UpdateResource { name, enabled }) = (call.parameter("resourceId")?, call.body()?);
    let resource = call.view().resource(id)?;
    if name.is_none() && enabled.is_none() {
        return Err(ApiFailure::invalid("nothing is to be changed: give name or enabled"));
    }
    let (name, enabled) =
        (name.unwrap_or_else(|| resource.name.clone()), enabled.unwrap_or(resource.enabled));
    let changed = call.change(CatalogChange::ResourceChanged { id, name, enabled }).await?;
    let resource = render(&changed.state, call.view_of(&changed).resource(id)?);
    Answer::ok(changed.revision, format!("resource {id} updated"), &resource)
}

async fn remove(call: Call) -> Result<Answer, ApiFailure> {
    let id: ResourceId = call.parameter("resourceId")?;
    call.may_remove(|view| view.resource(id).map(|_| ()))?;
    let changed = call.change(CatalogChange::ResourceRemoved(id)).await?;
    Ok(Answer::done(changed.revision, format!("resource {id} deleted")))
}

pub(super) fn render(state: &ClusterState, resource: &record::Resource) -> Resource {
    let base = state.domains().get(&resource.domain).map(|domain| domain.name.as_str()).unwrap_or_default();
    let front = resource.host.as_str().strip_suffix(base).map(|front| front.trim_end_matches('.'));
    Resource {
        resource_id: resource.id,
        nice_id: resource.nice_id.clone(),
        org_id: resource.org.clone(),
        name: resource.name.clone(),
        domain_id: resource.domain,
        subdomain: front.filter(|front| !front.is_empty()).map(ToOwned::to_owned),
        full_domain: resource.host.clone(),
        enabled: resource.enabled,
        target_ids: state.targets_of(resource.id).map(|target| target.id).collect(),
        created_at: resource.created_at.into(),
        answers: state.dns().policy(resource.id),
        balancing: state.traffic().balancing(resource.id),
        ports: state.traffic().ports_of(resource.id).map(|(kind, _)| kind.to_string()).collect(),
    }
}
