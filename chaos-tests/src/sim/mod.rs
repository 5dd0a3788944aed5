//! The simulator: three to five nodes made of the product's own Raft, state, judgement and plans, over simulated disks,
//! clocks and a simulated network, in one thread and in simulated time. All that happens follows from a seed.
//!
//! A run sets up a cluster, lets clients write and read, does [faults](faults) to it, heals it, and is judged by its
//! history. See docs/chaos.md for what this shows and what it does not.

pub mod batch;
mod client;
mod dice;
mod faults;
mod leader;
mod nemesis;
mod network;
mod node;
mod operator;
mod recorder;
mod scene;
mod vote_trap;
pub mod world;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use pangolin_core::{Body, NodeId, Object, Outcome, Revision};
use pangolin_raft::Cluster;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use self::{
    client::{Client, Doors},
    dice::Dice,
    nemesis::Nemesis,
    network::Net,
    node::{Host, Lab},
    operator::Operator,
    recorder::Recorder,
};
use crate::{
    history::{FORMAT, Header, History, What},
    verdict::{Finding, Judgement, Verdict, judge},
};

/// How many clients ask at once.
const CLIENTS: u64 = 6;
/// What they ask about.
const KEYS: u64 = 6;
/// How long all is well before the first fault, and after the last one.
const CALM: Duration = Duration::from_secs(2);
const AFTERWARDS: Duration = Duration::from_secs(6);
/// Answers without which a run shows nothing.
const LOAD: usize = 100;
/// How long the scene may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// What came of a run.
#[derive(Debug)]
pub struct Played {
    /// What happened.
    pub history: History,
    /// What it shows.
    pub judgement: Judgement,
}

/// The command that repeats a run.
#[must_use]
pub fn command(seed: u64) -> String {
    format!("pangolin-chaos sim --seed {seed}")
}

/// Runs one seed. The process must not have made a Tokio runtime before: it counts them, and mixes the count into what
/// it draws.
///
/// # Errors
/// See [`world::run`].
pub fn run(seed: u64) -> Result<Played> {
    let (history, broken) = world::run(seed, move || async move {
        let header = Header {
            format: FORMAT,
            kind: "sim".into(),
            seed,
            command: command(seed),
            expects: EXPECTED.iter().map(|name| (*name).to_owned()).collect(),
            faults: BTreeSet::new(),
            load: LOAD,
        };
        let recorder = Recorder::new(History::new(header));
        let mut planned = BTreeSet::new();
        if let Err(error) = play(seed, &recorder, &mut planned).await {
            recorder.broken(format!("{error:#}"));
        }
        recorder.end(|history| history.header.faults = planned)
    })?;
    let mut judgement = judge(&history);
    if let Some(broken) = broken {
        judgement.findings.push(("run".into(), Finding::broken(1, broken)));
        judgement.verdict = Verdict::False;
    }
    Ok(Played { history, judgement })
}

/// What every run puts to the test.
const EXPECTED: [&str; 10] = [
    "linearizable",
    "acknowledged-write-survives",
    "one-leader",
    "state-hash",
    "sessions",
    "epoch-grows",
    "one-home",
    "dns-fresh",
    "dns-serves",
    "serves-again",
];

