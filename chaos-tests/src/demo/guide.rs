//! What the demo shows when it is up: the table of nodes, and lines to paste.

use std::process::Command;

use anyhow::Result;

use super::{say, story::Story};
use crate::{cluster::Cluster, process};

/// The table of nodes, as `pangolinctl status` prints it.
pub(super) fn table(cluster: &Cluster) -> Result<()> {
    let mut command = Command::new(&cluster.programs.pangolinctl);
    command.arg("--socket").arg(cluster.any_node()?.socket()).arg("status");
    let output = process::run(command, "", crate::cluster::COMMAND_PATIENCE)?.ok("pangolinctl status")?;
    say(output.stdout.trim_end());
    Ok(())
}

pub(super) fn print(story: &Story) -> Result<()> {
    let Story { cluster, site, .. } = story;
    say("");
    table(cluster)?;
    let host = &site.host;
    let ca = cluster.ca_file();
    say("");
    say("The backend through each node:");
    for node in &cluster.nodes {
        let (ip, port) = (node.address, node.ports.https);
        say(&format!("  curl --cacert {} --resolve {host}:{port}:{ip} https://{host}:{port}/", ca.display()));
    }
    say("DNS from each node:");
    for node in &cluster.nodes {
        say(&format!("  dig @{} -p {} {host} +short", node.address, node.ports.dns));
    }
    say("The cluster, from any node:");
    for node in &cluster.nodes {
        let program = cluster.programs.pangolinctl.display();
        say(&format!("  {program} --socket {} status", node.socket().display()));
    }
    say("Take a node away (the others go on serving), and bring it back:");
    for node in &cluster.nodes {
        say(&format!("  type here: kill {name}    and then: start {name}", name = node.name));
    }
    say("Logs:");
    for node in &cluster.nodes {
        say(&format!("  {}", node.log().display()));
    }
    say(&format!("  {}", site.connector_log().display()));
    say("");
    say("Ctrl-C ends the demo and leaves nothing behind.");
    Ok(())
}
