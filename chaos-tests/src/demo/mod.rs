//! The demo: three nodes, a site with a sample backend, and lines to paste. With `--check`, the same without a
//! person: nodes are killed while a prober asks, and the figures are printed.

mod check;
mod guide;
mod outside;
mod story;

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    signal::unix::{SignalKind, signal},
};

use crate::cluster::Cluster;
use story::Story;

/// How often the demo looks whether a process has ended.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What the demo is told.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct DemoOptions {
    /// Run the story without a person: kill nodes, print one JSON line with the figures
    #[arg(long)]
    pub check: bool,
    /// First of five ports in a row, the same on every node's address [default: 8443, 8080, 5353, 7420 and 51820;
    /// free ones when they are taken, and with --check]
    #[arg(long)]
    pub base_port: Option<u16>,
    /// What the nodes log (tracing filter syntax) [default: what matters to an operator]
    #[arg(long)]
    pub log: Option<String>,
}

/// Runs the demo to its end, which is Ctrl-C or, with `--check`, the verdict. True if all went well.
///
/// # Errors
/// The story does not come to its end.
pub async fn run(options: &DemoOptions) -> Result<bool> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    // Whatever ends first: what was started is dropped here, and with it every process and file.
    tokio::select! {
        done = tell(options) => done,
        _ = interrupt.recv() => Ok(stopped(options)),
        _ = terminate.recv() => Ok(stopped(options)),
        _ = hangup.recv() => Ok(stopped(options)),
    }
}

/// A demo that is stopped has done its work; a check has not.
fn stopped(options: &DemoOptions) -> bool {
    say("");
    say("stopping: every process ends and every file of the demo is removed");
    !options.check
}

async fn tell(options: &DemoOptions) -> Result<bool> {
    let mut story = Story::tell(options).await?;
    if options.check {
        return check::run(&mut story).await;
    }
    guide::print(&story)?;
    attend(&mut story.cluster).await?;
    Ok(true)
}

/// Does what is typed, and says when a node has ended, until standard input or the demo ends.
async fn attend(cluster: &mut Cluster) -> Result<()> {
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut listening = true;
    let mut look = tokio::time::interval(LOOK_EVERY);
    loop {
        tokio::select! {
            _ = look.tick() => note_ended(cluster),
            line = lines.next_line(), if listening => match line.context("reading what was typed")? {
                Some(line) => {
                    if obey(cluster, line.trim()).await {
                        return Ok(());
                    }
                }
                // Nobody types: the demo goes on until it is told to stop.
                None => listening = false,
            },
        }
    }
}

fn note_ended(cluster: &mut Cluster) {
    for node in &mut cluster.nodes {
        let ended = node.process().and_then(crate::process::Process::exit_status);
        if let Some(status) = ended {
            node.kill();
            say(&format!(
                "node {} has ended ({status}); type `start {}` to start it again",
                node.name, node.name
            ));
        }
    }
}

/// True if it is told to quit.
async fn obey(cluster: &mut Cluster, line: &str) -> bool {
    let (verb, name) = line.split_once(' ').unwrap_or((line, ""));
    let node = cluster.nodes.iter_mut().find(|node| node.name == name.trim());
    match (verb, node) {
        ("quit" | "exit", _) => return true,
        ("", _) => {}
        ("status", _) => {
            if let Err(error) = guide::table(cluster) {
                say(&format!("{error:#}"));
            }
        }
        ("kill", Some(node)) => {
            node.kill();
            say(&format!(
                "node {} is killed (SIGKILL); type `start {}` to start it again",
                node.name, node.name
            ));
        }
        ("start", Some(node)) if !node.runs() => match node.start_ready().await {
            Ok(()) => say(&format!("node {} is back", node.name)),
            Err(error) => say(&format!("{error:#}")),
        },
        ("start", Some(node)) => say(&format!("node {} runs", node.name)),
        _ => say("type: status, kill n1, start n1, quit"),
    }
    false
}

#[expect(clippy::print_stdout, reason = "the demo speaks to a person")]
fn say(line: &str) {
    println!("{line}");
}
