//! `pangolin-chaos run`: a cluster of real processes on hosts of their own, work on it, faults, and a verdict.

mod figures;
mod profile;
mod report;
mod schedule;
mod timeline;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

pub use figures::{Figures, quantile};
pub use profile::Profile;

use crate::{
    chance::Chance,
    faults,
    history::{FORMAT, Header, History, What},
    leftovers,
    load::{self, clients::Client},
    testbed::{
        bed::{Bed, BedOptions, keys},
        network,
        recorder::Recorder,
    },
    verdict::{Judgement, Verdict, judge},
};

/// Time without faults at the beginning: what is broken from the start is not blamed on a fault.
const LEAD_IN: Duration = Duration::from_secs(5);
/// Time under load after everything is whole again.
const LEAD_OUT: Duration = Duration::from_secs(4);
/// How long the cluster may take to become whole when all faults have ended, on a machine that is busy.
const HEAL_PATIENCE: Duration = Duration::from_secs(90);
/// How long the last writes and reads may take, all keys together.
const LAST_PATIENCE: Duration = Duration::from_secs(60);
/// The client that writes and reads each key once at the end.
const LAST_CLIENT: u64 = 1000;
/// What this harness puts to the test, whichever faults there are.
const EXPECTS: [&str; 15] = [
    "linearizable",
    "acknowledged-write-survives",
    "one-leader",
    "state-hash",
    "sessions",
    "epoch-grows",
    "one-home",
    "dns-fresh",
    "dns-serves",
    "dns-agrees",
    "serves-again",
    "serves-through",
    "in-order",
    "bounded-use",
    "coverage",
];

/// What a run is told.
#[derive(Clone, Debug, clap::Args)]
pub struct RunOptions {
    /// How long, how many nodes, how much at once
    #[arg(long, value_enum, default_value_t = Profile::Smoke)]
    pub profile: Profile,
    /// What faults and load are drawn from [default: by lot]
    #[arg(long)]
    pub seed: Option<u64>,
    /// Folder for history.jsonl, timeline.svg, report.md and the nodes' logs
    #[arg(long, value_name = "DIR", default_value = "chaos-report")]
    pub out: PathBuf,
    /// Nodes of the cluster: 3 or 5 [default: what the profile says]
    #[arg(long, value_parser = clap::value_parser!(u8).range(3..=7))]
    pub nodes: Option<u8>,
    /// Only these faults, separated by commas
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub faults: Vec<String>,
    /// How many minutes faults come and go [default: what the profile says]
    #[arg(long)]
    pub minutes: Option<u64>,
    /// What the nodes log (tracing filter syntax) [default: what matters to an operator]
    #[arg(long)]
    pub log: Option<String>,
    /// Show the faults there are, and end
    #[arg(long)]
    pub list: bool,
    /// Say whether a run is possible here, and end: exit code 0 or 2
    #[arg(long)]
    pub possible: bool,
}

/// Runs, and says what it has shown.
///
/// # Errors
/// The run cannot begin, or its report not be written.
pub async fn run(options: &RunOptions) -> Result<Verdict> {
    if options.list {
        for kind in faults::ALL {
            say(&format!("{:<28}{}", kind.name, kind.says));
        }
        return Ok(Verdict::True);
    }
    let kinds = faults::named(&options.faults)?;
    if let Some(reason) = network::missing() {
        say(&format!("skipped: {reason}"));
        if !options.possible {
            say(&json!({ "verdict": Verdict::Unknown, "skipped": reason }).to_string());
        }
        return Ok(Verdict::Unknown);
    }
    if options.possible {
        return Ok(Verdict::True);
    }
    for removed in leftovers::clean()?.folders {
        say(&format!("removed what an earlier run has left in {}", removed.display()));
    }
    std::fs::create_dir_all(&options.out).with_context(|| format!("making {}", options.out.display()))?;
    let seed = options.seed.unwrap_or_else(lot);
    let recorder = Recorder::new(header(options, seed, &kinds));
    let began = Instant::now();
    let mut problems = Vec::new();
    match attempt(options, seed, &kinds, &recorder, &mut problems).await {
        Ok(true) => {}
        Ok(false) => problems.push("the run was interrupted".to_owned()),
        Err(error) => problems.push(format!("the run could not go on: {error:#}")),
    }
    conclude(options, &recorder.so_far(), &problems, began.elapsed())
}

