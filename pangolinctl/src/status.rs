//! `pangolinctl status`.

use std::{collections::BTreeMap, time::Duration};

use clap::Args;
use pangolin_core::{
    NodeId, Slug,
    record::{AdminState, NodeRole, Verdict},
};
use pangolin_wire::{ClusterStatus, Issuer, NodeStatus, RaftPart, SiteStatus};

use crate::{
    failure::Failure,
    print::{self, cell, list, or_dash, state},
    session::Session,
};

/// Pause between two looks with `--watch`.
const WATCH_PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(crate) struct Status {
    /// The same as --output json
    #[arg(long)]
    json: bool,
    /// Look again every second until interrupted
    #[arg(long, short)]
    watch: bool,
}

pub(crate) async fn run(session: &Session, args: &Status) -> Result<(), Failure> {
    if !args.watch {
        return print::line(&look(session, args).await?);
    }
    let mut last = String::new();
    loop {
        let text = match look(session, args).await {
            Ok(text) => text,
            Err(failure) if print::on_terminal() => format!("{}\nTrying again …", failure.message()),
            Err(failure) => {
                print::remark(failure.message());
                last.clone()
            }
        };
        if print::on_terminal() {
            // Home, draw over, clear the rest: no flicker.
            print::line(&format!("\x1b[H\x1b[2J{text}"))?;
        } else if text != last {
            print::line(&text)?;
        }
        last = text;
        tokio::time::sleep(WATCH_PAUSE).await;
    }
}

/// The certificate of the internal issuer, for browsers, curl and connectors.
pub(crate) async fn issuer(session: &Session) -> Result<(), Failure> {
    let answer = session.get("/cluster/issuer").await?;
    session.show(&answer, |issuer: Issuer| issuer.pem.trim_end().to_owned())
}

async fn look(session: &Session, args: &Status) -> Result<String, Failure> {
    let answer = session.get("/cluster/status").await?;
    if session.is_json() || args.json {
        let pretty = !args.watch;
        return Ok(if pretty { format!("{:#}", answer.data) } else { answer.data.to_string() });
    }
    Ok(human(&session.parse(&answer)?))
}

fn human(status: &ClusterStatus) -> String {
    let names: BTreeMap<NodeId, &Slug> = status.nodes.iter().map(|node| (node.id, &node.name)).collect();
    let name = |id: &NodeId| names.get(id).map_or_else(|| id.to_string(), ToString::to_string);
    let leader = status.leader.as_ref().map_or_else(
        || "none: the nodes are electing, or there is no quorum".to_owned(),
        |leader| {
            let since =
                leader.since.map(|since| format!(", since {}", print::moment(since))).unwrap_or_default();
            format!("{} (node {}), term {}{since}", name(&leader.node_id), leader.node_id, leader.term)
        },
    );
    let mut text = print::pairs([
        ("cluster", format!("{} ({})", status.name, status.cluster_id)),
        ("zone", format!("{}, control host {}", status.zone, status.control_host)),
        ("leader", leader),
        ("quorum", status.quorum.summary.clone()),
        ("revision", status.revision.to_string()),
        ("level", level(status)),
    ]);
    if let Some(reason) = &status.partial {
        text = format!("This is one node's view only: {reason}\n\n{text}");
    }
    for remark in &status.remarks {
        text.push_str(&format!("\n- {remark}"));
    }
    text.push_str("\n\n");
    text.push_str(&nodes(&status.nodes, &name));
    if !status.sites.is_empty() {
        text.push_str("\n\n");
        text.push_str(&sites(&status.sites, &name));
    }
    text
}

fn level(status: &ClusterStatus) -> String {
    let level = status.feature_level;
    match &status.upgrade {
        Some(upgrade) if upgrade.rollback => format!("{level}; a rollback is open (`upgrade plan`)"),
        Some(_) => format!("{level}; an upgrade is open (`upgrade plan`)"),
        None if status.common_level > level => {
            format!("{level}; every node understands {} (`upgrade plan`)", status.common_level)
        }
        None => level.to_string(),
    }
}

fn nodes(nodes: &[NodeStatus], name: &dyn Fn(&NodeId) -> String) -> String {
    let headings = ["ID", "NODE", "STATE", "RAFT", "ADDRESS", "VERSION", "APPLIED", "LAG", "SEEN BY"];
    let rows = nodes.iter().map(|node| {
        let good = node.verdict == Verdict::Up && node.admin == AdminState::Active;
        let mut word = print::word(node.verdict);
        match node.admin {
            AdminState::Active => {}
            AdminState::Drained => word.push_str(", drained"),
            AdminState::Leaving => word.push_str(", leaving"),
        }
        let raft = match node.role {
            NodeRole::Data => node.raft.as_str().to_owned(),
            NodeRole::Witness => format!("{} (witness)", node.raft.as_str()),
        };
        [
            cell(node.id),
            cell(&node.name),
            state(word, good),
            if node.raft == RaftPart::Leader { state(raft, true) } else { cell(raft) },
            cell(node.address),
            cell(&node.version),
            cell(or_dash(node.applied)),
            cell(or_dash(node.lag)),
            cell(list(&node.seen_by.iter().map(name).collect::<Vec<_>>())),
        ]
    });
    print::table(headings, rows)
}

fn sites(sites: &[SiteStatus], name: &dyn Fn(&NodeId) -> String) -> String {
    let rows = sites.iter().map(|site| {
        let names = |ids: &[NodeId]| list(&ids.iter().map(name).collect::<Vec<_>>());
        [
            cell(site.site_id),
            cell(format!("{}/{}", site.org_id, site.nice_id)),
            match (site.local, site.tunnels.is_empty()) {
                (true, _) => state("local", true),
                (false, true) => state("offline", false),
                (false, false) => state("online", true),
            },
            cell(or_dash(site.home.as_ref().map(name))),
            cell(names(&site.standbys)),
            cell(names(&site.tunnels)),
            cell(or_dash(site.socket.as_ref().map(name))),
        ]
    });
    print::table(["ID", "SITE", "STATE", "HOME", "STANDBYS", "TUNNELS", "SOCKET"], rows)
}
