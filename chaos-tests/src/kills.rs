//! `pangolin-chaos kills`: the leader is killed again and again while clients write, and nothing that was acknowledged
//! may be missing afterwards. Needs no root: the nodes are on loopback addresses of this host.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use http::Method;
use pangolin_core::NodeId;
use pangolin_wire::{Client, Health, OrgList, PAGE_MAX};
use serde::Serialize;
use serde_json::json;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::RwLock,
    task::JoinSet,
    time::{sleep, timeout},
};
use uuid::Uuid;

use crate::{
    cluster::{Backend, Cluster, Options, Timing},
    ports::{Ports, own_addresses},
    run::quantile,
    verdict::Verdict,
};

/// How often one looks whether something has happened.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// How long an attempt at a write may take.
const ATTEMPT_PATIENCE: Duration = Duration::from_secs(4);
/// How long the cluster may take to write again, and to become whole again, on a machine that is busy with other things
/// as well.
const PATIENCE: Duration = Duration::from_secs(180);
/// Once this harness itself has come to run so much too late, the machine was busy with something else: how long things
/// took meanwhile says nothing of the cluster, and is left out of the figures.
const LATE: Duration = Duration::from_millis(500);
/// Kills after which everything acknowledged is looked for on every node.
const ROUND: usize = 25;
/// A node that is behind by more than this many entries has not caught up.
const LAG_MAX: u64 = 200;
/// Work between two kills, about.
const BETWEEN: Duration = Duration::from_millis(300);
/// Pause of a client between two writes: nothing is removed, and the state shall stay small enough to be looked through.
const PAUSE: Duration = Duration::from_millis(200);

/// What is to be done.
#[derive(Clone, Debug, clap::Args)]
pub struct KillOptions {
    /// How often the leader is killed
    #[arg(long, default_value_t = 1000)]
    pub count: usize,
    /// Stop killing after so many minutes, however often that was
    #[arg(long)]
    pub minutes: Option<u64>,
    /// Nodes of the cluster
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(3..=7))]
    pub nodes: u8,
    /// Clients that write all the while
    #[arg(long, default_value_t = 6)]
    pub clients: usize,
    /// File for the result, besides the last line of standard output
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// What has come of it.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Figures {
    verdict: Option<Verdict>,
    kills: usize,
    asked: usize,
    nodes: u8,
    acknowledged: usize,
    unknown: u64,
    lost: usize,
    first_lost: Option<String>,
    to_next_write_p50_ms: u64,
    to_next_write_p99_ms: u64,
    to_next_write_max_ms: u64,
    to_whole_p50_ms: u64,
    to_whole_p99_ms: u64,
    to_whole_max_ms: u64,
    /// Times that are not in the figures, because the harness was late itself.
    disturbed: usize,
    seconds: u64,
    problem: Option<String>,
}

/// How long things took, kill by kill, in milliseconds.
#[derive(Debug, Default)]
struct Times {
    /// From a kill until another node had acknowledged a write that was asked for afterwards.
    to_next_write: Vec<u64>,
    /// From the start of the killed node until it had caught up.
    to_whole: Vec<u64>,
    /// Times that say nothing, because the harness itself came to run too late.
    disturbed: usize,
}

impl Times {
    fn note(&mut self, which: fn(&mut Self) -> &mut Vec<u64>, watch: &Watch) {
        if watch.late >= LATE {
            self.disturbed += 1;
        } else {
            which(self).push(millis(watch.began.elapsed()));
        }
    }
}

/// Measures a time, and how late the one who measures comes to run.
#[derive(Debug)]
struct Watch {
    began: Instant,
    late: Duration,
}

impl Watch {
    fn start() -> Self {
        Self { began: Instant::now(), late: Duration::ZERO }
    }

    async fn pause(&mut self) {
        let before = Instant::now();
        sleep(LOOK_EVERY).await;
        self.late = self.late.max(before.elapsed().saturating_sub(LOOK_EVERY));
    }
}

/// What the clients share.
#[derive(Debug, Default)]
struct Ledger {
    acknowledged: Mutex<BTreeSet<String>>,
    unknown: AtomicU64,
    /// Held by whoever writes; by the one who looks, while nobody does.
    gate: RwLock<()>,
}