/// Everything that needs the bed; it is gone afterwards. False if the run was interrupted.
async fn attempt(
    options: &RunOptions,
    seed: u64,
    kinds: &[&'static faults::Kind],
    recorder: &Recorder,
    problems: &mut Vec<String>,
) -> Result<bool> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::select! {
        done = tell(options, seed, kinds, recorder, problems) => done.map(|()| true),
        _ = interrupt.recv() => Ok(false),
        _ = terminate.recv() => Ok(false),
        _ = hangup.recv() => Ok(false),
    }
}

async fn tell(
    options: &RunOptions,
    seed: u64,
    kinds: &[&'static faults::Kind],
    recorder: &Recorder,
    problems: &mut Vec<String>,
) -> Result<()> {
    let shape = options.profile.shape();
    let nodes = options.nodes.map_or(shape.nodes, usize::from);
    say(&format!("seed {seed}: building a cluster of {nodes} nodes, each in a network of its own"));
    let bed_options =
        BedOptions { nodes, spares: 1, small_disks: true, keys: shape.load.keys, log: options.log.clone() };
    let mut bed = Bed::build(&bed_options, recorder.clone()).await.context("building the test bed")?;
    say(&format!("built after {:.1} s", recorder.began().elapsed().as_secs_f64()));
    let watch = load::watch::start(&bed)?;
    let outside = load::outside::start(&bed)?;
    let clients = load::clients::start(&bed, &load::clients::Load { seed, ..shape.load.clone() })?;
    tokio::time::sleep(LEAD_IN).await;

    let minutes = options.minutes.map(|minutes| Duration::from_secs(minutes * 60));
    let plan = schedule::Plan { kinds, shape: &shape, lasts: minutes.unwrap_or(shape.lasts) };
    schedule::play(&plan, &mut Chance::new(seed), &mut bed, problems).await;

    recorder.push(What::Healed);
    say("all faults have ended: the cluster has to serve again");
    if let Err(error) = bed.healthy(HEAL_PATIENCE).await {
        problems.push(format!("the cluster did not become whole again: {error:#}"));
    }
    tokio::time::sleep(LEAD_OUT).await;
    clients.stop()?;
    last_words(&bed, &shape.load).await?;
    outside.stop()?;
    watch.stop()?;
    note_panics(&bed);
    keep_logs(&bed, &options.out)
}

/// One write and one read of every key, each through another node, and each until it succeeds.
async fn last_words(bed: &Bed, load: &load::clients::Load) -> Result<()> {
    let endpoint = load::clients::endpoint(bed);
    let (recorder, roster, load) = (bed.recorder.clone(), bed.roster.clone(), load.clone());
    let network = bed.network(crate::testbed::bed::CLIENTS_HOST)?;
    let work = load::Worker::start("last words", Some(&network), move |_| async move {
        let until = Instant::now() + LAST_PATIENCE;
        let mut client = Client::new(LAST_CLIENT, &load, endpoint, recorder, roster);
        for key in keys(load.keys) {
            while client.write(&key).await.is_none() && Instant::now() < until {
                client.wander();
            }
            client.wander();
            while !client.read(&key, false).await && Instant::now() < until {
                client.wander();
            }
        }
    })?;
    // Stopping it would not cut it short: it does not look.
    tokio::task::spawn_blocking(move || work.stop()).await?
}

/// Looks for panics in all that the nodes have said.
fn note_panics(bed: &Bed) {
    for (position, id, _) in bed.roster.members() {
        let log = std::fs::read(bed.cluster.nodes[position].log()).unwrap_or_default();
        for line in String::from_utf8_lossy(&log).lines().filter(|line| line.contains("panicked at")) {
            bed.recorder.push(What::Wrong { node: id, text: line.to_owned() });
        }
    }
}

/// Copies what nodes and connector have said to where the report is.
fn keep_logs(bed: &Bed, out: &Path) -> Result<()> {
    let folder = out.join("logs");
    std::fs::create_dir_all(&folder)?;
    for node in &bed.cluster.nodes {
        if node.log().is_file() {
            std::fs::copy(node.log(), folder.join(format!("{}.log", node.name)))?;
        }
    }
    std::fs::copy(bed.site.connector_log(), folder.join("connector.log"))?;
    Ok(())
}

fn header(options: &RunOptions, seed: u64, kinds: &[&'static faults::Kind]) -> Header {
    let mut expects: BTreeSet<String> = EXPECTS.map(str::to_owned).into();
    let faults: BTreeSet<String> = kinds.iter().map(|kind| kind.name.to_owned()).collect();
    if faults.iter().any(|fault| matches!(fault.as_str(), "kill-leader" | "kill-random")) {
        expects.insert("dead-node-gone".to_owned());
    }
    Header {
        format: FORMAT,
        kind: "netns".to_owned(),
        seed,
        command: command(options, seed),
        expects,
        // Fewer faults take less time.
        load: (options.profile.shape().answered * kinds.len()).div_ceil(faults::ALL.len()),
        faults,
    }
}

/// The command that repeats the run: the same faults on the same kind of nodes in the same order. Real processes do
/// not repeat themselves to the microsecond.
fn command(options: &RunOptions, seed: u64) -> String {
    let mut text = format!("pangolin-chaos run --profile {} --seed {seed}", options.profile.name());
    if let Some(nodes) = options.nodes {
        text += &format!(" --nodes {nodes}");
    }
    if let Some(minutes) = options.minutes {
        text += &format!(" --minutes {minutes}");
    }
    if !options.faults.is_empty() {
        text += &format!(" --faults {}", options.faults.join(","));
    }
    text
}

/// A seed that nobody has chosen; short enough to be typed.
fn lot() -> u64 {
    Chance::new(uuid::Uuid::new_v4().as_u64_pair().0).number() % 1_000_000
}

fn conclude(options: &RunOptions, history: &History, problems: &[String], took: Duration) -> Result<Verdict> {
    let mut judgement = judge(history);
    // A run that did not come to its end has not shown that all is well, only what is not.
    if !problems.is_empty() {
        judgement.verdict = judgement.verdict.max(Verdict::Unknown);
    }
    let figures = Figures::of(history);
    let write = |name: &str, text: &str| {
        let path = options.out.join(name);
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    };
    history.save(&options.out.join("history.jsonl")).context("writing the history")?;
    write("timeline.svg", &timeline::draw(history))?;
    write("report.md", &report::write(options.profile, history, &judgement, &figures, problems, took))?;
    for problem in problems {
        say(&format!("problem: {problem}"));
    }
    say(&judgement.to_string());
    say(&format!("report: {}", options.out.join("report.md").display()));
    say(&last_line(options, history, &judgement, &figures, problems, took).to_string());
    Ok(judgement.verdict)
}

fn last_line(
    options: &RunOptions,
    history: &History,
    judgement: &Judgement,
    figures: &Figures,
    problems: &[String],
    took: Duration,
) -> serde_json::Value {
    let not_true: Vec<&str> = judgement
        .findings
        .iter()
        .filter(|(_, finding)| finding.verdict != Verdict::True)
        .map(|(name, _)| name.as_str())
        .collect();
    json!({
        "verdict": judgement.verdict,
        "profile": options.profile.name(),
        "seed": history.header.seed,
        "seconds": took.as_secs(),
        "notTrue": not_true,
        "problems": problems,
        "figures": figures,
        "repeat": history.header.command,
        "out": options.out,
    })
}

#[expect(clippy::print_stdout, reason = "the run speaks to a person")]
fn say(line: &str) {
    println!("{line}");
}