/// The whole of a run.
async fn play(seed: u64, recorder: &Recorder, planned: &mut BTreeSet<String>) -> Result<()> {
    let dice = Dice::new(seed);
    let mut shape = dice.fork("shape");
    let nodes = 3 + u8::try_from(shape.below(3))?;
    let voters = if nodes == 5 && shape.percent(50) { 5 } else { 3 };
    let lab = Lab {
        net: Net::new(dice.fork("network")),
        recorder: recorder.clone(),
        dice: dice.fork("nodes"),
        snapshot_every: 30 + shape.below(200),
        keep_in_log: 5 + shape.below(30),
        promotes: shape.percent(50),
    };
    let doors = Doors::default();
    let mut nemesis =
        Nemesis::new(BTreeMap::new(), doors.clone(), lab.net.clone(), recorder.clone(), dice.fork("faults"));
    let addresses = set_up(&lab, &mut nemesis, nodes, voters).await?;
    recorder.note(What::Note { text: format!("{nodes} nodes, {voters} of them vote") });

    let end = CancellationToken::new();
    let keys: Vec<String> = (1..=KEYS).map(|n| format!("k{n}")).collect();
    let client = |id: u64| Client {
        id,
        doors: doors.clone(),
        recorder: recorder.clone(),
        dice: dice.fork(&format!("client {id}")),
        keys: keys.clone(),
        seen: Revision::default(),
        serial: 0,
    };
    let mut work: Vec<_> = (1..=CLIENTS).map(|id| tokio::spawn(client(id).run(end.clone()))).collect();
    work.push(tokio::spawn(client::ask_dns(
        doors.clone(),
        recorder.clone(),
        dice.fork("dns"),
        keys.clone(),
        scene::control_host(),
        addresses.clone(),
        end.clone(),
    )));

    let maintained = CancellationToken::new();
    let operator = Operator {
        doors: doors.clone(),
        dice: dice.fork("operator"),
        nodes: addresses.values().copied().collect(),
    };
    work.push(tokio::spawn(operator.run(maintained.clone())));

    nemesis.pass(CALM).await;
    let plan = faults::draw(&mut dice.fork("plan"));
    planned.extend(plan.iter().map(|fault| fault.kind.name().to_owned()));
    for fault in plan {
        if fault.kind == faults::Kind::NodeGone {
            maintained.cancel();
        }
        nemesis.pass(fault.after).await;
        nemesis.begin(fault).await;
        if fault.kind == faults::Kind::NodeGone {
            nemesis.pass(fault.lasts).await;
        }
    }
    maintained.cancel();
    nemesis.pass(CALM).await;
    nemesis.heal().await;
    nemesis.pass(AFTERWARDS).await;
    end.cancel();
    for task in work {
        task.await.context("a client")?;
    }
    let mut last = client(CLIENTS + 1);
    let read = last.read_all();
    tokio::pin!(read);
    loop {
        tokio::select! {
            biased;
            () = &mut read => return Ok(()),
            () = nemesis.pass(Duration::from_millis(100)) => {}
        }
    }
}

/// Makes the cluster, without faults: its nodes, its voters, its catalog.
async fn set_up(lab: &Lab, nemesis: &mut Nemesis, nodes: u8, voters: u8) -> Result<BTreeMap<IpAddr, NodeId>> {
    let first = NodeId(1);
    let mut addresses: BTreeMap<IpAddr, NodeId> = [(scene::address(1).into(), first)].into();
    nemesis.hosts.insert(first, Host::new(first, lab.clone()));
    nemesis.start(first).await;
    let cluster = cluster_of(nemesis, first)?;
    cluster.bootstrap().await?;
    propose(&cluster, scene::created()).await?;
    for n in 2..=nodes {
        let [token, admitted] = scene::admitted(n);
        propose(&cluster, token).await?;
        let Some(Object::Node(node)) = propose(&cluster, admitted).await? else { bail!("no node was made") };
        addresses.insert(scene::address(n).into(), node);
        nemesis.hosts.insert(node, Host::new(node, lab.clone()));
        nemesis.start(node).await;
        let leader = cluster.lead().context("the first node does not lead")?;
        leader.add_learner(node).await?;
        if n <= voters {
            leader.promote(node).await?;
        }
    }
    for body in scene::catalog() {
        propose(&cluster, body).await?;
    }
    // Until everyone is up and every site has its place.
    let deadline = world::elapsed() + PATIENCE;
    let settled = || {
        let state = cluster.state();
        let up = state.nodes().values().all(|node| node.in_service());
        up && state.placements().len() as u64 == scene::SITES
    };
    while !settled() {
        anyhow::ensure!(
            world::elapsed() < deadline,
            "the scene is not set: {:?}",
            cluster.state().placements()
        );
        sleep(Duration::from_millis(50)).await;
    }
    Ok(addresses)
}

fn cluster_of(nemesis: &Nemesis, node: NodeId) -> Result<Cluster> {
    let alive = nemesis.hosts.get(&node).and_then(Host::alive);
    Ok(alive.context("a node that should run does not")?.cluster.clone())
}

async fn propose(cluster: &Cluster, body: Body) -> Result<Option<Object>> {
    let what = body.name();
    for _ in 0..20 {
        match cluster.propose(scene::proposal(body.clone())).await {
            Ok(committed) => match committed.outcome {
                Outcome::Done(made) => return Ok(made),
                Outcome::Refused(refusal) => bail!("{what}: {refusal}"),
            },
            Err(error) => tracing::debug!(%error, "{what}"),
        }
        sleep(Duration::from_millis(100)).await;
    }
    bail!("{what} was not committed")
}