/// Kills and looks. The last line of standard output is one JSON object.
///
/// # Errors
/// The cluster does not come up, or the result cannot be written.
pub async fn run(options: &KillOptions) -> Result<Verdict> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut figures = Figures { asked: options.count, nodes: options.nodes, ..Figures::default() };
    let began = Instant::now();
    let mut times = Times::default();
    let done = tokio::select! {
        done = work(options, &mut figures, &mut times) => done,
        _ = interrupt.recv() => Err(anyhow::anyhow!("interrupted")),
        _ = terminate.recv() => Err(anyhow::anyhow!("interrupted")),
    };
    figures.problem = done.err().map(|error| format!("{error:#}"));
    figures.seconds = began.elapsed().as_secs();
    let Times { mut to_next_write, mut to_whole, disturbed } = times;
    to_next_write.sort_unstable();
    to_whole.sort_unstable();
    figures.to_next_write_p50_ms = quantile(&to_next_write, 50);
    figures.to_next_write_p99_ms = quantile(&to_next_write, 99);
    figures.to_next_write_max_ms = quantile(&to_next_write, 100);
    figures.disturbed = disturbed;
    figures.to_whole_p50_ms = quantile(&to_whole, 50);
    figures.to_whole_p99_ms = quantile(&to_whole, 99);
    figures.to_whole_max_ms = quantile(&to_whole, 100);
    let verdict = match &figures {
        Figures { lost: 1.., .. } => Verdict::False,
        Figures { problem: Some(_), .. } => Verdict::Unknown,
        Figures { kills, asked, .. } if kills < asked && options.minutes.is_none() => Verdict::Unknown,
        Figures { kills: 0, .. } | Figures { acknowledged: 0, .. } => Verdict::Unknown,
        _ => Verdict::True,
    };
    figures.verdict = Some(verdict);
    let line = serde_json::to_string(&figures)?;
    if let Some(path) = &options.out {
        std::fs::write(path, format!("{line}\n")).with_context(|| format!("writing {}", path.display()))?;
    }
    say(&line);
    Ok(verdict)
}

async fn work(options: &KillOptions, figures: &mut Figures, times: &mut Times) -> Result<()> {
    let addresses = own_addresses(options.nodes);
    let ports = Ports::free(&addresses)?;
    let mut cluster = Cluster::start(Options {
        addresses,
        ports,
        zone: "demo.test".to_owned(),
        backend: Backend::InProcess,
        log: None,
        timing: Timing::default(),
    })
    .await?;
    let ledger = Arc::<Ledger>::default();
    let mut clients = JoinSet::new();
    for number in 0..options.clients {
        let sockets: Vec<PathBuf> = cluster.nodes.iter().map(crate::cluster::Node::socket).collect();
        clients.spawn(write_on(number, sockets, Arc::clone(&ledger)));
    }
    let until = options.minutes.map(|minutes| Instant::now() + Duration::from_secs(minutes * 60));
    while figures.kills < options.count && until.is_none_or(|until| Instant::now() < until) {
        sleep(BETWEEN).await;
        kill_leader(&mut cluster, &ledger, times).await?;
        figures.kills += 1;
        if figures.kills.is_multiple_of(ROUND) {
            audit(&cluster, &ledger, figures).await?;
            let last = |times: &[u64]| times.last().copied().unwrap_or_default();
            say(&format!(
                "{} of {} kills, {} acknowledged, {} lost; the last one took {} ms to a write, {} ms to be back",
                figures.kills,
                options.count,
                figures.acknowledged,
                figures.lost,
                last(&times.to_next_write),
                last(&times.to_whole)
            ));
        }
    }
    audit(&cluster, &ledger, figures).await?;
    for node in &cluster.nodes {
        let log = std::fs::read_to_string(node.log()).unwrap_or_default();
        let panicked = log.lines().find(|line| line.contains("panicked at"));
        ensure!(panicked.is_none(), "{}: {}", node.name, panicked.unwrap_or_default());
    }
    Ok(())
}

