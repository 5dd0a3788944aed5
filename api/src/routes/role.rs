//! Roles of organisations.

use pangolin_core::{CatalogChange, Object, RoleId, Slug, record};
use pangolin_wire::{CreateRole, Role, RoleList};

use super::Routes;
use crate::{answer::Answer, call::Call, failure::ApiFailure};

pub(super) fn routes(routes: &mut Routes) {
    routes.put("/org/{orgId}/role", create);
    routes.get("/org/{orgId}/roles", list);
    routes.get("/role/{roleId}", show);
    routes.delete("/role/{roleId}", remove);
}

async fn create(call: Call) -> Result<Answer, ApiFailure> {
    let org: Slug = call.parameter("orgId")?;
    call.view().org(&org)?;
    let CreateRole { name } = call.body()?;
    let changed = call.change(CatalogChange::RoleCreated { id: None, org, name }).await?;
    let id = changed.made(|object| match object {
        Object::Role(id) => Some(*id),
        _ => None,
    })?;
    let role = render(call.view_of(&changed).role(id)?);
    Answer::created(changed.revision, format!("role {} created with id {id}", role.name), &role)
}

async fn list(call: Call) -> Result<Answer, ApiFailure> {
    let org: Slug = call.parameter("orgId")?;
    call.view().org(&org)?;
    let roles = call.state.roles().values().filter(|role| role.org == org);
    let (roles, pagination) = call.page(roles.map(render))?;
    Answer::ok(call.state.revision(), format!("roles of org {org}"), &RoleList { roles, pagination })
}

async fn show(call: Call) -> Result<Answer, ApiFailure> {
    let id = call.parameter("roleId")?;
    Answer::ok(call.state.revision(), format!("role {id}"), &render(call.view().role(id)?))
}

async fn remove(call: Call) -> Result<Answer, ApiFailure> {
    let id: RoleId = call.parameter("roleId")?;
    call.may_remove(|view| view.role(id).map(|_| ()))?;
    let changed = call.change(CatalogChange::RoleRemoved(id)).await?;
    Ok(Answer::done(changed.revision, format!("role {id} deleted")))
}

fn render(role: &record::Role) -> Role {
    Role {
        role_id: role.id,
        org_id: role.org.clone(),
        name: role.name.clone(),
        is_admin: role.administrators,
    }
}
