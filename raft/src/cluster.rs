//! One node's part in the group.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
    sync::Arc,
    time::Duration,
};

use openraft::{EmptyNode, Instant as _, async_runtime::watch::WatchReceiver as _};
use pangolin_core::{
    agreement::{HASHES_KEPT, StateHash},
    codec::{CodecError, SectionsReader},
    decide::willingness,
    id::{NodeId, Revision},
    state::ClusterState,
    time::Timestamp,
};
use pangolin_peer::{BoxFuture, Service};
use pangolin_storage::{Entry, LogStore, RaftStore, SnapshotStore, StateDir};
use parking_lot::Mutex;
use tokio::{
    sync::{Semaphore, watch},
    task::JoinHandle,
    time::{Instant, timeout_at},
};

use crate::{
    config::{Clock, RaftConfig, Timing},
    error::{NotYet, RaftError},
    follow::follow,
    log::Log,
    machine::Machine,
    messages::{Answer, Ask, decode, encode},
    nearest::Nearest,
    network::Network,
    propose::IN_FLIGHT_BYTES,
    pulse::beat,
    rounds::Rounds,
    serve::{CONFIRM, Endpoint},
    status::RaftStatus,
    transport::Transport,
    types::Raft,
};

/// How long a planned shutdown waits for another leader.
const HANDOVER: Duration = Duration::from_secs(2);
/// A leader with a wrong clock that found nobody to hand over to tries again after this time.
const STEP_DOWN_RETRY: Duration = Duration::from_secs(10);

/// One node's part in the group; clones share it. It ends with [`Cluster::shutdown`].
#[derive(Clone, Debug)]
pub struct Cluster {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) node: NodeId,
    pub(crate) timing: Timing,
    pub(crate) raft: Raft,
    pub(crate) peers: Arc<dyn Transport>,
    /// Whom a confirmation asks first.
    pub(crate) nearest: Nearest,
    pub(crate) clock: Clock,
    pub(crate) state: watch::Receiver<Arc<ClusterState>>,
    pub(crate) in_flight: Semaphore,
    pub(crate) last_stamp: Mutex<Timestamp>,
    pub(crate) receiving: tokio::sync::Mutex<()>,
    /// Readers, here and on other nodes, that wait for this node's word as the leader.
    pub(crate) confirming: Rounds,
    /// Readers here that wait for the leader's word.
    asking: Rounds,
    /// Whoever leads, as far as this node knows.
    pub(crate) known_leader: watch::Sender<Option<NodeId>>,
    pub(crate) leadership: watch::Sender<Option<u64>>,
    heard: Mutex<Option<Instant>>,
    log: LogStore,
    pub(crate) snapshots: SnapshotStore,
    hashes: Mutex<VecDeque<StateHash>>,
    /// What runs for as long as this value.
    tasks: Mutex<Vec<JoinHandle<()>>>,
    stepped_down: Mutex<Option<Instant>>,
    lock: Mutex<Option<StateDir>>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner").field("node", &self.node).finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.end_tasks();
    }
}

impl Cluster {
    /// Opens the node's store, loads its snapshot, applies the log as far as it is known to be committed, and
    /// takes part from then on.
    ///
    /// # Errors
    /// [`RaftError::Storage`] where the state on disk cannot be used, [`RaftError::Timing`] for a timing that
    /// makes no sense.
    pub async fn start(config: RaftConfig, peers: impl Transport) -> Result<Self, RaftError> {
        let dir = config.dir.clone();
        let store = tokio::task::spawn_blocking(move || RaftStore::open(dir)).await;
        Self::start_on(config, peers, store.map_err(|error| RaftError::Ended(error.to_string()))??).await
    }

    /// Takes part with a store that is open already ([`RaftStore::open_on`], [`RaftStore::simulated`]); `config.dir`
    /// is not used.
    ///
    /// # Errors
    /// As for [`Cluster::start`].
    pub async fn start_on(
        config: RaftConfig,
        peers: impl Transport,
        store: RaftStore,
    ) -> Result<Self, RaftError> {
        Self::begin(config, Arc::new(peers), store).await
    }