/// Kills the leader and waits until another node has acknowledged a write that was asked for afterwards. Then the killed
/// one is started again, and the cluster becomes whole. How long both took is noted.
async fn kill_leader(cluster: &mut Cluster, ledger: &Arc<Ledger>, times: &mut Times) -> Result<()> {
    let leader = leader(cluster).await?;
    let mut watch = Watch::start();
    cluster.nodes[leader].kill();
    let mut attempts = JoinSet::new();
    let survivors: Vec<PathBuf> = cluster
        .nodes
        .iter()
        .enumerate()
        .filter(|(position, _)| *position != leader)
        .map(|(_, node)| node.socket())
        .collect();
    let mut turn = survivors.iter().cycle();
    loop {
        // One after the other, each in its own time: none waits for one that is stuck.
        if let Some(socket) = turn.next() {
            attempts.spawn(write_once(
                socket.clone(),
                Arc::clone(ledger),
                "prober".to_owned(),
                Uuid::new_v4(),
            ));
        }
        watch.pause().await;
        let mut done = false;
        while let Some(joined) = attempts.try_join_next() {
            done |= joined.unwrap_or(false);
        }
        if done {
            break;
        }
        ensure!(watch.began.elapsed() < PATIENCE, "no write within {PATIENCE:?} of the leader's death");
    }
    times.note(|times| &mut times.to_next_write, &watch);
    // What the others have been acknowledged counts, too.
    while let Some(joined) = attempts.join_next().await {
        let _ = joined;
    }
    let mut watch = Watch::start();
    cluster.nodes[leader].start()?;
    whole(cluster, &mut watch).await?;
    times.note(|times| &mut times.to_whole, &watch);
    Ok(())
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The one that leads, as it says itself.
async fn leader(cluster: &Cluster) -> Result<usize> {
    let until = Instant::now() + PATIENCE;
    loop {
        for (position, node) in cluster.nodes.iter().enumerate() {
            if health(&node.client()).await.is_some_and(|health| health.leads) {
                return Ok(position);
            }
        }
        ensure!(Instant::now() < until, "nobody leads after {PATIENCE:?}");
        sleep(LOOK_EVERY).await;
    }
}

async fn health(client: &Client) -> Option<Health> {
    timeout(Duration::from_secs(1), client.get::<Health>("/health")).await.ok()?.ok()
}

/// Waits until every node follows the same leader and has caught up.
async fn whole(cluster: &mut Cluster, watch: &mut Watch) -> Result<()> {
    loop {
        let mut seen: Vec<(Option<NodeId>, u64)> = Vec::new();
        for node in &cluster.nodes {
            if let Some(health) = health(&node.client()).await {
                seen.push((health.leader, health.revision.index));
            }
        }
        let newest = seen.iter().map(|(_, index)| *index).max().unwrap_or_default();
        let leaders: BTreeSet<Option<NodeId>> = seen.iter().map(|(leader, _)| *leader).collect();
        let all = seen.len() == cluster.nodes.len() && leaders.len() == 1 && !leaders.contains(&None);
        if all && seen.iter().all(|(_, index)| index + LAG_MAX >= newest) {
            return Ok(());
        }
        let late = watch.began.elapsed() >= PATIENCE;
        let mut silent = String::new();
        for node in &mut cluster.nodes {
            let (name, answers) = (node.name.clone(), late && health(&node.client()).await.is_some());
            let Some(process) = node.process() else { continue };
            if let Some(status) = process.exit_status() {
                anyhow::bail!("{name} has ended by itself ({status})\n{}", process.tail());
            }
            if late && !answers {
                silent = format!("{silent}\n{name} does not answer\n{}", process.tail());
            }
        }
        ensure!(!late, "the nodes do not come together within {PATIENCE:?}: {seen:?}{silent}");
        watch.pause().await;
    }
}

/// A client: one write after the other, at whichever node answers.
async fn write_on(number: usize, sockets: Vec<PathBuf>, ledger: Arc<Ledger>) {
    let mut at = number;
    loop {
        let writing = ledger.gate.read().await;
        let socket = sockets[at % sockets.len()].clone();
        if !write_once(socket, Arc::clone(&ledger), format!("c{number}"), Uuid::new_v4()).await {
            at += 1;
        }
        drop(writing);
        sleep(PAUSE).await;
    }
}

/// Makes an organisation that nobody else makes. Whether that was acknowledged.
async fn write_once(socket: PathBuf, ledger: Arc<Ledger>, who: String, request: Uuid) -> bool {
    let id = format!("{who}-{}", &request.simple().to_string()[..16]);
    let body = json!({ "orgId": id, "name": "written" });
    let client = Client::unix(socket);
    let answer = timeout(ATTEMPT_PATIENCE, client.send(Method::PUT, "/org", Some(body), request)).await;
    match answer {
        Ok(Ok(_)) => {
            ledger.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
            true
        }
        Ok(Err(pangolin_wire::ClientError::Unreachable { .. })) => false,
        _ => {
            ledger.unknown.fetch_add(1, Ordering::Relaxed);
            false
        }
    }
}

/// Looks on every node for everything that has been acknowledged so far.
async fn audit(cluster: &Cluster, ledger: &Ledger, figures: &mut Figures) -> Result<()> {
    let _nobody_writes = ledger.gate.write().await;
    let expected = ledger.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).clone();
    // A last write that every node has to have before it is asked: what it shows then is no older.
    let writer = cluster.nodes[0].client().with_deadline(PATIENCE);
    let request = Uuid::new_v4();
    let body =
        json!({ "orgId": format!("marker-{}", &request.simple().to_string()[..16]), "name": "marker" });
    let marked = writer.send(Method::PUT, "/org", Some(body), request).await.context("a marker")?;
    let mut lost = BTreeSet::new();
    for node in &cluster.nodes {
        let present = caught_up(&node.client().with_deadline(PATIENCE), marked.revision).await?;
        for id in expected.difference(&present) {
            figures.first_lost.get_or_insert_with(|| format!("{id} is gone from {}", node.name));
            lost.insert(id.clone());
        }
    }
    figures.acknowledged = expected.len();
    figures.lost = figures.lost.max(lost.len());
    figures.unknown = ledger.unknown.load(Ordering::Relaxed);
    Ok(())
}

/// Everything that a node shows once it has got as far as `revision`.
async fn caught_up(client: &Client, revision: Option<pangolin_core::Revision>) -> Result<BTreeSet<String>> {
    let until = Instant::now() + PATIENCE;
    while health(client).await.is_none_or(|health| Some(health.revision) < revision) {
        ensure!(Instant::now() < until, "{} does not catch up", client.endpoint());
        sleep(LOOK_EVERY).await;
    }
    let mut all = BTreeSet::new();
    loop {
        let page: OrgList = client.get(&format!("/orgs?limit={PAGE_MAX}&offset={}", all.len())).await?;
        if page.orgs.is_empty() {
            return Ok(all);
        }
        all.extend(page.orgs.into_iter().map(|org| org.org_id.to_string()));
    }
}

#[expect(clippy::print_stdout, reason = "the verb speaks to a person")]
fn say(line: &str) {
    println!("{line}");
}
