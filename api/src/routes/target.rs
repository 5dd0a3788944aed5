//! Targets.

use pangolin_core::{
    CatalogChange, ClusterState, Object, ResourceId, TargetId,
    record::{self, Method},
};
use pangolin_wire::{CreateTarget, Target, TargetList, UpdateTarget};

use super::Routes;
use crate::{answer::Answer, call::Call, failure::ApiFailure};

pub(super) fn routes(routes: &mut Routes) {
    routes.put("/resource/{resourceId}/target", create);
    routes.get("/resource/{resourceId}/targets", list);
    routes.get("/target/{targetId}", show);
    routes.post("/target/{targetId}", update);
    routes.delete("/target/{targetId}", remove);
}

async fn create(call: Call) -> Result<Answer, ApiFailure> {
    let resource: ResourceId = call.parameter("resourceId")?;
    call.view().resource(resource)?;
    let CreateTarget { site_id: site, ip: host, port, method, health_check } = call.body()?;
    call.view().site(site)?;
    let (method, health_check) = (method.unwrap_or(Method::Http), health_check.map(Into::into));
    let change = CatalogChange::TargetCreated { id: None, resource, site, method, host, port, health_check };
    let changed = call.change(change).await?;
    let id = changed.made(|object| match object {
        Object::Target(id) => Some(*id),
        _ => None,
    })?;
    let target = render(&call, &changed.state, call.view_of(&changed).target(id)?);
    Answer::created(changed.revision, format!("target {id} of resource {resource} created"), &target)
}

async fn list(call: Call) -> Result<Answer, ApiFailure> {
    let resource: ResourceId = call.parameter("resourceId")?;
    call.view().resource(resource)?;
    let (targets, pagination) =
        call.page(call.state.targets_of(resource).map(|target| render(&call, &call.state, target)))?;
    let message = format!("targets of resource {resource}");
    Answer::ok(call.state.revision(), message, &TargetList { targets, pagination })
}

async fn show(call: Call) -> Result<Answer, ApiFailure> {
    let id = call.parameter("targetId")?;
    Answer::ok(
        call.state.revision(),
        format!("target {id}"),
        &render(&call, &call.state, call.view().target(id)?),
    )
}

async fn update(call: Call) -> Result<Answer, ApiFailure> {
    let id: TargetId = call.parameter("targetId")?;
    let target = call.view().target(id)?;
    let update: UpdateTarget = call.body()?;
    if update == (UpdateTarget { ip: None, port: None, method: None, enabled: None, health_check: None }) {
        return Err(ApiFailure::invalid(
            "nothing is to be changed: give ip, port, method, enabled or healthCheck",
        ));
    }
    let UpdateTarget { ip, port, method, enabled, health_check } = update;
    let change = CatalogChange::TargetChanged {
        id,
        method: method.unwrap_or(target.method),
        host: ip.unwrap_or_else(|| target.host.clone()),
        port: port.unwrap_or(target.port),
        enabled: enabled.unwrap_or(target.enabled),
        health_check: match health_check {
            Some(said) => said.map(Into::into),
            None => target.health_check.clone(),
        },
    };
    let changed = call.change(change).await?;
    let target = render(&call, &changed.state, call.view_of(&changed).target(id)?);
    Answer::ok(changed.revision, format!("target {id} updated"), &target)
}

async fn remove(call: Call) -> Result<Answer, ApiFailure> {
    let id: TargetId = call.parameter("targetId")?;
    call.may_remove(|view| view.target(id).map(|_| ()))?;
    let changed = call.change(CatalogChange::TargetRemoved(id)).await?;
    Ok(Answer::done(changed.revision, format!("target {id} deleted")))
}

pub(super) fn render(call: &Call, state: &ClusterState, target: &record::Target) -> Target {
    let share = state.traffic().share(target.id);
    Target {
        target_id: target.id,
        resource_id: target.resource,
        site_id: target.site,
        method: target.method,
        ip: target.host.clone(),
        port: target.port,
        internal_port: target.tunnel_port,
        enabled: target.enabled,
        health_check: target.health_check.clone().map(Into::into),
        weight: share.weight,
        priority: share.priority,
        state: call.app.node.target_state(state, target),
    }
}
