//! The way of a change into the log, from any node.
//!
//! Each attempt ends in one of three ways, and they are never mixed up: committed, certainly not in the log, or
//! unknown. While nothing can have been appended, any node may try again; once something may have been, only a
//! request with an id is tried again, because `apply` recognises it.

use std::time::Duration;

use openraft::{errors::ClientWriteError, impls::ProgressResponder};
use pangolin_core::{
    codec::{self, COMMAND_MAX},
    command::{Body, Cause, Command, Fence},
    feature,
    id::{NodeId, RequestId, Revision},
    outcome::Outcome,
    state::ClusterState,
    time::{Clocks, Timestamp},
};
use pangolin_peer::Service;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::SemaphorePermit,
    time::{Instant, timeout, timeout_at},
};

use crate::{
    cluster::{Cluster, Inner},
    error::ProposeError,
    messages::{Attempt, Forwarded, decode, encode},
    types::{LeaderId, Request},
};

/// How long a proposal is tried, all in all. Whoever cannot write is told so within 2 s, the way to and fro included.
pub const PROPOSE_DEADLINE: Duration = Duration::from_millis(1800);
/// Bytes of proposals that are under way on one node; beyond it new ones are refused, because a disk that falls
/// behind would otherwise look like a dead leader.
pub const IN_FLIGHT_BYTES: usize = 16 * 1024 * 1024;
/// Least share of a proposal: bounds their number (1024).
const SHARE_MIN: usize = 16 * 1024;
/// Pause between two attempts, unless the leader changes.
const RETRY: Duration = Duration::from_millis(20);
/// A forwarded proposal waits at most so long at the leader, whatever the asker says.
const FORWARDED_MAX: Duration = PROPOSE_DEADLINE;

/// A change that somebody wants to see in the log. The leader adds the time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    /// Names the request, so that it is done once.
    pub request: Option<RequestId>,
    /// Why.
    pub cause: Cause,
    /// Until when it holds.
    pub fence: Fence,
    /// What.
    pub body: Body,
}

/// A change that is in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Committed {
    /// Where; of a repeated request, where it was done first.
    pub revision: Revision,
    /// What became of it.
    pub outcome: Outcome,
}

impl Proposal {
    fn at(self, at: Timestamp) -> Command {
        let Self { request, cause, fence, body } = self;
        Command { request, at, cause, fence, body }
    }

    /// Whether a state's feature level includes it. A command that some node does not understand must never get into
    /// the log: that node could not go on.
    pub(crate) fn check_level(&self, state: &ClusterState) -> Result<(), ProposeError> {
        // Without a cluster there is nothing but what makes one, which is of the first level.
        let (needed, committed) = (self.body.feature_level(), state.feature_level().max(feature::FIRST));
        if needed <= committed {
            return Ok(());
        }
        Err(ProposeError::Level { what: self.body.name(), needed, committed })
    }

    /// Bytes in the log, at most.
    pub(crate) fn size(&self) -> Result<usize, ProposeError> {
        let size = codec::encode(&self.clone().at(Timestamp(u64::MAX))).map(|bytes| bytes.len());
        match size {
            Ok(size) if size <= COMMAND_MAX => Ok(size),
            Ok(size) => Err(ProposeError::TooLarge { size, limit: COMMAND_MAX }),
            Err(error) => Err(ProposeError::NotAppended { reason: error.to_string() }),
        }
    }
}

impl Cluster {
    /// Brings a change into the log; on any node. Returns when it is committed and applied on the leader: this
    /// node may be a moment behind ([`Cluster::wait_applied`]). During an election it waits, up to
    /// [`PROPOSE_DEADLINE`].
    ///
    /// # Errors
    /// [`ProposeError`] says whether the change may have been made.
    pub async fn propose(&self, proposal: Proposal) -> Result<Committed, ProposeError> {
        let inner = &self.inner;
        proposal.check_level(&inner.state.borrow())?;
        let _permit = inner.admit(proposal.size()?).map_err(|reason| ProposeError::NotAppended { reason })?;
        let deadline = Instant::now() + PROPOSE_DEADLINE;
        let mut not_yet = "no leader is known".to_owned();
        let mut perhaps = None;
        while Instant::now() < deadline {
            if perhaps.is_some()
                && let Some(request) = proposal.request
                && let Some((revision, outcome)) = inner.state.borrow().outcome_of(request)
            {
                return Ok(Committed { revision, outcome });
            }
            match inner.attempt(&proposal, deadline).await {
                Attempt::Committed(committed) => return Ok(committed),
                Attempt::NotAppended(reason) => not_yet = reason,
                Attempt::Unknown(reason) if proposal.request.is_none() => {
                    return Err(ProposeError::OutcomeUnknown { request: None, reason });
                }
                Attempt::Unknown(reason) => perhaps = Some(reason),
            }
            inner.pause(deadline).await;
        }
        Err(match perhaps {
            Some(reason) => ProposeError::OutcomeUnknown { request: proposal.request, reason },
            None => ProposeError::NotAppended { reason: not_yet },
        })
    }
}

