//! `pangolinctl upgrade`: another version on every node, one node after the other, without an interruption.

mod order;
mod run;

use std::time::Duration;

use clap::{Args, Subcommand};
use pangolin_core::{NodeId, record::Verdict};
use pangolin_wire::{ClusterStatus, RaftPart, UpgradeAction};

use crate::{
    args::duration,
    failure::Failure,
    print::{self, cell, or_dash, state},
    session::Session,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Show versions and feature levels, what `run` would do now, and what stands in its way
    Plan,
    /// Bring every node to the new version: followers first, the leader last; goes on where an earlier run stopped
    Run(Run),
    /// Bring the nodes that were upgraded back to the previous version; possible until `finish`
    Rollback(Run),
    /// End the upgrade: raise the feature level to what all nodes understand. There is no way back then
    Finish,
}

/// How nodes are upgraded.
#[derive(Debug, Args)]
#[command(after_help = HOOKS)]
pub(crate) struct Run {
    /// Command that replaces the program of one node; run here by `sh -c`, once for each node
    #[arg(long, value_name = "COMMAND", env = "PANGOLIN_UPGRADE_REPLACE")]
    pub(crate) replace: String,
    /// Command that restarts the node, run after --replace; without it, --replace restarts the node itself
    #[arg(long, value_name = "COMMAND", env = "PANGOLIN_UPGRADE_RESTART")]
    pub(crate) restart: Option<String>,
    /// How long clients get to move away from a drained node [default: the TTL of the cluster's DNS answers]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) drain_time: Option<Duration>,
    /// How long a node may take to be back, caught up and serving
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = duration)]
    pub(crate) node_timeout: Duration,
    /// Begin without making a backup first, where none can be made
    #[arg(long)]
    pub(crate) without_backup: bool,
    /// Go on though the cluster cannot lose a node now: it will not take changes while one restarts
    #[arg(long)]
    pub(crate) without_spare: bool,
}

const HOOKS: &str = "\
The commands find in their environment:
  PANGOLIN_ACTION        upgrade or rollback
  PANGOLIN_NODE          short name of the node
  PANGOLIN_NODE_ID       its id
  PANGOLIN_NODE_ADDRESS  the address where its peers reach it, without port
  PANGOLIN_FROM_VERSION  the version it runs now
They must be repeatable: after an interruption, a node's turn begins again. Example:
  --replace 'ssh root@$PANGOLIN_NODE_ADDRESS apt-get install -y pangolin-cluster=1.3.0' \\
  --restart 'ssh root@$PANGOLIN_NODE_ADDRESS systemctl restart pangolin'";

pub(crate) async fn run(session: &Session, verb: Verb) -> Result<(), Failure> {
    match verb {
        Verb::Plan => plan(session).await,
        Verb::Run(options) => run::run(session, &options, false).await,
        Verb::Rollback(options) => run::run(session, &options, true).await,
        Verb::Finish => session.done(&session.post("/cluster/upgrade", &UpgradeAction::Finish).await?),
    }
}

async fn plan(session: &Session) -> Result<(), Failure> {
    let answer = session.get("/cluster/status").await?;
    session.show(&answer, |status: ClusterStatus| describe(&status))
}

fn describe(status: &ClusterStatus) -> String {
    let step = |id: NodeId| {
        let upgrade = status.upgrade.as_ref()?;
        let node = upgrade.nodes.iter().find(|node| node.node_id == id)?;
        Some(print::word(node.step))
    };
    let rows = status.nodes.iter().map(|node| {
        [
            cell(node.id),
            cell(&node.name),
            state(print::word(node.verdict), node.verdict == Verdict::Up),
            state(node.raft.as_str(), node.raft != RaftPart::None),
            cell(&node.version),
            cell(node.feature_level),
            cell(or_dash(node.lag)),
            cell(or_dash(step(node.id))),
        ]
    });
    let headings = ["ID", "NODE", "STATE", "RAFT", "VERSION", "LEVEL", "LAG", "UPGRADE"];
    let mut text = print::table(headings, rows);
    text.push_str("\n\n");
    text.push_str(&levels(status));
    match &status.upgrade {
        None => text.push_str("\nNo upgrade is open: `run` begins one."),
        Some(upgrade) => {
            let what = if upgrade.rollback { "A rollback" } else { "An upgrade" };
            text.push_str(&format!(
                "\n{what} is open since {} ({}).",
                print::moment(upgrade.started_at),
                upgrade.cause
            ));
        }
    }
    let waiting = order::turns(status);
    let names: Vec<String> = waiting.iter().map(|id| order::name(status, *id)).collect();
    if names.is_empty() {
        text.push_str("\nNo node is waiting: `pangolinctl upgrade finish` ends the upgrade.");
    } else {
        text.push_str(&format!(
            "\nNext, one after the other: {}. Each is drained, its program replaced, restarted, and back in service \
             before the next one begins.",
            names.join(", ")
        ));
    }
    for problem in order::obstacles(status, waiting.first().copied()) {
        text.push_str(&format!("\nIn the way: {problem}"));
    }
    text
}

fn levels(status: &ClusterStatus) -> String {
    let (level, common) = (status.feature_level, status.common_level);
    if common > level {
        return format!(
            "Feature level {level}; every node understands {common}. `pangolinctl upgrade finish` raises it; until \
             then the previous version can come back. Without an open upgrade it is raised after 24 hours."
        );
    }
    format!("Feature level {level}, which is all that every node understands.")
}
