//! Nodes.

use pangolin_core::{Body, ClusterState, NodeId, Object, record, record::AdminState};
use pangolin_wire::{Node, NodeList, ReplaceNode, UpdateNode};

use super::Routes;
use crate::{answer::Answer, call::Call, failure::ApiFailure, service::NewToken};

pub(super) fn routes(routes: &mut Routes) {
    routes.get("/nodes", list);
    // Before the nodes: its last part is a word, not an id.
    routes.get("/node/journal", journal);
    routes.get("/node/{nodeId}", show);
    routes.post("/node/{nodeId}", update);
    routes.delete("/node/{nodeId}", remove);
    routes.post("/node/{nodeId}/promote", promote);
    routes.put("/node/{nodeId}/replacement", replace);
}

async fn list(call: Call) -> Result<Answer, ApiFailure> {
    call.administrator()?;
    let (nodes, pagination) = call.page(call.state.nodes().values().map(|node| render(&call.state, node)))?;
    Answer::ok(call.state.revision(), "nodes", &NodeList { nodes, pagination })
}

async fn show(call: Call) -> Result<Answer, ApiFailure> {
    call.administrator()?;
    let id = call.parameter("nodeId")?;
    Answer::ok(call.state.revision(), format!("node {id}"), &render(&call.state, find(&call.state, id)?))
}

/// The journal of the node that is asked: other nodes have their own.
async fn journal(call: Call) -> Result<Answer, ApiFailure> {
    call.administrator()?;
    let (limit, after) = call.limit_and("after")?;
    let page = call.app.node.journal(after, limit).await?;
    Answer::ok(call.state.revision(), format!("journal of node {}", page.node_id), &page)
}

async fn update(call: Call) -> Result<Answer, ApiFailure> {
    call.administrator()?;
    let (node, UpdateNode { admin }) = (call.parameter("nodeId")?, call.body()?);
    if admin == AdminState::Leaving {
        return Err(ApiFailure::invalid("a node is not marked as leaving, but removed")
            .hint("`pangolinctl node remove NODE`, or DELETE of this path: it checks what that costs."));
    }
    let changed = call.propose(Body::NodeAdmin { node, admin }).await?;
    let message = match admin {
        AdminState::Active => format!("node {node} is in service"),
        AdminState::Drained | AdminState::Leaving => format!("node {node} gives its work away"),
    };
    Answer::ok(changed.revision, message, &render(&changed.state, find(&changed.state, node)?))
}

/// Takes it out of the cluster for good.
async fn remove(call: Call) -> Result<Answer, ApiFailure> {
    call.administrator()?;
    let node = call.parameter("nodeId")?;
    find_or_gone(&call, node)?;
    call.app.node.leave(Some(node), call.cause(), call.request()).await?;
    let message = format!("node {node} has left the cluster");
    Ok(Answer::done(call.app.cluster.state().revision(), message))
}

async fn promote(call: Call) -> Result<Answer, ApiFailure> {
    call.administrator()?;
    let node = call.parameter("nodeId")?;
    find(&call.state, node)?;
    call.app.node.promote(node, call.cause(), call.request()).await?;
    Ok(Answer::done(call.app.cluster.state().revision(), format!("node {node} votes")))
}

/// A token for the host that takes this node's place: it leaves once that one votes.
async fn replace(call: Call) -> Result<Answer, ApiFailure> {
    call.administrator()?;
    let (node, ReplaceNode { lifetime_seconds }) = (call.parameter("nodeId")?, call.body()?);
    let role = find(&call.state, node)?.spec.role;
    let lifetime = super::token::lifetime(lifetime_seconds)?;
    super::token::make(&call, NewToken { role, lifetime, replaces: Some(node) }).await
}

/// Refuses a node that is not there, unless this is a repeat of the request that removed it.
pub(super) fn find_or_gone(call: &Call, id: NodeId) -> Result<(), ApiFailure> {
    call.may_remove(|view| find(view.state, id).map(|_| ()))
}

pub(super) fn find(state: &ClusterState, id: NodeId) -> Result<&record::Node, ApiFailure> {
    state.nodes().get(&id).ok_or_else(|| ApiFailure::not_found(&Object::Node(id)))
}

pub(super) fn render(state: &ClusterState, node: &record::Node) -> Node {
    let (spec, capacity) = (&node.spec, state.fabric().capacity(node.id));
    Node {
        node_id: node.id,
        name: spec.name.clone(),
        role: spec.role,
        admin: node.admin,
        admin_at: node.admin_at.into(),
        admin_cause: node.admin_cause.to_string(),
        verdict: node.verdict,
        verdict_at: node.verdict_at.into(),
        verdict_cause: node.verdict_cause.to_string(),
        peer_address: spec.peer_address,
        public_addresses: spec.public_addresses.clone(),
        https_port: spec.https_port,
        tunnel_endpoint: spec.tunnel_endpoint.clone(),
        tunnel_address: node.tunnel_address,
        region: spec.region.clone(),
        version: spec.version.clone(),
        admitted_at: node.admitted_at.into(),
        weight: capacity.weight,
        capacity: capacity.sites,
    }
}