    /// Behind a pointer, so that openraft is compiled with this crate and not with each that calls it.
    fn begin(
        config: RaftConfig,
        peers: Arc<dyn Transport>,
        store: RaftStore,
    ) -> BoxFuture<'static, Result<Self, RaftError>> {
        Box::pin(Self::take_part(config, peers, store))
    }

    async fn take_part(
        config: RaftConfig,
        peers: Arc<dyn Transport>,
        store: RaftStore,
    ) -> Result<Self, RaftError> {
        let openraft = Arc::new(config.openraft()?);
        let RaftStore { log, snapshots, snapshot, lock } = store;
        if let Some(Err(CodecError::Level(too_new))) =
            snapshot.as_ref().map(|snapshot| SectionsReader::new(&snapshot.data))
        {
            return Err(too_new.into());
        }
        let machine = Machine::new(snapshots.clone(), snapshot.as_ref())
            .map_err(|error| snapshots.rejoin(format!("the snapshot cannot be read: {error}")))?;
        let (state, checkpoints) = (machine.watch(), machine.checkpoints());
        let nearest = Nearest::default();
        let network = Network {
            node: config.node,
            peers: peers.clone(),
            timing: config.timing,
            nearest: nearest.clone(),
        };
        let raft = Raft::new(config.node.0, openraft, network, Log(log.clone()), machine)
            .await
            .map_err(|error| RaftError::Ended(error.to_string()))?;
        let inner = Arc::new(Inner {
            node: config.node,
            timing: config.timing,
            raft,
            peers: peers.clone(),
            nearest,
            clock: config.clock,
            state,
            in_flight: Semaphore::new(IN_FLIGHT_BYTES),
            last_stamp: Mutex::default(),
            receiving: tokio::sync::Mutex::default(),
            confirming: Rounds::default(),
            asking: Rounds::default(),
            known_leader: watch::Sender::default(),
            leadership: watch::Sender::default(),
            heard: Mutex::default(),
            log,
            snapshots: snapshots.clone(),
            hashes: Mutex::default(),
            tasks: Mutex::default(),
            stepped_down: Mutex::default(),
            lock: Mutex::new(lock),
        });
        // Owned by the value it serves, and ended with it.
        let this = || Arc::downgrade(&inner);
        *inner.tasks.lock() = vec![
            tokio::spawn(follow(this())),
            tokio::spawn(beat(this())),
            tokio::spawn(hash(this(), checkpoints, snapshots)),
        ];
        for service in [Service::Raft, Service::Snapshot, Service::Propose] {
            peers.serve(service, Endpoint { service, inner: Arc::downgrade(&inner) });
        }
        Ok(Self { inner })
    }

    /// Makes a group of this node alone. Only for the first node of a cluster.
    ///
    /// # Errors
    /// [`RaftError::Bootstrapped`] on a node with a history.
    pub async fn bootstrap(&self) -> Result<(), RaftError> {
        let members: BTreeMap<u64, EmptyNode> = [(self.inner.node.0, EmptyNode {})].into();
        match self.inner.raft.initialize(members).await {
            Ok(()) => Ok(()),
            Err(openraft::errors::RaftError::APIError(_)) => Err(RaftError::Bootstrapped),
            Err(error) => Err(RaftError::Ended(error.to_string())),
        }
    }

    /// Whether this node has a history: it was bootstrapped, or has heard from a leader.
    #[must_use]
    pub fn is_bootstrapped(&self) -> bool {
        self.inner.log.state().last.is_some()
    }

    /// Now, as most voters' clocks have it: for what others judge by their clocks, like the validity of a certificate. The
    /// own clock counts where too few are known.
    #[must_use]
    pub fn time_of_most(&self) -> Timestamp {
        let clocks = self.inner.clocks();
        clocks.median().unwrap_or(clocks.own)
    }

    /// The state as far as it has been applied here.
    #[must_use]
    pub fn state(&self) -> Arc<ClusterState> {
        self.inner.state.borrow().clone()
    }

    /// Follows the state.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<ClusterState>> {
        self.inner.state.clone()
    }

    /// Hashes of the state at the latest checkpoints, oldest first: to be compared with those of the other nodes
    /// ([`pangolin_core::agreement`]).
    #[must_use]
    pub fn hashes(&self) -> Vec<StateHash> {
        self.inner.hashes.lock().iter().copied().collect()
    }

    /// Whoever leads, as far as this node knows.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        self.inner.leader()
    }

    /// Follows this node's leadership: its term while it leads with a majority behind it. When a term begins,
    /// this node's state may still lack entries that an earlier leader committed: it has all of them when the
    /// first proposal of the term is applied.
    #[must_use]
    pub fn leadership(&self) -> watch::Receiver<Option<u64>> {
        self.inner.leadership.subscribe()
    }

    /// Waits until the log has been applied up to `revision` on this node.
    ///
    /// # Errors
    /// [`NotYet::Behind`] when the time is over.
    pub async fn wait_applied(&self, revision: Revision, within: Duration) -> Result<(), NotYet> {
        let mut state = self.watch();
        let applied = state.wait_for(|state| state.revision() >= revision);
        match timeout_at(Instant::now() + within, applied).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(NotYet::Behind { applied: self.state().revision(), wanted: revision }),
        }
    }

    /// Waits until this node's state includes everything that was committed when it was called, wherever it was
    /// acknowledged. Returns how far the state goes then.
    ///
    /// # Errors
    /// [`NotYet`] when the time is over.
    pub async fn read_barrier(&self, within: Duration) -> Result<Revision, NotYet> {
        let inner = &self.inner;
        let deadline = Instant::now() + within;
        let index = loop {
            let asked = timeout_at(deadline, inner.ask_read_index()).await;
            match asked.unwrap_or_else(|_| Err("no majority answered in time".into())) {
                Ok(index) => break index,
                Err(reason) if Instant::now() >= deadline => return Err(NotYet::Unconfirmed(reason)),
                Err(_) => inner.pause(deadline).await,
            }
        };
        let mut state = self.watch();
        let applied = state.wait_for(|state| state.revision().index >= index);
        match timeout_at(deadline, applied).await {
            Ok(Ok(state)) => Ok(state.revision()),
            _ => {
                let applied = self.state().revision();
                Err(NotYet::Behind { applied, wanted: Revision { index, ..applied } })
            }
        }
    }

    /// This node's part in the group.
    #[must_use]
    pub fn status(&self) -> RaftStatus {
        let inner = &self.inner;
        let metrics = inner.raft.metrics().borrow_watched().clone();
        let index = |id: &Option<crate::types::LogId>| id.as_ref().map(|id| id.index);
        let membership = metrics.membership_config.membership();
        let leads = metrics.state.is_leader();
        let heard = if leads {
            metrics.last_quorum_acked.map(|at| at.into_inner().elapsed())
        } else {
            inner.heard().map(|at| at.elapsed())
        };
        let progress = metrics.replication.unwrap_or_default();
        RaftStatus {
            node: inner.node,
            state: metrics.state.into(),
            term: metrics.current_term,
            leader: inner.leader(),
            last_log: metrics.last_log_index,
            committed: index(&metrics.local_committed),
            applied: index(&metrics.last_applied),
            snapshot: index(&metrics.snapshot),
            voters: membership.voter_ids().map(NodeId).collect(),
            learners: membership.learner_ids().map(NodeId).collect(),
            progress: progress
                .into_iter()
                .filter(|(node, _)| *node != inner.node.0)
                .map(|(node, matched)| (NodeId(node), matched.map_or(0, |id| id.index)))
                .collect(),
            leader_contact: heard,
        }
    }

    /// Hands the leadership to `to`, or to the other voter that is best placed: one that leads gladly
    /// ([`willingness`]) and has most of the log. Returns who leads then.
    ///
    /// # Errors
    /// [`RaftError::Transfer`] if this node does not lead, or nobody took over.
    pub async fn transfer_leadership(&self, to: Option<NodeId>) -> Result<NodeId, RaftError> {
        let inner = &self.inner;
        let status = self.status();
        let state = self.state();
        let gladly = |node| state.nodes().get(&node).map_or(0, willingness);
        let suspect = |node| inner.peers.is_suspect(node);
        let to = successor(&status, to, suspect, gladly).map_err(RaftError::Transfer)?;
        let mut leader = inner.known_leader.subscribe();
        inner
            .raft
            .trigger()
            .transfer_leader(to.0)
            .await
            .map_err(|error| RaftError::Ended(error.to_string()))?;
        let this = inner.node;
        let taken = leader.wait_for(|leader| leader.is_some_and(|leader| leader != this));
        match timeout_at(Instant::now() + HANDOVER, taken).await {
            Ok(Ok(leader)) => Ok(leader.unwrap_or(to)),
            _ => Err(RaftError::Transfer(format!("node {to} has not taken over within {HANDOVER:?}"))),
        }
    }

    /// Entries of the log as they are stored, from `from` on, as far as they are applied here: the first ones of them
    /// if they have more than `max_bytes` in sum, at least one where there is one. None where the log begins behind
    /// `from`, because a snapshot has taken the place of what was there.
    ///
    /// # Errors
    /// The log cannot be read.
    pub async fn applied_entries(
        &self,
        from: u64,
        max_bytes: usize,
    ) -> Result<Option<Vec<Entry>>, RaftError> {
        let to = self.state().revision().index + 1;
        if from >= to {
            return Ok(Some(Vec::new()));
        }
        let entries = self.inner.log.read(from, to, max_bytes).await?;
        Ok(entries.first().is_some_and(|first| first.id.index == from).then_some(entries))
    }

    /// Asks for a snapshot; it is built in the background.
    ///
    /// # Errors
    /// [`RaftError::Ended`].
    pub async fn snapshot(&self) -> Result<(), RaftError> {
        self.inner.raft.trigger().snapshot().await.map_err(|error| RaftError::Ended(error.to_string()))
    }

    /// Ends this node's part: hands over the leadership, finishes what is being written, releases the state
    /// directory. Nothing is served afterwards.
    pub async fn shutdown(&self) {
        let inner = &self.inner;
        if inner.raft.is_leader()
            && self.status().voters.len() > 1
            && let Err(error) = self.transfer_leadership(None).await
        {
            tracing::warn!(%error, "this node ends while it leads; the others will elect a new leader");
        }
        if let Err(error) = inner.raft.shutdown().await {
            tracing::warn!(%error, "Raft did not end in an orderly way");
        }
        inner.end_tasks();
        inner.known_leader.send_replace(None);
        inner.leadership.send_replace(None);
        inner.log.close().await;
        inner.lock.lock().take();
    }

    /// Waits until Raft or the log store has ended on this node, of its own accord or by
    /// [`Cluster::shutdown`], and says why: the node must end then.
    pub async fn failed(&self) -> RaftError {
        // The metrics of the server change seldom, all others with every heartbeat; both end with Raft.
        let mut server = self.inner.raft.server_metrics();
        let mut store = self.inner.log.failure();
        loop {
            if let Some(error) = store.borrow_and_update().clone() {
                return error.into();
            }
            let running = self.inner.raft.metrics().borrow_watched().running_state.clone();
            if let Err(error) = running {
                return RaftError::Ended(error.to_string());
            }
            let gone = tokio::select! {
                changed = server.changed() => changed.is_err(),
                changed = store.changed() => changed.is_err(),
            };
            if gone {
                let running = self.inner.raft.metrics().borrow_watched().running_state.clone();
                let reason =
                    running.err().map_or_else(|| "it was shut down".into(), |error| error.to_string());
                return RaftError::Ended(reason);
            }
        }
    }
}

