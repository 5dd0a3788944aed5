//! How long nothing can be written: after `kill -9` of the leader, and during a planned transfer; and how long visitors
//! are not answered when the node is lost that carries their traffic ([`traffic`]).
//!
//! A writer asks the nodes that live for one small write after the other, the way any client does: at the next node
//! when one does not answer or says 503, under the same request id until it is acknowledged.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use http::Method;
use pangolin_chaos::cluster::{Cluster, Timing};
use pangolin_core::NodeId;
use pangolin_wire::{
    Client, ClientError, ClusterStatus, CreateOrg, Health, Org, TransferLeader, TransferredLeader,
};
use serde_json::json;
use uuid::Uuid;

use crate::{far, judge::Check, sample::Sample, say, traffic};

const KILL_P50_MS: f64 = 900.0;
const KILL_P99_MS: f64 = 2000.0;
/// What docs/operating.md says of `wan` at 100 ms each way.
const WAN_KILL_P50_MS: f64 = 6000.0;
const WAN_KILL_P99_MS: f64 = 8000.0;
/// A node that has died again and again within minutes is called up after two minutes at the latest.
const HEAL_PATIENCE: Duration = Duration::from_secs(180);
const TRANSFER_P99_MS: f64 = 50.0;
/// Round trips of a transfer: the request at the leader, the vote, the first entry of the new leader.
const ROUND_TRIPS: f64 = 4.0;
/// Without a write for this long, the cluster is broken.
const PATIENCE: Duration = Duration::from_secs(20);
/// Pause after all nodes have been asked in vain.
const PAUSE: Duration = Duration::from_millis(5);
/// The cluster is at rest for so long before the next fault.
const REST: Duration = Duration::from_millis(700);
/// A transfer that takes effect this late has not happened.
const TRANSFER_PATIENCE: Duration = Duration::from_secs(5);

/// What is measured.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// How often the leader is killed
    #[arg(long, default_value_t = 50)]
    kills: usize,
    /// How often the leadership is handed over
    #[arg(long, default_value_t = 50)]
    transfers: usize,
    /// The nodes' timing: how soon they give each other up
    #[arg(long, value_enum, default_value_t = Timing::Lan)]
    timing: Timing,
    /// Milliseconds that whatever one node sends to another takes; more than none needs root
    #[arg(long, default_value_t = 0)]
    distance_ms: u64,
    #[command(flatten)]
    traffic: traffic::TrafficOptions,
}

/// What an interruption may cost, in milliseconds.
struct Bounds {
    kill_p50: f64,
    kill_p99: f64,
    transfer_p99: f64,
}

/// Longer timeouts and longer ways cost more: `wan` gives a leader up after seconds, and each step of an election or a
/// transfer is a round trip or two.
fn bounds(options: &Options) -> Bounds {
    let round_trip = 2.0 * options.distance_ms as f64;
    let (kill_p50, kill_p99) = match options.timing {
        Timing::Lan => (KILL_P50_MS, KILL_P99_MS),
        Timing::Wan => (WAN_KILL_P50_MS, WAN_KILL_P99_MS),
    };
    Bounds { kill_p50, kill_p99, transfer_p99: TRANSFER_P99_MS + ROUND_TRIPS * round_trip }
}

/// Measures, prints, judges.
///
/// # Errors
/// The cluster does not start, or does not come back.
pub(crate) async fn run(options: &Options) -> Result<bool> {
    let (kills, transfers, gaps) = writes(options).await?;
    let (kills, transfers, gaps) =
        (Sample::of(&kills).figures(), Sample::of(&transfers).figures(), Sample::of(&gaps).figures());
    let (traffic, served) = traffic::run(&options.traffic).await?;
    let mut checks = Vec::new();
    let limits = bounds(options);
    if options.kills > 0 {
        checks.push(Check::at_most("kill -9 to the next write, p50 ms", kills.p50_ms, limits.kill_p50));
        checks.push(Check::at_most("kill -9 to the next write, p99 ms", kills.p99_ms, limits.kill_p99));
    }
    if options.transfers > 0 {
        checks.push(Check::at_most("planned transfer, p99 ms", transfers.p99_ms, limits.transfer_p99));
    }
    checks.extend(served);
    checks.iter().for_each(|check| say(&check.line()));
    let ok = checks.iter().all(|check| check.ok);
    let brief = |f: &crate::sample::Figures| json!({ "n": f.operations, "p50_ms": f.p50_ms, "p99_ms": f.p99_ms, "max_ms": f.max_ms });
    say(&json!({
        "bench": "failover", "timing": format!("{:?}", options.timing).to_lowercase(),
        "distance_ms": options.distance_ms, "kill": brief(&kills), "transfer": brief(&transfers),
        "write_during_transfer": brief(&gaps), "traffic": traffic, "checks": checks, "ok": ok,
    })
    .to_string());
    Ok(ok)
}

