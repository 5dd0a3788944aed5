//! A simulated node: the product's Raft, state, judgement and plans, over a simulated disk, clock and network.
//!
//! What the node program does around them is done here in a few lines each: reports, the answers of DNS, which are
//! those of the plan, and the leader's duties (`leader.rs`).

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use pangolin_core::{
    NodeId, Observations, Report, Timestamp,
    observation::Seen,
    plan::{DnsPlan, plan},
};
use pangolin_raft::{Clock, Cluster, RaftConfig, ServerState, Timing};
use pangolin_storage::{RaftStore, simulated::Disk};
use parking_lot::Mutex;
use tokio::{sync::mpsc, task::JoinSet, time::sleep};
use tokio_util::sync::CancellationToken;

use super::{
    dice::Dice,
    network::{Life, Net},
    recorder::Recorder,
    world,
};
use crate::history::{Observed, Role, What};

/// How often a node asks the others whether they are there, and tells them what it sees.
const PROBE: Duration = Duration::from_millis(200);
/// A node that has not answered for so long is suspect.
const SUSPECT_AFTER: Duration = Duration::from_millis(500);
/// How often a node is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// The state at every so many-th entry is compared between nodes.
const DIGEST_EVERY: u64 = 8;

/// What all nodes of a run share.
#[derive(Clone)]
pub(crate) struct Lab {
    /// The network.
    pub(crate) net: Net,
    /// The history.
    pub(crate) recorder: Recorder,
    /// Random choices of the nodes' own duties.
    pub(crate) dice: Dice,
    /// Entries between two snapshots.
    pub(crate) snapshot_every: u64,
    /// Entries that stay in the log though a snapshot includes them.
    pub(crate) keep_in_log: u64,
    /// Whether the leader makes voters of learners.
    pub(crate) promotes: bool,
}

/// A host: its disk and its clock outlast the lives of its node.
pub(crate) struct Host {
    /// The node.
    pub(crate) node: NodeId,
    /// Its disk.
    pub(crate) disk: Disk,
    /// How far its wall clock is off, in milliseconds.
    pub(crate) clock_off: Arc<AtomicI64>,
    lab: Lab,
    alive: Option<Alive>,
}

/// A node that runs.
#[derive(Clone)]
pub(crate) struct Alive {
    /// Its part in the group.
    pub(crate) cluster: Cluster,
    /// Ends with its life.
    pub(crate) ended: CancellationToken,
    /// What its DNS answers from.
    pub(crate) dns: Arc<Mutex<DnsPlan>>,
    tasks: Arc<Mutex<JoinSet<()>>>,
}

impl Host {
    /// A host with an empty disk.
    #[must_use]
    pub(crate) fn new(node: NodeId, lab: Lab) -> Self {
        Self { node, disk: Disk::default(), clock_off: Arc::default(), lab, alive: None }
    }

    /// The node, while it runs.
    #[must_use]
    pub(crate) fn alive(&self) -> Option<&Alive> {
        self.alive.as_ref()
    }

    /// Whether the node has ended of its own accord: its disk has failed.
    #[must_use]
    pub(crate) fn has_ended(&self) -> bool {
        self.alive.as_ref().is_some_and(|alive| alive.ended.is_cancelled())
    }

    /// Starts the node.
    pub(crate) async fn start(&mut self) {
        let lab = &self.lab;
        let store = match RaftStore::simulated(&self.disk) {
            Ok(store) => store,
            Err(error) => {
                return lab.recorder.broken(format!("node {} cannot use its own disk: {error}", self.node));
            }
        };
        let (reports, inbox) = mpsc::unbounded_channel();
        let life = lab.net.attach(self.node, clock(self.clock_off.clone()), reports);
        let config = RaftConfig {
            timing: Timing::lan(),
            snapshot_every: lab.snapshot_every,
            keep_in_log: lab.keep_in_log,
            clock: clock(self.clock_off.clone()),
            ..RaftConfig::new(self.node, "")
        };
        let cluster = match Cluster::start_on(config, lab.net.transport(life), store).await {
            Ok(cluster) => cluster,
            Err(error) => {
                return lab.recorder.broken(format!("node {} does not start: {error}", self.node));
            }
        };
        lab.recorder.note(What::Started { node: self.node });
        let ended = CancellationToken::new();
        let duties = Duties {
            life,
            cluster: cluster.clone(),
            lab: lab.clone(),
            clock: clock(self.clock_off.clone()),
            seen: Arc::default(),
            dns: Arc::default(),
            dice: Arc::new(Mutex::new(lab.dice.fork(&format!("node {} life {}", life.node, life.number)))),
        };
        let dns = duties.dns.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(duties.clone().probe());
        tasks.spawn(duties.clone().listen(inbox));
        tasks.spawn(duties.clone().lead());
        tasks.spawn(duties.clone().answer_dns());
        tasks.spawn(duties.clone().be_watched());
        let over = ended.clone();
        tasks.spawn(async move {
            duties.cluster.failed().await;
            over.cancel();
        });
        self.alive = Some(Alive { cluster, ended, dns, tasks: Arc::new(Mutex::new(tasks)) });
    }

