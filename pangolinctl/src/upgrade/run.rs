//! The run: one node after the other. How far it is stands in the replicated state, so that it goes on after an
//! interruption, from here or from another host.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use pangolin_core::{
    NodeId,
    record::{AdminState, Verdict},
};
use pangolin_wire::{Backup, ClusterStatus, NodeStatus, Settings, TransferLeader, UpdateNode, UpgradeAction};
use tokio::{process::Command, time::sleep};

use super::{
    Run,
    order::{self, Gate},
};
use crate::{failure::Failure, print, session::Session};

/// How often a waiting run looks again.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How long the backup may take that is made first.
const BACKUP_PATIENCE: Duration = Duration::from_secs(300);
/// How long others may take to do what they do by themselves: take leadership over, take over sites.
const SETTLE: Duration = Duration::from_secs(60);
/// How long tunnels may take to come back to a node: a connector tries again within some seconds.
const TUNNELS: Duration = Duration::from_secs(60);

pub(super) async fn run(session: &Session, options: &Run, rollback: bool) -> Result<(), Failure> {
    let again = if rollback { "pangolinctl upgrade rollback" } else { "pangolinctl upgrade run" };
    let status = open(session, options, rollback).await?;
    let upgrade = Turns { session, options, rollback };
    let mut waiting = order::turns(&status);
    while let Some(node) = waiting.first().copied() {
        if let Err(failure) = upgrade.turn(node).await {
            return Err(failure.hint(format!(
                "The run has stopped; the cluster goes on. Remove the cause, then go on with `{again}`{}. \
                 `pangolinctl upgrade plan` shows how far it is.",
                if rollback { "" } else { ", or back with `pangolinctl upgrade rollback`" }
            )));
        }
        waiting = order::turns(&look(session).await?);
    }
    if rollback {
        session.post("/cluster/upgrade", &UpgradeAction::Finish).await?;
        return print::line("All nodes are back at the previous version.");
    }
    print::line(
        "All nodes run the new version. The feature level is as before, so they can go back: `pangolinctl upgrade \
         rollback`. When you are content: `pangolinctl upgrade finish`.",
    )
}

/// Opens an upgrade, or finds the one that is open. A new one begins with a backup.
async fn open(session: &Session, options: &Run, rollback: bool) -> Result<ClusterStatus, Failure> {
    let status = look(session).await?;
    match &status.upgrade {
        Some(open) if open.rollback == rollback => {
            print::remark("Going on with what was begun.");
            return Ok(status);
        }
        Some(_) if !rollback => {
            return Err(Failure::new("a rollback is under way")
                .hint("Bring it to its end first: `pangolinctl upgrade rollback`."));
        }
        _ => {}
    }
    if !rollback {
        let first = order::turns(&status).first().copied();
        if let Some(obstacle) = order::obstacles(&status, first).first() {
            return Err(Failure::new(format!("the cluster is not ready to be upgraded: {obstacle}"))
                .hint("`pangolinctl upgrade plan` shows what else is in the way."));
        }
        match options.without_backup {
            true => print::remark("Beginning without a backup, as asked for."),
            false => back_up(session).await?,
        }
    }
    let action = if rollback { UpgradeAction::Rollback } else { UpgradeAction::Start };
    session.post("/cluster/upgrade", &action).await?;
    look(session).await
}

/// Makes a backup of the state that the present version has written.
async fn back_up(session: &Session) -> Result<(), Failure> {
    let made = session.put_patiently("/node/backup", &serde_json::json!({}), BACKUP_PATIENCE).await;
    let answer = made.map_err(|failure| {
        Failure::new(format!("no backup could be made before the upgrade: {}", failure.message()))
            .hint("Nothing was begun. Remove the cause, or begin without one: --without-backup.")
    })?;
    let backup: Backup = session.parse(&answer)?;
    print::remark(&format!(
        "Made the backup {} (revision {}) before anything else.",
        backup.name, backup.revision
    ));
    Ok(())
}

