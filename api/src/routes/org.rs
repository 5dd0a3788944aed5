//! Organisations.

use pangolin_core::{CatalogChange, Object, Slug, record};
use pangolin_wire::{CreateOrg, Org, OrgList, UpdateOrg};

use super::Routes;
use crate::{answer::Answer, call::Call, failure::ApiFailure};

pub(super) fn routes(routes: &mut Routes) {
    routes.put("/org", create);
    routes.get("/orgs", list);
    routes.get("/org/{orgId}", show);
    routes.post("/org/{orgId}", update);
    routes.delete("/org/{orgId}", remove);
}

async fn create(call: Call) -> Result<Answer, ApiFailure> {
    call.administrator()?;
    let CreateOrg { org_id, name } = call.body()?;
    let name = name.unwrap_or_else(|| org_id.to_string());
    let changed = call.change(CatalogChange::OrgCreated { id: org_id, name }).await?;
    let id = changed.made(|object| match object {
        Object::Org(id) => Some(id.clone()),
        _ => None,
    })?;
    let org = render(call.view_of(&changed).org(&id)?);
    Answer::created(changed.revision, format!("org {id} created"), &org)
}

async fn list(call: Call) -> Result<Answer, ApiFailure> {
    let view = call.view();
    let orgs = view.state.orgs().values().filter(|org| view.sees(&org.id));
    let (orgs, pagination) = call.page(orgs.map(render))?;
    Answer::ok(call.state.revision(), "orgs", &OrgList { orgs, pagination })
}

async fn show(call: Call) -> Result<Answer, ApiFailure> {
    let id: Slug = call.parameter("orgId")?;
    Answer::ok(call.state.revision(), format!("org {id}"), &render(call.view().org(&id)?))
}

async fn update(call: Call) -> Result<Answer, ApiFailure> {
    call.administrator()?;
    let (id, UpdateOrg { name }) = (call.parameter::<Slug>("orgId")?, call.body()?);
    let changed = call.change(CatalogChange::OrgChanged { id: id.clone(), name }).await?;
    let org = render(call.view_of(&changed).org(&id)?);
    Answer::ok(changed.revision, format!("org {id} updated"), &org)
}

async fn remove(call: Call) -> Result<Answer, ApiFailure> {
    call.administrator()?;
    let id: Slug = call.parameter("orgId")?;
    let changed = call.change(CatalogChange::OrgRemoved(id.clone())).await?;
    Ok(Answer::done(changed.revision, format!("org {id} deleted")))
}

fn render(org: &record::Org) -> Org {
    Org { org_id: org.id.clone(), name: org.name.clone(), created_at: org.created_at.into() }
}