impl Inner {
    pub(crate) fn leader(&self) -> Option<NodeId> {
        self.raft.server_metrics().borrow_watched().current_leader.map(NodeId)
    }

    /// Notes that the leader was heard.
    pub(crate) fn note_leader(&self) {
        *self.heard.lock() = Some(Instant::now());
    }

    /// When a leader was heard last.
    pub(crate) fn heard(&self) -> Option<Instant> {
        *self.heard.lock()
    }

    fn end_tasks(&self) {
        for task in self.tasks.lock().drain(..) {
            task.abort();
        }
    }

    /// Hands the leadership over when this node's clock is too far from those of the other voters: what it stamps
    /// would stand still, or be wrong.
    pub(crate) fn step_down_with_a_wrong_clock(self: &Arc<Self>) {
        let Some(error) = self.clocks().own_error() else { return };
        let mut last = self.stepped_down.lock();
        if last.is_some_and(|last| last.elapsed() < STEP_DOWN_RETRY) {
            return;
        }
        *last = Some(Instant::now());
        tracing::warn!(
            seconds = error / 1000,
            "this node's clock is off by that much from those of the other voters: it hands the leadership over; set \
             the clock, and keep it with NTP"
        );
        let cluster = Cluster { inner: self.clone() };
        tokio::spawn(async move {
            if let Err(error) = cluster.transfer_leadership(None).await {
                tracing::warn!(%error, "the leadership was not handed over");
            }
        });
    }