async fn look(session: &Session) -> Result<ClusterStatus, Failure> {
    session.parse(&session.get("/cluster/status").await?)
}

struct Turns<'a> {
    session: &'a Session,
    options: &'a Run,
    rollback: bool,
}

impl Turns<'_> {
    async fn turn(&self, id: NodeId) -> Result<(), Failure> {
        let status = look(self.session).await?;
        let node = find(&status, id)?.clone();
        self.say(&node, "its turn begins");
        if let Some(obstacle) = order::obstacles(&status, Some(id)).first() {
            return Err(Failure::new(format!("node {} must not be taken out now: {obstacle}", node.name)));
        }
        if !order::has_spare(&status, id) && !self.options.without_spare {
            return Err(Failure::new(format!(
                "while node {} restarts the cluster would take no changes: {}; --without-spare accepts that",
                node.name, status.quorum.summary
            )));
        }
        self.session.post("/cluster/upgrade", &UpgradeAction::Begin { node_id: id }).await?;
        self.hand_over(id, &status).await?;
        self.drain(&node).await?;
        self.hook("--replace", &self.options.replace, &node).await?;
        if let Some(restart) = &self.options.restart {
            self.hook("--restart", restart, &node).await?;
        }
        self.back(&node).await?;
        self.restore(&node).await?;
        self.tunnels_back(&node, &status).await?;
        self.session.post("/cluster/upgrade", &UpgradeAction::Done { node_id: id }).await?;
        Ok(())
    }

    /// Leadership goes first: the others need not miss it.
    async fn hand_over(&self, id: NodeId, status: &ClusterStatus) -> Result<(), Failure> {
        let leads =
            |status: &ClusterStatus| status.leader.as_ref().is_some_and(|leader| leader.node_id == id);
        if !leads(status) || status.quorum.voters < 2 {
            return Ok(());
        }
        self.session.post("/cluster/leader/transfer", &TransferLeader { to: None }).await?;
        self.until(SETTLE, "another node leads", |status| {
            status.leader.as_ref().is_some_and(|leader| leader.node_id != id && leader.since.is_some())
        })
        .await?;
        Ok(())
    }

    /// Takes the node out of DNS and moves its sites, then lets clients follow.
    async fn drain(&self, node: &NodeStatus) -> Result<(), Failure> {
        let id = node.id;
        let drained = UpdateNode { admin: AdminState::Drained };
        self.session.post(&format!("/node/{id}"), &drained).await?;
        self.until(SETTLE, "its sites have moved", |status| {
            let others = status.nodes.iter().any(|other| {
                other.id != id && other.verdict == Verdict::Up && other.admin == AdminState::Active
            });
            !others || status.sites.iter().all(|site| site.home != Some(id))
        })
        .await?;
        let time = match self.options.drain_time {
            Some(time) => time,
            None => {
                let settings: Settings = self.session.parse(&self.session.get("/cluster/settings").await?)?;
                Duration::from_secs(u64::from(settings.ttl))
            }
        };
        self.say(node, &format!("drained; its clients get {} s to move away", time.as_secs_f32()));
        sleep(time).await;
        Ok(())
    }

    async fn hook(&self, option: &str, command: &str, node: &NodeStatus) -> Result<(), Failure> {
        self.say(node, &format!("running {option}"));
        let status = Command::new("sh")
            .arg("-c")
            .arg(command)
            .env("PANGOLIN_ACTION", if self.rollback { "rollback" } else { "upgrade" })
            .env("PANGOLIN_NODE", node.name.as_str())
            .env("PANGOLIN_NODE_ID", node.id.to_string())
            .env("PANGOLIN_NODE_ADDRESS", node.address.ip().to_string())
            .env("PANGOLIN_FROM_VERSION", &node.version)
            .stdin(Stdio::null())
            .status()
            .await
            .map_err(|error| {
                Failure::new(format!("{option} of node {} cannot be run: {error}", node.name))
            })?;
        if status.success() {
            return Ok(());
        }
        Err(Failure::new(format!(
            "{option} of node {} has failed ({status}); the node is drained",
            node.name
        )))
    }

    /// Waits until the node passes the health gate.
    async fn back(&self, before: &NodeStatus) -> Result<(), Failure> {
        let mut wrong = None;
        let mut waits = String::new();
        let patience = self.options.node_timeout;
        let looked = self
            .until(patience, "it runs the other version, has caught up and serves", |status| {
                let wanted = order::wanted(status, before.id);
                match order::gate(status, before, wanted.as_ref()) {
                    Gate::Open => return true,
                    Gate::Waiting(why) => waits = why,
                    Gate::Wrong(why) => wrong = Some(why),
                }
                wrong.is_some()
            })
            .await;
        let failed = |what: &str| Failure::new(format!("node {}: {what}; the node is drained", before.name));
        if let Some(wrong) = wrong {
            return Err(failed(&wrong));
        }
        let status = looked.map_err(|failure| match waits.as_str() {
            "" => failed(failure.message()),
            waits => failed(&format!("{}: {waits}", failure.message())),
        })?;
        let now = find(&status, before.id)?;
        self.say(now, &format!("back with version {}, feature level {}", now.version, now.feature_level));
        Ok(())
    }

    /// Lets sites come back that had a tunnel to the node, so that the next one does not take their last. Connectors come
    /// by themselves, and one that does not is no reason to stop.
    async fn tunnels_back(&self, node: &NodeStatus, before: &ClusterStatus) -> Result<(), Failure> {
        let mut missing = Vec::new();
        let looked = self
            .until(TUNNELS, "tunnels are back", |status| {
                missing = order::missing_tunnels(before, status, node.id);
                missing.is_empty()
            })
            .await;
        if looked.is_err() {
            let sites = if missing.is_empty() { "its sites".to_owned() } else { missing.join(", ") };
            self.say(node, &format!("going on, though {sites} had more tunnels before its turn"));
        }
        Ok(())
    }

    /// Back to what the operator wanted of the node before its turn.
    async fn restore(&self, node: &NodeStatus) -> Result<(), Failure> {
        let status = look(self.session).await?;
        let kept =
            status.upgrade.iter().flat_map(|upgrade| &upgrade.nodes).find(|kept| kept.node_id == node.id);
        let admin = kept.map_or(AdminState::Active, |kept| kept.admin);
        self.session.post(&format!("/node/{}", node.id), &UpdateNode { admin }).await?;
        Ok(())
    }

    /// Looks until a status is as wanted. The node that is asked may be the one that restarts.
    async fn until(
        &self,
        patience: Duration,
        what: &str,
        mut wanted: impl FnMut(&ClusterStatus) -> bool,
    ) -> Result<ClusterStatus, Failure> {
        let end = Instant::now() + patience;
        loop {
            let last = match look(self.session).await {
                Ok(status) if status.partial.is_none() && wanted(&status) => return Ok(status),
                Ok(status) => status.partial.unwrap_or_default(),
                Err(failure) => failure.message().to_owned(),
            };
            if Instant::now() >= end {
                let last = if last.is_empty() { last } else { format!(" ({last})") };
                return Err(Failure::new(format!("not within {} s: {what}{last}", patience.as_secs())));
            }
            sleep(LOOK_EVERY).await;
        }
    }

    fn say(&self, node: &NodeStatus, what: &str) {
        print::remark(&format!("{} (id {}): {what}", node.name, node.id));
    }
}

fn find(status: &ClusterStatus, id: NodeId) -> Result<&NodeStatus, Failure> {
    let node = status.nodes.iter().find(|node| node.id == id);
    node.ok_or_else(|| Failure::new(format!("node {id} is no longer in the cluster")))
}
