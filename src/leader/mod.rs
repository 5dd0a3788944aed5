//! Duties that only the leader has. They are alive for one term: gained with it, dropped with it.

mod certificates;
mod members;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use pangolin_core::{Body, Cause, Fence, NodeId, Refusal, command::Actor, decide::decide};
use pangolin_peer::{Peers, identity::Keyring};
use pangolin_raft::{Cluster, Leader, Proposal};
use parking_lot::Mutex;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{clock, local::reports::Reports};

/// How often the leader looks at everything though nothing was reported.
const TICK: Duration = Duration::from_millis(200);
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
    /// Seals the keys of new certificates.
    pub keyring: Arc<Keyring>,
    /// Nodes that are being taken out: they must not be taken in again meanwhile.
    pub leaving: Mutex<BTreeSet<NodeId>>,
}

/// Marks a node as leaving as long as it lives.
struct Leaving<'a> {
    all: &'a Mutex<BTreeSet<NodeId>>,
    node: NodeId,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.all.lock().remove(&self.node);
    }
}

impl Leading {
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
        while let Err(reason) = self.take_up(term).await {
            debug!(term, reason, "leadership is not announced yet");
            sleep(RETRY).await;
        }
        tokio::join!(self.decide_loop(), self.members_loop(), self.certificates_loop());
    }

    /// Makes the term known in the state: from here on, decisions of earlier terms are refused.
    async fn take_up(&self, term: u64) -> Result<(), String> {
        let cause = Cause::new(Actor::Leader(self.node), "elected");
        self.lead(cause, Fence::None, Body::LeaderStarted { term, node: self.node }).await
    }

    /// Brings a decision of this leadership into the log.
    pub(crate) async fn lead(&self, cause: Cause, fence: Fence, body: Body) -> Result<(), String> {
        let leader = self.cluster.lead().ok_or("this node does not lead any more")?;
        let committed = leader
            .propose(Proposal { request: None, cause, fence, body })
            .await
            .map_err(|error| error.to_string())?;
        match committed.outcome.into_result() {
            Ok(_) => Ok(()),
            // Somebody was faster, or the state has moved on: the next look decides anew.
            Err(refusal @ (Refusal::StaleTerm { .. } | Refusal::StaleEpoch { .. })) => {
                debug!(%refusal, "a decision came late");
                Ok(())
            }
            Err(refusal) => Err(refusal.to_string()),
        }
    }

    async fn decide_loop(&self) {
        let mut changes = self.reports.changes();
        loop {
            let state = self.cluster.state();
            if state.cluster().is_some() {
                for command in decide(&state, &self.reports.snapshot(), self.node, clock::steady()) {
                    let what = command.to_string();
                    info!(decision = what, "deciding");
                    if let Err(reason) = self.lead(command.cause, command.fence, command.body).await {
                        warn!(decision = what, reason, "a decision could not be committed");
                        break;
                    }
                }
            }
            tokio::select! {
                () = sleep(TICK) => {}
                _ = changes.changed() => sleep(TICK / 4).await,
            }
        }
    }

    async fn members_loop(&self) {
        let mut members = members::Members::default();
        loop {
            if let Some(leader) = self.cluster.lead()
                && let Err(reason) = self.tend(&leader, &mut members).await
            {
                warn!(reason, "the voters could not be brought in line with the nodes");
            }
            sleep(RETRY).await;
        }
    }

    /// One step towards the voters that are wanted.
    async fn tend(&self, leader: &Leader<'_>, members: &mut members::Members) -> Result<(), String> {
        let state = self.cluster.state();
        let status = self.cluster.status();
        let leaving = self.leaving.lock().clone();
        let alive = |node| node == self.node || (!self.peers.is_suspect(node) && !leaving.contains(&node));
        let Some(step) = members.next_step(&state, &status, alive, std::time::Instant::now()) else {
            return Ok(());
        };
        info!(?step, "changing the membership");
        match step {
            members::Step::AddLearner(node) => leader.add_learner(node).await,
            members::Step::Promote(node) => leader.promote(node).await,
            members::Step::Remove(node) => leader.remove(node).await,
        }
        .map_err(|error| format!("{step:?}: {error}"))
    }

    /// Takes another node out of the cluster: out of the voters first, because they have to agree while it can
    /// still be heard, then out of the state, from where on every node refuses it.
    ///
    /// # Errors
    /// This node does not lead (any more), or the voters could not be changed. Repeating it is safe.
    pub async fn remove(&self, node: NodeId, cause: Cause) -> Result<(), String> {
        self.leaving.lock().insert(node);
        // Also when whoever asked goes away meanwhile: a node that stays must be taken in again.
        let _leaving = Leaving { all: &self.leaving, node };
        self.remove_in_order(node, cause).await
    }

    async fn remove_in_order(&self, node: NodeId, cause: Cause) -> Result<(), String> {
        let leader = self.cluster.lead().ok_or("this node does not lead any more")?;
        leader.remove(node).await.map_err(|error| error.to_string())?;
        self.lead(cause, Fence::None, Body::NodeRemoved(node)).await
    }

    async fn certificates_loop(&self) {
        let mut states = self.cluster.watch();
        loop {
            let state = states.borrow_and_update().clone();
            for names in pangolin_core::decide::certificates_due(&state, clock::now()) {
                match certificates::issue(&state, &self.keyring, names.clone()).await {
                    Ok(issued) => {
                        let cause =
                            Cause::new(Actor::Leader(self.node), "missing, or a third of its life is left");
                        let fence = Fence::Term(state.leadership().map_or(0, |leadership| leadership.term));
                        let body = Body::CertificateIssued(Box::new(issued));
                        match self.lead(cause, fence, body).await {
                            Ok(()) => info!(?names, "issued a certificate"),
                            Err(reason) => warn!(?names, reason, "a certificate could not be committed"),
                        }
                    }
                    Err(reason) => warn!(?names, reason, "a certificate could not be issued"),
                }
            }
            tokio::select! {
                _ = states.changed() => sleep(TICK).await,
                () = sleep(Duration::from_secs(60)) => {}
            }
        }
    }
}
