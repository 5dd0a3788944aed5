//! How soon every node answers what was decided: records, and nodes that go out of service and come back.
//!
//! The clock runs from before the request is sent until the last node answers the new set by UDP: the commit is in it.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use pangolin_chaos::{
    cluster::Cluster,
    dns::{self, Kind},
};
use pangolin_core::{HostName, NodeId, record::AdminState};
use pangolin_wire::{
    AddRecord, Client, CreateDomain, CreateOrg, Domain, Org, RemoveRecord, Resource, UpdateNode,
};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::{judge::Check, pangolin, sample::Sample, say};

const FOLLOWED_P99_MS: f64 = 1000.0;
/// A set that no node answers for this long never will.
const PATIENCE: Duration = Duration::from_secs(20);
/// Pause between two questions to one node: below its rate limit.
const PAUSE: Duration = Duration::from_millis(4);
/// Pause between two decisions: each finds the nodes at rest, as decisions of operators do.
const REST: Duration = Duration::from_millis(60);
/// The domain of everything that is asked for.
const DOMAIN: &str = "decisions.test";
/// The record that is changed.
const RECORD: &str = "record.decisions.test";
/// The resource that leads to every node in service.
const HOST: &str = "www.decisions.test";

/// What is measured.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// How many decisions
    #[arg(long, default_value_t = 300)]
    decisions: usize,
}

/// Measures, prints, judges.
///
/// # Errors
/// The cluster does not start, or a decision is not followed.
pub(crate) async fn run(options: &Options) -> Result<bool> {
    let cluster = Cluster::start(pangolin::options(3)?).await?;
    let bench = Bench::prepare(&cluster).await?;
    let (mut all, mut acknowledged) = (Vec::new(), Vec::new());
    for round in 0..options.decisions {
        let (kind, took, commit) = bench.decide(round).await.with_context(|| format!("decision {round}"))?;
        if round % 19 == 0 {
            say(&format!(
                "decision {round:>3} ({kind}): answered by all nodes {} ms after it was asked for",
                took.as_millis()
            ));
        }
        all.push(took);
        acknowledged.push(took.saturating_sub(commit));
        sleep(REST).await;
    }
    let (whole, behind) = (Sample::of(&all).figures(), Sample::of(&acknowledged).figures());
    let checks =
        [Check::at_most("asked for to answered by all nodes, p99 ms", whole.p99_ms, FOLLOWED_P99_MS)];
    checks.iter().for_each(|check| say(&check.line()));
    let ok = checks.iter().all(|check| check.ok);
    say(&json!({
        "bench": "decisions", "nodes": 3, "n": whole.operations,
        "asked_to_answered": { "p50_ms": whole.p50_ms, "p99_ms": whole.p99_ms, "max_ms": whole.max_ms },
        "acknowledged_to_answered": { "p50_ms": behind.p50_ms, "p99_ms": behind.p99_ms, "max_ms": behind.max_ms },
        "checks": checks, "ok": ok,
    })
    .to_string());
    Ok(ok)
}

/// A cluster with something to decide about.
struct Bench {
    clients: Vec<Client>,
    servers: Vec<SocketAddr>,
    /// One that does not lead, and the others never do without.
    drained: NodeId,
}

impl Bench {
    async fn prepare(cluster: &Cluster) -> Result<Self> {
        let clients: Vec<Client> =
            cluster.nodes.iter().map(|node| node.client().with_deadline(PATIENCE)).collect();
        let status = cluster.healthy(PATIENCE).await?;
        let leader = status.leader.as_ref().context("there is no leader")?.node_id;
        let drained = status.nodes.iter().map(|node| node.id).find(|id| *id != leader);
        let _: Org = clients[0].put("/org", &CreateOrg { org_id: "bench".parse()?, name: None }).await?;
        let domain = CreateDomain { base_domain: DOMAIN.parse()? };
        let _: Domain = clients[0].put("/org/bench/domain", &domain).await?;
        let resource = json!({ "fullDomain": HOST });
        let _: Resource = clients[0].put("/org/bench/resource", &resource).await?;
        let bench = Self {
            clients,
            servers: cluster.nodes.iter().map(pangolin_chaos::cluster::Node::dns).collect(),
            drained: drained.context("one node alone")?,
        };
        bench.answered(HOST, 3).await?;
        Ok(bench)
    }

    /// One decision: of which kind, how long until all nodes answered it, and how long until it was acknowledged.
    async fn decide(&self, round: usize) -> Result<(&'static str, Duration, Duration)> {
        let client = &self.clients[round % self.clients.len()];
        let (kind, value) = ("A".to_owned(), "192.0.2.7".to_owned());
        let name: HostName = RECORD.parse()?;
        let node = format!("/node/{}", self.drained);
        let began = Instant::now();
        let (what, host, addresses) = match round % 4 {
            0 => {
                let record = AddRecord { name, kind, value, ttl: None };
                let _: Option<Value> = client.put("/dns/record", &record).await?;
                ("a record added", RECORD, 1)
            }
            1 => {
                let _: Option<Value> = client.post(&node, &UpdateNode { admin: AdminState::Drained }).await?;
                ("a node out of service", HOST, 2)
            }
            2 => {
                let record = RemoveRecord { name, kind, value: Some(value) };
                let _: Option<Value> = client.post("/dns/record/remove", &record).await?;
                ("a record removed", RECORD, 0)
            }
            _ => {
                let _: Option<Value> = client.post(&node, &UpdateNode { admin: AdminState::Active }).await?;
                ("a node back in service", HOST, 3)
            }
        };
        let commit = began.elapsed();
        self.answered(host, addresses).await?;
        Ok((what, began.elapsed(), commit))
    }

    /// Waits until every node answers with so many addresses.
    async fn answered(&self, host: &str, addresses: usize) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        for server in &self.servers {
            while dns::ask(*server, host, Kind::A).await?.addresses.len() != addresses {
                if Instant::now() >= end {
                    bail!("{server} does not answer {host} with {addresses} addresses");
                }
                sleep(PAUSE).await;
            }
        }
        Ok(())
    }
}