impl Inner {
    /// Takes a share of what may be under way.
    pub(crate) fn admit(&self, size: usize) -> Result<SemaphorePermit<'_>, String> {
        let share = u32::try_from(size.clamp(SHARE_MIN, IN_FLIGHT_BYTES)).unwrap_or(u32::MAX);
        self.in_flight
            .try_acquire_many(share)
            .map_err(|_| format!("too many changes are under way on node {}; try again", self.node))
    }

    async fn attempt(&self, proposal: &Proposal, deadline: Instant) -> Attempt {
        match self.leader() {
            None => Attempt::NotAppended("no leader is known".into()),
            Some(leader) if leader == self.node => {
                let within = deadline.saturating_duration_since(Instant::now());
                self.write(proposal.clone(), None, within).await
            }
            Some(leader) => self.forward(proposal, leader, deadline).await,
        }
    }

    async fn forward(&self, proposal: &Proposal, leader: NodeId, deadline: Instant) -> Attempt {
        let left = deadline.saturating_duration_since(Instant::now());
        // With an id, another leader can be asked in time; without one, this is the only try.
        let patience = if proposal.request.is_some() { self.timing.election_max * 2 } else { left };
        let within = left.min(patience);
        let forwarded = Forwarded {
            proposal: proposal.clone(),
            within: u64::try_from(within.as_millis()).unwrap_or(u64::MAX),
        };
        let bytes = match encode(&forwarded) {
            Ok(bytes) => bytes,
            Err(error) => return Attempt::NotAppended(error),
        };
        match self.peers.request(leader, Service::Propose, bytes, within).await {
            Ok(answer) => decode(&answer).unwrap_or_else(|error| {
                Attempt::Unknown(format!("the answer of the leader, node {leader}, cannot be read: {error}"))
            }),
            Err(error) if error.not_delivered() => Attempt::NotAppended(error.to_string()),
            Err(error) => Attempt::Unknown(error.to_string()),
        }
    }

    /// Answers a proposal that another node has forwarded.
    pub(crate) async fn forwarded(&self, forwarded: Forwarded) -> Attempt {
        let Forwarded { proposal, within } = forwarded;
        let _permit =
            match proposal.size().map_err(|error| error.to_string()).and_then(|size| self.admit(size)) {
                Ok(permit) => permit,
                Err(reason) => return Attempt::NotAppended(reason),
            };
        self.write(proposal, None, Duration::from_millis(within).min(FORWARDED_MAX)).await
    }

    /// Writes as the leader, in any term or only in that of `expected`.
    pub(crate) async fn write(
        &self,
        proposal: Proposal,
        expected: Option<LeaderId>,
        within: Duration,
    ) -> Attempt {
        // The one place where commands are appended. This state may lack the latest entries, but a level never falls.
        if let Err(error) = proposal.check_level(&self.state.borrow()) {
            return Attempt::NotAppended(error.to_string());
        }
        #[cfg(planted)]
        let hasty = proposal.request.is_some()
            && pangolin_core::planted::is(pangolin_core::planted::Bug::ReplyBeforeCommit);
        let command = Request(proposal.at(self.stamp()).into());
        let (responder, answer) = ProgressResponder::complete_only();
        let mut write = self.raft.write(command).responder(responder);
        if let Some(expected) = expected {
            write = write.with_leader(expected);
        }
        let written = async {
            // An error here means that openraft's queue is gone: nobody has taken the command.
            if let Err(error) = write.await {
                return Attempt::NotAppended(error.to_string());
            }
            #[cfg(planted)]
            if hasty {
                let applied = self.state.borrow().revision();
                let revision = Revision { index: applied.index + 1, ..applied };
                return Attempt::Committed(Committed { revision, outcome: Outcome::Done(None) });
            }
            match answer.await {
                Ok(Ok(done)) => {
                    Attempt::Committed(Committed { revision: done.data.revision, outcome: done.data.outcome })
                }
                Ok(Err(ClientWriteError::ForwardToLeader(to))) => Attempt::NotAppended(match to.leader_id {
                    Some(leader) => format!("node {} does not lead, node {leader} does", self.node),
                    None => format!("node {} has no majority behind it", self.node),
                }),
                Ok(Err(error)) => Attempt::Unknown(error.to_string()),
                Err(_) => Attempt::Unknown(format!("Raft has ended on node {}", self.node)),
            }
        };
        timeout(within, written)
            .await
            .unwrap_or_else(|_| Attempt::Unknown("it was not committed in time".into()))
    }

    /// Waits a moment, or for another leader.
    pub(crate) async fn pause(&self, deadline: Instant) {
        let mut leader = self.known_leader.subscribe();
        leader.borrow_and_update();
        let _ = timeout_at(deadline.min(Instant::now() + RETRY), leader.changed()).await;
    }

    /// The time for a command: never before that of an earlier one, nor far ahead of what most voters' clocks say.
    fn stamp(&self) -> Timestamp {
        let clocks = self.clocks();
        let mut last = self.last_stamp.lock();
        *last = clocks.log_time((*last).max(self.state.borrow().time()));
        *last
    }

    /// The voters' clocks, as far as they have told.
    pub(crate) fn clocks(&self) -> Clocks {
        let voters: Vec<u64> = self.raft.voter_ids().collect();
        let others = voters.iter().filter(|id| **id != self.node.0);
        Clocks {
            own: self.clock.now(),
            others: others.filter_map(|id| self.peers.clock_of(NodeId(*id))).collect(),
            voters: voters.len(),
        }
    }
}