    /// How far the log is committed, by the leader's word, given after this call.
    async fn ask_read_index(self: &Arc<Self>) -> Result<u64, String> {
        match self.leader() {
            None => Err("no leader is known".into()),
            Some(leader) if leader == self.node => self.read_index().await,
            Some(leader) => {
                let inner = Arc::downgrade(self);
                let ask = move || {
                    let inner = inner.upgrade();
                    async move { inner.ok_or("the node is stopping")?.ask_leader(leader).await }
                };
                self.asking.ask(ask).await
            }
        }
    }

    async fn ask_leader(&self, leader: NodeId) -> Result<u64, String> {
        let ask = encode(&Ask::ReadIndex)?;
        let answer = self.peers.request(leader, Service::Raft, ask, CONFIRM).await;
        match decode(&answer.map_err(|error| error.to_string())?)? {
            Answer::ReadIndex(index) => Ok(index),
            _ => Err(format!("node {leader} answered another question")),
        }
    }

    /// The term in which this node leads with a majority behind it, and how long that is certain.
    pub(crate) fn led_term(&self) -> Option<(u64, Duration)> {
        let leader = self.raft.as_leader().ok()?;
        // openraft's last word about the leadership outlives it.
        self.raft.metrics().borrow_watched().running_state.as_ref().ok()?;
        let term = leader.leader_id().term;
        let voters: BTreeSet<u64> = self.raft.voter_ids().collect();
        // A single voter is its own majority, and nobody acknowledges anything to it.
        if voters.iter().eq([&self.node.0]) {
            return Some((term, self.timing.election_max));
        }
        let left = self.timing.election_max.checked_sub(leader.last_quorum_acked()?.elapsed())?;
        // A lease that ends now has ended: whoever waits for no time at all does not wait.
        (!left.is_zero()).then_some((term, left))
    }
}

