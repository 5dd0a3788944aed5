//! The check: who holds what is looked up, a prober asks through a node without a tunnel, and one node after the other
//! is killed -9: the leader, the node that carries the prober's traffic, and one that is neither.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use pangolin_core::NodeId;
use pangolin_wire::{ClusterStatus, Health, TransferLeader, TransferredLeader};
use serde::Serialize;

use super::{outside, say, story::Story};
use crate::prober::{Figures, Probe, Prober, figures};

/// The longest silence that is allowed when a node dies that has a part in the traffic.
const GAP_MAX: u64 = 1000;
/// The slowest answer that is allowed when a node dies that has none.
const UNTOUCHED_MAX: u64 = 500;
/// How long the prober asks before a node is killed.
const BEFORE: Duration = Duration::from_secs(2);
/// How long it asks afterwards: until the dead node is called down and whatever follows from that has happened.
const AFTER: Duration = Duration::from_secs(5);
/// How long the cluster may take to be whole again.
const HEAL_PATIENCE: Duration = Duration::from_secs(60);
/// How long the site's tunnels have to stay as they are to count as settled.
const SETTLED: Duration = Duration::from_millis(1500);
/// How long an election may take.
const ELECTION_PATIENCE: Duration = Duration::from_secs(10);

/// What the check found.
#[derive(Debug, Default, Serialize)]
struct Verdict {
    longest_gap_ms: u64,
    failed: usize,
    total: usize,
    time_to_new_leader_ms: u64,
    leader_killed: Figures,
    carrier_killed: Figures,
    bystander_killed: Figures,
    problems: Vec<String>,
    ok: bool,
}

/// Who has which part, as positions in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Parts {
    /// Where the prober enters: no tunnel of the site ends there, so that it has to relay.
    entry: usize,
    leader: usize,
}

pub(super) async fn run(story: &mut Story) -> Result<bool> {
    outside::look(story).await?;
    let mut verdict = Verdict::default();
    match phases(story, &mut verdict).await {
        Ok(()) => {}
        Err(error) => {
            say(&format!("{error:#}"));
            verdict.problems.push(format!("{error:#}").lines().next().unwrap_or_default().to_owned());
        }
    }
    judge(&mut verdict);
    say(&serde_json::to_string(&verdict)?);
    Ok(verdict.ok)
}

async fn phases(story: &mut Story, verdict: &mut Verdict) -> Result<()> {
    let (leader_killed, time_to_new_leader) = kill_leader(story).await?;
    verdict.time_to_new_leader_ms = u64::try_from(time_to_new_leader.as_millis())?;
    verdict.leader_killed = leader_killed;
    verdict.carrier_killed = kill_carrier(story).await?;
    verdict.bystander_killed = kill_bystander(story).await?;
    Ok(())
}

fn judge(verdict: &mut Verdict) {
    let phases = [
        ("the leader", &verdict.leader_killed, GAP_MAX),
        ("the carrying node", &verdict.carrier_killed, GAP_MAX),
        ("a bystander", &verdict.bystander_killed, UNTOUCHED_MAX),
    ];
    let mut problems = Vec::new();
    for (victim, figures, gap_max) in phases {
        verdict.longest_gap_ms = verdict.longest_gap_ms.max(figures.longest_gap_ms);
        verdict.failed += figures.failed;
        verdict.total += figures.total;
        if figures.total == 0 {
            problems.push(format!("{victim} was not killed"));
        } else if figures.longest_gap_ms > gap_max {
            problems.push(format!("{} ms without an answer when {victim} died", figures.longest_gap_ms));
        }
    }
    let bystander = &verdict.bystander_killed;
    if bystander.failed > 0 {
        problems.push(format!("{} requests failed when a bystander died", bystander.failed));
    }
    if bystander.slowest_ms > UNTOUCHED_MAX {
        problems.push(format!("an answer took {} ms when a bystander died", bystander.slowest_ms));
    }
    verdict.problems.extend(problems);
    verdict.ok = verdict.problems.is_empty();
}

async fn kill_leader(story: &mut Story) -> Result<(Figures, Duration)> {
    let mut parts = settle(story).await?;
    if parts.leader == parts.entry {
        let to = (parts.entry + 1) % story.cluster.nodes.len();
        parts.leader = transfer(story, to).await?;
    }
    let names = |n: usize| story.cluster.nodes[n].name.clone();
    say(&format!("asking through {}; killing the leader, {}", names(parts.entry), names(parts.leader)));
    let prober = start_prober(story, parts.entry).await?;
    let old = id_of(&story.cluster.status().await?, &names(parts.leader))?;
    let killed = Instant::now();
    story.cluster.nodes[parts.leader].kill();
    new_leader(story, parts.entry, old).await?;
    let time_to_new_leader = killed.elapsed();
    tokio::time::sleep(AFTER).await;
    let figures = finish(prober, "the leader").await;
    say(&format!("a new leader after {} ms", time_to_new_leader.as_millis()));
    revive(story, parts.leader).await?;
    Ok((figures, time_to_new_leader))
}

async fn kill_carrier(story: &mut Story) -> Result<Figures> {
    let parts = settle(story).await?;
    // The leader dies in a phase of its own.
    if parts.leader != parts.entry {
        transfer(story, parts.entry).await?;
    }
    let prober = start_prober(story, parts.entry).await?;
    let carrier = carrier(story, &prober).await?;
    ensure!(carrier != parts.entry, "the entry carries the traffic itself");
    let names = |n: usize| story.cluster.nodes[n].name.clone();
    say(&format!(
        "asking through {}; killing {}, which carries the traffic",
        names(parts.entry),
        names(carrier)
    ));
    story.cluster.nodes[carrier].kill();
    tokio::time::sleep(AFTER).await;
    let figures = finish(prober, "the carrying node").await;
    revive(story, carrier).await?;
    Ok(figures)
}

