//! Ports, balancing, shares.

use pangolin_core::{
    Body, ResourceId, SiteId, Slug, TargetId, record,
    traffic::{PortKind, TrafficChange},
};
use pangolin_wire::{ClosePort, OpenPort, Port, PortList, SetBalancing, SetLocal, SetShare};

use super::{Routes, resource, site, target};
use crate::{
    answer::Answer,
    call::{Call, Changed},
    failure::ApiFailure,
};

pub(super) fn routes(routes: &mut Routes) {
    routes.post("/resource/{resourceId}/balancing", set_balancing);
    routes.post("/target/{targetId}/share", set_share);
    routes.get("/org/{orgId}/ports", list);
    routes.put("/resource/{resourceId}/port", open);
    routes.post("/resource/{resourceId}/port/close", close);
    routes.post("/site/{siteId}/local", set_local);
}

async fn change(call: &Call, change: TrafficChange) -> Result<Changed, ApiFailure> {
    call.propose(Body::Traffic(Box::new(change))).await
}

async fn set_balancing(call: Call) -> Result<Answer, ApiFailure> {
    let id: ResourceId = call.parameter("resourceId")?;
    call.view().resource(id)?;
    let SetBalancing { balancing } = call.body()?;
    let changed = change(&call, TrafficChange::BalancingSet { resource: id, balancing }).await?;
    let resource = resource::render(&changed.state, call.view_of(&changed).resource(id)?);
    Answer::ok(
        changed.revision,
        format!("targets of {} are chosen by {balancing}", resource.full_domain),
        &resource,
    )
}

async fn set_share(call: Call) -> Result<Answer, ApiFailure> {
    let id: TargetId = call.parameter("targetId")?;
    call.view().target(id)?;
    let set: SetShare = call.body()?;
    if set == (SetShare { weight: None, priority: None }) {
        return Err(ApiFailure::invalid("nothing is to be changed: give weight or priority"));
    }
    let share = set.over(call.state.traffic().share(id));
    let changed = change(&call, TrafficChange::ShareSet { target: id, share }).await?;
    let target = target::render(&call, &changed.state, call.view_of(&changed).target(id)?);
    let message = format!("target {id} has weight {} and priority {}", share.weight, share.priority);
    Answer::ok(changed.revision, message, &target)
}

async fn list(call: Call) -> Result<Answer, ApiFailure> {
    let org: Slug = call.parameter("orgId")?;
    call.view().org(&org)?;
    let of_org = call.state.traffic().ports.iter().filter_map(|((id, kind), rules)| {
        let resource = call.state.resources().get(id).filter(|resource| resource.org == org)?;
        Some(Port::new(*id, resource.host.clone(), *kind, rules))
    });
    let (ports, pagination) = call.page(of_org)?;
    Answer::ok(call.state.revision(), format!("open ports of org {org}"), &PortList { ports, pagination })
}

fn kind(text: &str) -> Result<PortKind, ApiFailure> {
    text.parse().map_err(|error| ApiFailure::invalid(format!("port: {error}")))
}

async fn open(call: Call) -> Result<Answer, ApiFailure> {
    let id: ResourceId = call.parameter("resourceId")?;
    call.view().resource(id)?;
    let wanted: OpenPort = call.body()?;
    let kind = kind(&wanted.port)?;
    let rules = wanted.rules(kind);
    let change_to = TrafficChange::PortOpened { resource: id, kind, rules: rules.clone() };
    let changed = change(&call, change_to).await?;
    let resource = call.view_of(&changed).resource(id)?;
    let port = Port::new(id, resource.host.clone(), kind, &rules);
    Answer::created(changed.revision, opened(resource, kind), &port)
}

fn opened(resource: &record::Resource, kind: PortKind) -> String {
    match kind {
        PortKind::Tls => format!("TLS for {} is passed on to its targets of method tcp", resource.host),
        PortKind::Tcp(_) => {
            format!("{kind} of every node leads to the targets of method tcp of {}", resource.host)
        }
        PortKind::Udp(_) => {
            format!("{kind} of every node leads to the targets of method udp of {}", resource.host)
        }
    }
}

async fn close(call: Call) -> Result<Answer, ApiFailure> {
    let id: ResourceId = call.parameter("resourceId")?;
    call.view().resource(id)?;
    let ClosePort { port } = call.body()?;
    let kind = kind(&port)?;
    let changed = change(&call, TrafficChange::PortClosed { resource: id, kind }).await?;
    Ok(Answer::done(changed.revision, format!("{kind} of resource {id} is closed")))
}

/// Who publishes what a node reaches, its own loopback included, has to be trusted with the cluster.
async fn set_local(call: Call) -> Result<Answer, ApiFailure> {
    let id: SiteId = call.parameter("siteId")?;
    call.view().site(id)?;
    call.administrator()?;
    let SetLocal { nodes } = call.body()?;
    let message = match &nodes {
        None => format!("targets of site {id} are reached by its connector"),
        Some(nodes) if nodes.is_empty() => format!("targets of site {id} are reached by every node itself"),
        Some(_) => format!("targets of site {id} are reached by these nodes themselves"),
    };
    let changed = change(&call, TrafficChange::LocalSiteSet { site: id, nodes }).await?;
    let site = site::render(&changed.state, call.view_of(&changed).site(id)?);
    Answer::ok(changed.revision, message, &site)
}
