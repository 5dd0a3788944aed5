//! Duties that only the leader has. They are alive for one term: gained with it, dropped with it.

mod certificates;
mod distance;
mod issuance;
mod keyring;
mod members;

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use pangolin_core::{
    Body, Cause, ClusterState, Fence, NodeId, Refusal, Revision,
    command::Actor,
    decide::{
        Step, Voting, certificate_cause, certificates_due, certificates_unneeded, decide, elected, hand_over,
        next_step,
    },
    record::{AdminState, NodeRole},
};
use pangolin_peer::Peers;
use pangolin_raft::{Cluster, Leader, Proposal, Timing};
use parking_lot::Mutex;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{
    clock,
    keys::Keys,
    local::{pace::rest_after, reports::Reports, txt::OwnDns},
};

/// How often the leader looks at everything though nothing was reported.
const TICK: Duration = Duration::from_millis(200);
/// How often the leader looks at Raft's members.
const LOOK_EVERY: Duration = Duration::from_millis(400);
/// Pause before a duty that failed is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// Runs the leader's duties whenever this node leads.
pub struct Leading {
    /// This node.
    pub node: NodeId,
    /// The cluster.
    pub cluster: Cluster,
    /// Who can be reached.
    pub peers: Peers,
    /// What is seen.
    pub reports: Reports,
    /// Seals the keys of new certificates; a witness has none.
    pub keyring: Option<Keys>,
    /// What this node's DNS answers.
    pub own_dns: OwnDns,
    /// When leaders are given up.
    timing: Timing,
    members: Mutex<members::Members>,
    distance: Mutex<distance::Distance>,
}

impl Leading {
    /// The duties of a node; none is done before [`Leading::run`].
    #[must_use]
    pub fn new(
        node: NodeId,
        cluster: Cluster,
        peers: Peers,
        reports: Reports,
        keyring: Option<Keys>,
        own_dns: OwnDns,
        timing: Timing,
    ) -> Self {
        let (members, distance) = (Mutex::default(), Mutex::default());
        Self { node, cluster, peers, reports, keyring, own_dns, timing, members, distance }
    }