/// Kills and transfers: how long each took until the next write, and the longest writes beside the transfers.
async fn writes(options: &Options) -> Result<(Vec<Duration>, Vec<Duration>, Vec<Duration>)> {
    let (mut kills, mut transfers, mut gaps) = (Vec::new(), Vec::new(), Vec::new());
    if options.kills + options.transfers == 0 {
        return Ok((kills, transfers, gaps));
    }
    let mut far = far::start(options.timing, Duration::from_millis(options.distance_ms)).await?;
    let cluster = &mut far.cluster;
    let org = CreateOrg { org_id: "bench".parse()?, name: None };
    let _: Org = cluster.any_node()?.client().with_deadline(PATIENCE).put("/org", &org).await?;
    for round in 0..options.kills {
        let took = kill_leader(cluster).await.with_context(|| format!("kill {round}"))?;
        say(&format!("kill {:>3}: {:>5} ms until the next write", round + 1, took.as_millis()));
        kills.push(took);
    }
    for round in 0..options.transfers {
        let (took, gap) = transfer(cluster).await.with_context(|| format!("transfer {round}"))?;
        say(&format!(
            "transfer {:>3}: {} ms, longest write {} ms",
            round + 1,
            took.as_millis(),
            gap.as_millis()
        ));
        transfers.push(took);
        gaps.push(gap);
    }
    Ok((kills, transfers, gaps))
}

/// Kills the leader while writes go on; gives the time from the kill to the next acknowledged write.
async fn kill_leader(cluster: &mut Cluster) -> Result<Duration> {
    let status = cluster.healthy(HEAL_PATIENCE).await?;
    tokio::time::sleep(REST).await;
    let leader = status.leader.as_ref().context("there is no leader")?.node_id;
    let victim = cluster.position(&status, leader)?;
    let living: Vec<Client> =
        cluster.nodes.iter().enumerate().filter(|(n, _)| *n != victim).map(|(_, n)| n.client()).collect();
    write(&living, 0).await?;
    let killed = Instant::now();
    cluster.nodes[victim].kill();
    // Clients do not know who led: half of them ask the one survivor first, half the other.
    write(&living, usize::from(killed.elapsed().subsec_nanos().is_multiple_of(2))).await?;
    let took = killed.elapsed();
    cluster.nodes[victim].start_ready().await?;
    Ok(took)
}

/// Hands the leadership to another node; gives the time until that node says that it leads, and the longest write
/// of a client that writes all the while.
async fn transfer(cluster: &Cluster) -> Result<(Duration, Duration)> {
    let status: ClusterStatus = cluster.healthy(HEAL_PATIENCE).await?;
    tokio::time::sleep(REST).await;
    let leader = status.leader.as_ref().context("there is no leader")?.node_id;
    let to = status.nodes.iter().map(|node| node.id).find(|id| *id != leader).context("one node alone")?;
    let all: Vec<Client> = cluster.nodes.iter().map(pangolin_chaos::cluster::Node::client).collect();
    let began = Instant::now();
    let handed = async {
        let here = &all[cluster.position(&status, leader)?];
        let _: TransferredLeader =
            here.post("/cluster/leader/transfer", &TransferLeader { to: Some(to) }).await?;
        leads(&all[cluster.position(&status, to)?], to).await?;
        Ok::<_, anyhow::Error>(began.elapsed())
    };
    let writes = async {
        let mut longest = Duration::ZERO;
        while began.elapsed() < REST {
            let sent = Instant::now();
            write(&all, 0).await?;
            longest = longest.max(sent.elapsed());
        }
        Ok::<_, anyhow::Error>(longest)
    };
    tokio::try_join!(handed, writes)
}

async fn leads(node: &Client, wanted: NodeId) -> Result<()> {
    let until = Instant::now() + TRANSFER_PATIENCE;
    while Instant::now() < until {
        if node.get::<Health>("/health").await?.leader == Some(wanted) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    bail!("node {wanted} has not taken over within {TRANSFER_PATIENCE:?}")
}

/// One write, at one node after the other, until it is acknowledged.
async fn write(nodes: &[Client], first: usize) -> Result<()> {
    let request = Uuid::new_v4();
    let until = Instant::now() + PATIENCE;
    let mut number = first;
    loop {
        let node = &nodes[number % nodes.len()];
        let body = json!({ "name": format!("at {request}") });
        let Err(error) = node.send(Method::POST, "/org/bench", Some(body), request).await else {
            return Ok(());
        };
        if !error.is_passing() || Instant::now() >= until {
            return Err(error).context("a write failed");
        }
        number += 1;
        if matches!(error, ClientError::Unreachable { .. }) || number % nodes.len() == first % nodes.len() {
            tokio::time::sleep(PAUSE).await;
        }
    }
}
