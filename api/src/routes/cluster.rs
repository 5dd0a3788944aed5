//! The cluster as a whole: health, status, settings, leaving, leadership.

use std::sync::Arc;

use pangolin_core::{Body, Object, command::UpgradeChange};
use pangolin_raft::ServerState;
use pangolin_wire::{
    Autopilot, Checkpoint, Disband, Health, Issuer, Leave, Settings, TransferLeader, TransferredLeader,
    UpgradeAction,
};
use warp::Filter;

use super::{Route, Routes, arrived, at};
use crate::{
    answer::{Answer, respond},
    call::{App, Arrived, Call},
    failure::ApiFailure,
};

/// The one route that needs no credentials.
pub(super) const HEALTH: &str = "/health";

pub(super) fn routes(routes: &mut Routes) {
    routes.get("/cluster/status", status);
    routes.get("/cluster/settings", settings);
    routes.get("/cluster/issuer", issuer);
    routes.get("/cluster/autopilot", autopilot);
    routes.post("/cluster/autopilot", set_autopilot);
    routes.post("/cluster/leave", leave);
    routes.post("/cluster/disband", disband);
    routes.post("/cluster/leader/transfer", transfer);
    routes.post("/cluster/upgrade", upgrade);
}

/// Says that this node answers, to anyone: load balancers and probes have no credentials.
pub(super) fn health(app: &Arc<App>) -> Route {
    let app = app.clone();
    let answer = move |_: Vec<String>, arrived: Arc<Arrived>| {
        let revision = app.cluster.state().revision();
        let raft = app.cluster.status();
        let leads = raft.state == ServerState::Leader;
        let checkpoint = app.cluster.hashes().last().copied().map(Checkpoint::from);
        let health = Health { revision, leader: app.cluster.leader(), term: raft.term, leads, checkpoint };
        respond(Answer::ok(revision, "this node answers", &health), arrived.name)
    };
    at(HEALTH).and(warp::get()).and(arrived()).map(answer).boxed()
}

async fn status(call: Call) -> Result<Answer, ApiFailure> {
    call.administrator()?;
    let status = call.app.node.status().await?;
    Answer::ok(call.state.revision(), status.quorum.summary.clone(), &status)
}

async fn settings(call: Call) -> Result<Answer, ApiFailure> {
    call.administrator()?;
    let settings = call.state.settings().ok_or_else(|| ApiFailure::not_found(&Object::Cluster))?;
    let settings = Settings {
        zone: settings.zone.clone(),
        control_host: settings.control_host.clone(),
        tunnel_network: settings.tunnel_network,
        ttl: settings.ttl,
    };
    Answer::ok(call.state.revision(), "settings of the cluster", &settings)
}

/// The certificate is no secret: whoever opens a published page sees it in the handshake.
async fn issuer(call: Call) -> Result<Answer, ApiFailure> {
    let cluster = call.state.cluster().ok_or_else(|| ApiFailure::not_found(&Object::Cluster))?;
    let issuer = Issuer::new(&cluster.issuer.certificate);
    Answer::ok(call.state.revision(), "certificate of the internal issuer", &issuer)
}

async fn autopilot(call: Call) -> Result<Answer, ApiFailure> {
    call.administrator()?;
    let autopilot = Autopilot::from(call.state.autopilot());
    Answer::ok(call.state.revision(), "how the cluster looks after its voters", &autopilot)
}

async fn set_autopilot(call: Call) -> Result<Answer, ApiFailure> {
    call.administrator()?;
    let autopilot: Autopilot = call.body()?;
    let changed = call.propose(Body::AutopilotChanged(autopilot.into())).await?;
    let message = "changed how the cluster looks after its voters";
    Answer::ok(changed.revision, message, &Autopilot::from(changed.state.autopilot()))
}

/// Once only this node is left, it says so.
async fn disband(call: Call) -> Result<Answer, ApiFailure> {
    call.administrator()?;
    let Disband { cluster } = call.body()?;
    call.app.node.disband(cluster, call.cause(), call.request()).await?;
    let message = "the cluster is taken apart: this node is all that is left of it";
    Ok(Answer::done(call.app.cluster.state().revision(), message))
}

async fn leave(call: Call) -> Result<Answer, ApiFailure> {
    call.administrator()?;
    let Leave { node_id } = call.body()?;
    if let Some(id) = node_id {
        super::node::find_or_gone(&call, id)?;
    }
    call.app.node.leave(node_id, call.cause(), call.request()).await?;
    let who = node_id.map_or_else(|| "this node".to_owned(), |id| format!("node {id}"));
    Ok(Answer::done(call.app.cluster.state().revision(), format!("{who} has left the cluster")))
}

/// One step of a rolling upgrade. Who takes the steps is whoever upgrades: `pangolinctl upgrade run`.
async fn upgrade(call: Call) -> Result<Answer, ApiFailure> {
    call.administrator()?;
    let (change, message) = match call.body()? {
        UpgradeAction::Start => (UpgradeChange::Started { rollback: false }, "an upgrade is open".to_owned()),
        UpgradeAction::Rollback => {
            (UpgradeChange::Started { rollback: true }, "the nodes are going back".to_owned())
        }
        UpgradeAction::Begin { node_id } => {
            (UpgradeChange::NodeBegun(node_id), format!("node {node_id} is being upgraded"))
        }
        UpgradeAction::Done { node_id } => {
            (UpgradeChange::NodeDone(node_id), format!("node {node_id} is upgraded"))
        }
        UpgradeAction::Finish => {
            call.app.node.finish_upgrade(call.cause()).await?;
            let level = call.app.cluster.state().feature_level();
            let message = format!("no upgrade is open, and the feature level is {level}");
            return Ok(Answer::done(call.app.cluster.state().revision(), message));
        }
    };
    let changed = call.propose(Body::Upgrade(change)).await?;
    Ok(Answer::done(changed.revision, message))
}

async fn transfer(call: Call) -> Result<Answer, ApiFailure> {
    call.administrator()?;
    let TransferLeader { to } = call.body()?;
    if let Some(id) = to
        && !call.state.nodes().contains_key(&id)
    {
        return Err(ApiFailure::not_found(&Object::Node(id)));
    }
    let node_id = call.app.node.transfer_leader(to, call.cause(), call.request()).await?;
    let message = format!("node {node_id} leads");
    Answer::ok(call.app.cluster.state().revision(), message, &TransferredLeader { node_id })
}