    /// Runs until told to end.
    ///
    /// # Errors
    /// None: what fails in a term is tried again in it, or by the next leader.
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) -> Result<(), std::convert::Infallible> {
        let mut leadership = self.cluster.leadership();
        loop {
            let term = *leadership.borrow_and_update();
            let changed = async {
                // The sender lives as long as the cluster handle that this value holds.
                let _ = leadership.changed().await;
            };
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = changed => {}
                () = self.serve(term) => {}
            }
        }
    }

    /// The duties of one term; ends only by being dropped.
    async fn serve(&self, term: Option<u64>) {
        let Some(term) = term else { return std::future::pending().await };
        info!(term, "this node leads");
        *self.members.lock() = members::Members::default();
        *self.distance.lock() = distance::Distance::default();
        while let Err(reason) = self.take_up(term).await {
            debug!(term, reason, "leadership is not announced yet");
            sleep(RETRY).await;
        }
        match &self.keyring {
            Some(keyring) => {
                tokio::join!(
                    self.decide_loop(),
                    self.members_loop(),
                    self.certificates_loop(keyring),
                    self.issuance_loop(keyring),
                    self.keyring_loop(keyring),
                );
            }
            // A witness leads only until a data node can.
            None => self.hand_over_loop().await,
        }
    }

    /// Makes the term known in the state: from here on, decisions of earlier terms are refused.
    async fn take_up(&self, term: u64) -> Result<(), String> {
        let cause = elected(&self.cluster.state(), &self.reports.snapshot(), self.node, clock::steady());
        self.lead(cause, Fence::None, Body::LeaderStarted { term, node: self.node }).await.map(drop)
    }

    /// Brings a decision of this leadership into the log. Returns where it stands there.
    pub(crate) async fn lead(&self, cause: Cause, fence: Fence, body: Body) -> Result<Revision, String> {
        let leader = self.cluster.lead().ok_or("this node does not lead any more")?;
        let committed = leader
            .propose(Proposal { request: None, cause, fence, body })
            .await
            .map_err(|error| error.to_string())?;
        match committed.outcome.into_result() {
            Ok(_) => Ok(committed.revision),
            // Somebody was faster, or the state has moved on: the next look decides anew.
            Err(
                refusal @ (Refusal::StaleTerm { .. }
                | Refusal::StaleEpoch { .. }
                | Refusal::StaleRevision { .. }),
            ) => {
                debug!(%refusal, "a decision came late");
                Ok(committed.revision)
            }
            Err(refusal) => Err(refusal.to_string()),
        }
    }

    async fn decide_loop(&self) {
        let mut changes = self.reports.changes();
        loop {
            let state = self.cluster.state();
            let began = Instant::now();
            let decided = if state.cluster().is_some() {
                decide(&state, &self.reports.snapshot(), self.node, clock::steady())
            } else {
                Vec::new()
            };
            let rest = rest_after(began.elapsed()).max(TICK / 4);
            for command in decided {
                let what = command.to_string();
                info!(decision = what, "deciding");
                if let Err(reason) = self.lead(command.cause, command.fence, command.body).await {
                    warn!(decision = what, reason, "a decision could not be committed");
                    break;
                }
            }
            tokio::select! {
                () = self.peers.beat(TICK) => {}
                _ = changes.changed() => sleep(rest).await,
            }
        }
    }

    /// Raft's membership, and how its members look from here.
    #[must_use]
    pub fn voting(&self) -> Voting {
        let seen = self.peers.seen();
        let others = seen.borrow();
        let alive: BTreeSet<NodeId> =
            others.iter().filter(|(_, seen)| seen.alive).map(|(node, _)| *node).chain([self.node]).collect();
        self.members.lock().look(&self.cluster.status(), alive, Instant::now())
    }

    /// What an operator should know of the distances between the voters.
    #[must_use]
    pub fn timing_advice(&self, state: &ClusterState, voting: &Voting) -> Option<String> {
        let measured = voting.voters.iter().filter_map(|node| Some((*node, self.peers.rtt(*node)?)));
        let far = self.distance.lock().look(self.timing, measured, Instant::now());
        distance::advice(state, self.timing, &far)
    }

    async fn hand_over_loop(&self) {
        loop {
            self.hand_over(&self.cluster.state(), &self.voting()).await;
            sleep(RETRY).await;
        }
    }

    async fn members_loop(&self) {
        let mut told = false;
        loop {
            let (state, voting) = (self.cluster.state(), self.voting());
            let advice = self.timing_advice(&state, &voting);
            if told != advice.is_some() {
                if let Some(advice) = &advice {
                    warn!("{advice}");
                }
                told = advice.is_some();
            }
            let mut more = false;
            if !self.hand_over(&state, &voting).await
                && let Some(leader) = self.cluster.lead()
            {
                match self.tend(&leader, &state, &voting).await {
                    // One step is seldom the last: the next voter follows the first one.
                    Ok(taken) => more = taken,
                    Err(reason) => warn!(reason, "the voters could not be brought in line with the nodes"),
                }
            }
            if more {
                sleep(TICK / 4).await;
            } else {
                self.peers.beat(LOOK_EVERY).await;
            }
        }
    }

    /// Hands the leadership to a node that leads more gladly, if there is one. It is tried again if it fails.
    async fn hand_over(&self, state: &ClusterState, voting: &Voting) -> bool {
        let Some(to) = hand_over(state, voting, self.node) else { return false };
        let witness = state.nodes().get(&self.node).is_some_and(|node| node.spec.role == NodeRole::Witness);
        let reason = if witness { "this node is a witness" } else { "this node gives its work away" };
        info!(%to, reason, "handing the leadership over");
        if let Err(error) = self.cluster.transfer_leadership(Some(to)).await {
            debug!(%error, "the leadership was not handed over yet");
        }
        true
    }

    /// One step towards the voters that are wanted. Whether there was one to take.
    async fn tend(&self, leader: &Leader<'_>, state: &ClusterState, voting: &Voting) -> Result<bool, String> {
        leader.finish_change().await.map_err(|error| error.to_string())?;
        let Some(step) = next_step(state, voting, self.node, clock::now()) else { return Ok(false) };
        info!(?step, "changing the membership");
        match &step {
            Step::AddLearner(node) => leader.add_learner(*node).await.map_err(|error| error.to_string()),
            Step::Promote(node) => leader.promote(*node).await.map_err(|error| error.to_string()),
            Step::Exchange { out, into } => {
                leader.exchange(*out, *into).await.map_err(|error| error.to_string())
            }
            Step::Retire { node, reason } => {
                let cause = Cause::new(Actor::Leader(self.node), reason);
                let body = Body::NodeAdmin { node: *node, admin: AdminState::Leaving };
                self.lead(cause, Fence::Term(leader.term()), body).await.map(drop)
            }
            Step::Remove(node) => self.remove(leader, state, *node).await,
        }
        .map(|()| true)
        .map_err(|error| format!("{step:?}: {error}"))
    }

    /// Takes a node out for good: out of Raft first, because its members have to agree while it can still be heard,
    /// then out of the state, from where on every node refuses it. Whoever asked for it stands behind both.
    async fn remove(&self, leader: &Leader<'_>, state: &ClusterState, node: NodeId) -> Result<(), String> {
        leader.remove(node).await.map_err(|error| error.to_string())?;
        let Some(known) = state.nodes().get(&node) else { return Ok(()) };
        self.lead(known.admin_cause.clone(), Fence::Term(leader.term()), Body::NodeRemoved(node))
            .await
            .map(drop)
    }

    async fn certificates_loop(&self, keyring: &Keys) {
        let mut states = self.cluster.watch();
        loop {
            let state = states.borrow_and_update().clone();
            let fence = Fence::Term(state.leadership().map_or(0, |leadership| leadership.term));
            let now = self.cluster.time_of_most();
            for names in certificates_due(&state, now) {
                match certificates::issue(&state, keyring.now(), names.clone(), now).await {
                    Ok(issued) => {
                        let cause = certificate_cause(&state, &names, self.node);
                        let body = Body::CertificateIssued(Box::new(issued));
                        match self.lead(cause, fence, body).await {
                            Ok(_) => info!(?names, "issued a certificate"),
                            Err(reason) => warn!(?names, reason, "a certificate could not be committed"),
                        }
                    }
                    Err(reason) => warn!(?names, reason, "a certificate could not be issued"),
                }
            }
            for id in certificates_unneeded(&state) {
                let cause = Cause::new(Actor::Leader(self.node), "nothing needs its names any more");
                if let Err(reason) = self.lead(cause, fence, Body::CertificateRemoved(id)).await {
                    warn!(certificate = %id, reason, "a certificate that is not needed stays for now");
                }
            }
            tokio::select! {
                _ = states.changed() => sleep(TICK).await,
                () = sleep(Duration::from_secs(60)) => {}
            }
        }
    }
}
