//! Looks at the cluster with programs that are not ours: curl and dig. Where one is missing, with the built-in
//! clients, and says so.

use std::{process::Command, time::Duration};

use anyhow::{Context, Result, ensure};

use super::{say, story::Story};
use crate::{
    cluster::{COMMAND_PATIENCE, Node},
    dns::{self, Kind},
    process,
};

/// Asks every node for the page and for its address.
pub(super) async fn look(story: &Story) -> Result<()> {
    let (with_curl, with_dig) = (exists("curl"), exists("dig"));
    for (program, there) in [("curl", with_curl), ("dig", with_dig)] {
        if !there {
            say(&format!("note: {program} is not installed; the built-in client asks instead"));
        }
    }
    for node in &story.cluster.nodes {
        let page = if with_curl { curl(story, node)? } else { built_in(story, node).await? };
        ensure!(page.contains("hello from"), "{} answered {page:?}", node.name);
        let addresses = if with_dig { dig(story, node)? } else { built_in_dns(story, node).await? };
        for other in &story.cluster.nodes {
            let address = other.address.to_string();
            ensure!(
                addresses.contains(&address),
                "DNS of {} does not name {address}: {addresses:?}",
                node.name
            );
        }
        say(&format!("{}: page and DNS as they should be", node.name));
    }
    Ok(())
}

fn exists(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).any(|path| path.join(program).is_file())
}

fn curl(story: &Story, node: &Node) -> Result<String> {
    let host = &story.site.host;
    let port = node.ports.https;
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--fail", "--max-time", "5", "--noproxy", "*", "--cacert"]);
    command.arg(story.cluster.ca_file());
    command.args(["--resolve", &format!("{host}:{port}:{}", node.address)]);
    command.arg(format!("https://{host}:{port}/"));
    Ok(process::run(command, "", COMMAND_PATIENCE)?.ok("curl")?.stdout)
}

fn dig(story: &Story, node: &Node) -> Result<Vec<String>> {
    let mut command = Command::new("dig");
    command.args([&format!("@{}", node.address), "-p", &node.ports.dns.to_string()]);
    command.args([&story.site.host, "A", "+short", "+norecurse", "+time=2", "+tries=2"]);
    let output = process::run(command, "", COMMAND_PATIENCE)?.ok("dig")?;
    Ok(output.stdout.lines().map(|line| line.trim().to_owned()).collect())
}

async fn built_in(story: &Story, node: &Node) -> Result<String> {
    let patience = Duration::from_secs(5);
    let response = story.https.get(node.https(), &story.site.host, "/", patience).await;
    Ok(response.with_context(|| format!("asking {}", node.name))?.text())
}

async fn built_in_dns(story: &Story, node: &Node) -> Result<Vec<String>> {
    let answer = dns::ask(node.dns(), &story.site.host, Kind::A).await?;
    Ok(answer.addresses.iter().map(ToString::to_string).collect())
}