async fn kill_bystander(story: &mut Story) -> Result<Figures> {
    let parts = settle(story).await?;
    if parts.leader != parts.entry {
        transfer(story, parts.entry).await?;
    }
    let prober = start_prober(story, parts.entry).await?;
    let carrier = carrier(story, &prober).await?;
    let bystander = (0..story.cluster.nodes.len())
        .find(|n| *n != parts.entry && *n != carrier)
        .context("there is no node without a part")?;
    let names = |n: usize| story.cluster.nodes[n].name.clone();
    say(&format!(
        "asking through {}; killing {}, which has no part in it",
        names(parts.entry),
        names(bystander)
    ));
    story.cluster.nodes[bystander].kill();
    tokio::time::sleep(AFTER).await;
    let figures = finish(prober, "a bystander").await;
    revive(story, bystander).await?;
    Ok(figures)
}

async fn finish(prober: Prober, victim: &str) -> Figures {
    let probes = prober.stop().await;
    let figures = figures(&probes);
    say(&format!(
        "{victim} killed: {} of {} requests failed, longest gap {} ms, slowest answer {} ms",
        figures.failed, figures.total, figures.longest_gap_ms, figures.slowest_ms
    ));
    for failed in probes.iter().filter_map(|probe| probe.result.as_ref().err()).take(5) {
        say(&format!("  {failed}"));
    }
    figures
}

/// Waits until the cluster is whole and the site's tunnels stay as they are, and says who has which part.
async fn settle(story: &mut Story) -> Result<Parts> {
    let until = Instant::now() + HEAL_PATIENCE;
    loop {
        story.cluster.healthy(HEAL_PATIENCE).await?;
        let before = story.site.settled(&story.cluster, HEAL_PATIENCE).await?;
        tokio::time::sleep(SETTLED).await;
        let status = story.cluster.status().await?;
        let site =
            status.sites.iter().find(|site| site.site_id == story.site.id).context("the site is gone")?;
        if site.tunnels == before.tunnels && status.partial.is_none() {
            let entry = status.nodes.iter().find(|node| !site.tunnels.contains(&node.id));
            let entry = entry.context("every node has a tunnel: nobody would relay")?.id;
            let leader = status.leader.as_ref().context("there is no leader")?.node_id;
            let position = |id| story.cluster.position(&status, id);
            return Ok(Parts { entry: position(entry)?, leader: position(leader)? });
        }
        ensure!(Instant::now() < until, "the tunnels do not settle: {:?}, then {:?}", before, site);
    }
}

/// Moves leadership, and says where it is then.
async fn transfer(story: &Story, to: usize) -> Result<usize> {
    let status = story.cluster.status().await?;
    let node = &story.cluster.nodes[to];
    let id = id_of(&status, &node.name)?;
    let client = node.client().with_deadline(ELECTION_PATIENCE);
    let moved: TransferredLeader =
        client.post("/cluster/leader/transfer", &TransferLeader { to: Some(id) }).await?;
    ensure!(moved.node_id == id, "leadership went to node {} instead of {id}", moved.node_id);
    // The new leader takes up its duties, and what it decides first has happened.
    story.cluster.healthy(HEAL_PATIENCE).await?;
    Ok(to)
}

fn id_of(status: &ClusterStatus, name: &str) -> Result<NodeId> {
    let node = status.nodes.iter().find(|node| node.name.as_str() == name);
    Ok(node.with_context(|| format!("{name} is not in the status"))?.id)
}

/// Starts a prober and lets it ask for a while; everything has to be answered.
async fn start_prober(story: &Story, entry: usize) -> Result<Prober> {
    let at = story.cluster.nodes[entry].https();
    let prober = Prober::start(story.https.clone(), at, &story.site.host);
    tokio::time::sleep(BEFORE).await;
    let failed: Vec<Probe> = prober.so_far().into_iter().filter(|probe| probe.result.is_err()).collect();
    ensure!(failed.is_empty(), "requests fail before anything is killed: {failed:?}");
    Ok(prober)
}

/// The node that has carried the last second's requests, by the word of the edge that relayed them.
async fn carrier(story: &Story, prober: &Prober) -> Result<usize> {
    let probes = prober.so_far();
    let recent = &probes[probes.len().saturating_sub(20)..];
    let ways: Vec<Option<String>> = recent.iter().map(|probe| probe.result.clone().ok().flatten()).collect();
    let Some(Some(way)) = ways.first().cloned() else { bail!("the edge does not say which way it took") };
    ensure!(
        ways.iter().all(|other| other.as_ref() == Some(&way)),
        "the traffic takes several ways: {ways:?}"
    );
    let status = story.cluster.status().await?;
    let id: NodeId = way
        .rsplit(' ')
        .next()
        .unwrap_or_default()
        .parse()
        .with_context(|| format!("the traffic is not relayed by a node, but goes by {way:?}"))?;
    story.cluster.position(&status, id)
}

/// Waits until a survivor knows a leader that is not the old one.
async fn new_leader(story: &Story, survivor: usize, old: NodeId) -> Result<()> {
    let until = Instant::now() + ELECTION_PATIENCE;
    let client = story.cluster.nodes[survivor].client();
    while Instant::now() < until {
        if let Ok(health) = client.get::<Health>("/health").await
            && health.leader.is_some_and(|leader| leader != old)
        {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    bail!("no new leader within {ELECTION_PATIENCE:?}")
}

async fn revive(story: &mut Story, victim: usize) -> Result<()> {
    story.cluster.nodes[victim].start_ready().await?;
    story.cluster.healthy(HEAL_PATIENCE).await.map(|_| ())
}