    /// The node ends at once: of what its disk was not made to keep, the first `survive` writes are there after all.
    pub(crate) fn crash(&mut self, survive: usize) {
        let Some(alive) = self.alive.take() else { return };
        self.lab.net.detach(self.node);
        self.disk.crash(survive);
        alive.ended.cancel();
        alive.tasks.lock().abort_all();
        self.lab.recorder.note(What::Stopped { node: self.node });
        // Nobody hears it any more, and its disk takes nothing: what is left of it may end in its own time.
        tokio::spawn(async move { alive.cluster.shutdown().await });
    }

    /// The node ends in an orderly way.
    pub(crate) async fn stop(&mut self) {
        let Some(alive) = self.alive.take() else { return };
        alive.cluster.shutdown().await;
        alive.ended.cancel();
        alive.tasks.lock().abort_all();
        self.lab.net.detach(self.node);
        self.lab.recorder.note(What::Stopped { node: self.node });
    }
}

/// The steady clock of a host, which nobody sets.
pub(crate) fn steady() -> Timestamp {
    wall(&AtomicI64::new(0))
}

/// The wall clock of a host.
fn clock(off: Arc<AtomicI64>) -> Clock {
    Clock::from_fn(move || wall(&off))
}

fn wall(off: &AtomicI64) -> Timestamp {
    let now = world::wall_clock().unwrap_or_default();
    let now = i64::try_from(now.as_millis()).unwrap_or(i64::MAX);
    Timestamp(u64::try_from(now.saturating_add(off.load(Ordering::Relaxed))).unwrap_or_default())
}

/// What a node does besides Raft.
#[derive(Clone)]
pub(crate) struct Duties {
    /// Its life.
    pub(crate) life: Life,
    /// Its part in the group.
    pub(crate) cluster: Cluster,
    /// What all nodes share.
    pub(crate) lab: Lab,
    /// What all nodes, itself included, have reported.
    pub(crate) seen: Arc<Mutex<Observations>>,
    /// Its random choices.
    pub(crate) dice: Arc<Mutex<Dice>>,
    clock: Clock,
    dns: Arc<Mutex<DnsPlan>>,
}

impl Duties {
    /// The node.
    pub(crate) fn me(&self) -> NodeId {
        self.life.node
    }

    /// Asks the others whether they are there, and tells them what it sees.
    async fn probe(self) {
        let mut peers = std::collections::BTreeMap::<NodeId, (Duration, Seen)>::new();
        loop {
            let nodes: Vec<NodeId> = self.cluster.state().nodes().keys().copied().collect();
            let others = nodes.into_iter().filter(|node| *node != self.me());
            let (net, life) = (&self.lab.net, self.life);
            let probes = others.map(|node| async move { (node, net.probe(life, node).await) });
            for (node, answered) in futures_util::future::join_all(probes).await {
                let (last, seen) = peers
                    .entry(node)
                    .or_insert_with(|| (world::elapsed(), Seen { alive: true, since: steady() }));
                if answered {
                    *last = world::elapsed();
                }
                let alive = world::elapsed() - *last < SUSPECT_AFTER;
                if alive != seen.alive {
                    *seen = Seen { alive, since: steady() };
                    self.lab.net.suspect(self.me(), node, !alive);
                }
            }
            let report = Report {
                at: steady(),
                applied: self.cluster.state().revision(),
                clock: self.clock.now(),
                feature_level: pangolin_core::feature::NEWEST,
                hashes: self.cluster.hashes(),
                peers: peers.iter().map(|(node, (_, seen))| (*node, *seen)).collect(),
                ..Report::default()
            };
            self.seen.lock().insert(self.me(), steady(), report.clone());
            for node in peers.keys().copied() {
                let (net, life, report) = (self.lab.net.clone(), self.life, report.clone());
                tokio::spawn(async move { net.report(life, node, report).await });
            }
            sleep(PROBE).await;
        }
    }

    async fn listen(self, mut inbox: mpsc::UnboundedReceiver<(NodeId, Report)>) {
        while let Some((from, report)) = inbox.recv().await {
            self.seen.lock().insert(from, steady(), report);
        }
    }

    /// Lets DNS follow the state, a moment later.
    async fn answer_dns(self) {
        let mut states = self.cluster.watch();
        loop {
            let state = states.borrow_and_update().clone();
            let moment = self.dice.lock().time(0, 20);
            sleep(moment).await;
            *self.dns.lock() = plan(&state, self.me()).dns;
            if states.changed().await.is_err() {
                return;
            }
        }
    }

    /// Is looked at from outside.
    async fn be_watched(self) {
        let (mut last, mut digested) = (None, None);
        loop {
            let (status, state) = (self.cluster.status(), self.cluster.state());
            let role = if status.state == ServerState::Leader { Role::Leader } else { Role::Other };
            let now = Some((role, status.term, state.revision()));
            // States are compared where several nodes are likely to be looked at: on a grid, and where the log rests.
            let compared = last == now || state.revision().index.is_multiple_of(DIGEST_EVERY);
            let digest =
                (compared && digested != Some(state.revision())).then(|| state.digest().ok()).flatten();
            if digest.is_some() {
                digested = Some(state.revision());
            }
            if last != now || digest.is_some() {
                self.lab.recorder.note(What::Observed(Observed {
                    node: self.me(),
                    role,
                    term: status.term,
                    applied: state.revision(),
                    state: digest.map(|digest| hex::encode(digest.0)),
                }));
            }
            if last != now {
                self.lab.recorder.placements(self.me(), &state);
            }
            last = now;
            sleep(LOOK).await;
        }
    }
}