/// Hashes the state at checkpoints, always the latest one: a node that catches up passes many.
async fn hash(
    inner: std::sync::Weak<Inner>,
    mut checkpoints: watch::Receiver<Option<Arc<ClusterState>>>,
    snapshots: SnapshotStore,
) {
    while checkpoints.changed().await.is_ok() {
        let Some(state) = checkpoints.borrow_and_update().clone() else { continue };
        let revision = state.revision();
        // Where snapshots are encoded as well: it takes as long as one.
        let digest = match snapshots.run_aside(move |_| state.digest().map_err(io::Error::other)).await {
            Ok(digest) => digest,
            Err(error) => {
                tracing::warn!(%revision, %error, "the state could not be hashed");
                continue;
            }
        };
        let Some(inner) = inner.upgrade() else { return };
        let mut hashes = inner.hashes.lock();
        hashes.push_back(StateHash { revision, digest });
        while hashes.len() > HASHES_KEPT {
            hashes.pop_front();
        }
    }
}

/// Whom to hand the leadership to. The error says why nobody.
fn successor(
    status: &RaftStatus,
    wanted: Option<NodeId>,
    suspect: impl Fn(NodeId) -> bool,
    gladly: impl Fn(NodeId) -> u8,
) -> Result<NodeId, String> {
    if status.leader != Some(status.node) {
        return Err(format!("node {} does not lead", status.node));
    }
    let others: BTreeSet<NodeId> =
        status.voters.iter().copied().filter(|node| *node != status.node).collect();
    if let Some(wanted) = wanted {
        return match others.contains(&wanted) {
            true => Ok(wanted),
            false => Err(format!("node {wanted} is no other voter")),
        };
    }
    // Those that can be reached first, then those that lead gladly, then those with most of the log, then the lowest
    // id.
    let rank = |node: &NodeId| {
        let matched = status.progress.get(node).copied().unwrap_or(0);
        (!suspect(*node), gladly(*node), matched, std::cmp::Reverse(*node))
    };
    others.into_iter().max_by_key(rank).ok_or("there is no other voter".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::ServerState;

    #[test]
    fn the_leadership_goes_to_the_voter_that_is_best_placed() {
        let nodes = |ids: &[u64]| ids.iter().copied().map(NodeId).collect();
        let status = |leader, progress: &[(u64, u64)]| RaftStatus {
            node: NodeId(1),
            state: ServerState::Leader,
            term: 1,
            leader: Some(NodeId(leader)),
            last_log: None,
            committed: None,
            applied: None,
            snapshot: None,
            voters: nodes(&[1, 2, 3]),
            learners: nodes(&[4]),
            progress: progress.iter().map(|(node, matched)| (NodeId(*node), *matched)).collect(),
            leader_contact: None,
        };
        let cases = [
            (status(1, &[(2, 5), (3, 9), (4, 99)]), None, None, Some(3)),
            (status(1, &[(2, 5), (3, 9)]), None, Some(3), Some(2)),
            (status(1, &[(2, 9), (3, 9)]), None, None, Some(2)),
            (status(1, &[]), Some(3), Some(3), Some(3)),
            (status(1, &[]), Some(4), None, None),
            (status(1, &[]), Some(1), None, None),
            (status(2, &[]), None, None, None),
        ];
        for (status, wanted, suspect, chosen) in cases {
            let suspect = |node| Some(node) == suspect.map(NodeId);
            let got = successor(&status, wanted.map(NodeId), suspect, |_| 3);
            assert_eq!(got.ok(), chosen.map(NodeId), "{wanted:?} of {status:?}");
        }
        let ahead = status(1, &[(2, 5), (3, 9)]);
        let drained = |node: NodeId| if node.0 == 3 { 2 } else { 3 };
        assert_eq!(successor(&ahead, None, |_| false, drained), Ok(NodeId(2)), "the other one is drained");
    }
}
