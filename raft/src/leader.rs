//! What only a leader may do.

use std::{collections::BTreeSet, time::Duration};

use openraft::{
    ChangeMembers, EmptyNode, Precondition,
    async_runtime::watch::WatchReceiver as _,
    errors::{ClientWriteError, RaftError as OpenraftError},
};
use pangolin_core::id::NodeId;
use tokio::time::{Instant, timeout};

use crate::{
    cluster::{Cluster, Inner},
    error::{MembershipError, ProposeError},
    messages::Attempt,
    propose::{Committed, PROPOSE_DEADLINE, Proposal},
    types::{LeaderId, StoredMembership, TypeConfig},
};

/// How long a change of the membership may take: two entries, each within the time of a proposal.
const CHANGE_DEADLINE: Duration = Duration::from_secs(4);

/// The leadership of one term. It may be lost while this value lives: whatever is asked of it is then refused.
#[derive(Clone, Copy, Debug)]
pub struct Leader<'a> {
    inner: &'a Inner,
    id: LeaderId,
}

impl Cluster {
    /// The leadership, if this node has it.
    #[must_use]
    pub fn lead(&self) -> Option<Leader<'_>> {
        let leader = self.inner.raft.as_leader().ok()?;
        let id = leader.to_committed_leader_id();
        Some(Leader { inner: &self.inner, id })
    }
}

impl Leader<'_> {
    /// The term.
    #[must_use]
    pub fn term(&self) -> u64 {
        self.id.term
    }

    /// Brings a decision into the log, if this leadership still stands when it gets there.
    ///
    /// # Errors
    /// As for [`Cluster::propose`]; another leader is never asked.
    pub async fn propose(&self, proposal: Proposal) -> Result<Committed, ProposeError> {
        proposal.check_level(&self.inner.state.borrow())?;
        let size = proposal.size()?;
        let _permit = self.inner.admit(size).map_err(|reason| ProposeError::NotAppended { reason })?;
        let deadline = Instant::now() + PROPOSE_DEADLINE;
        loop {
            let within = deadline.saturating_duration_since(Instant::now());
            let attempt = self.inner.write(proposal.clone(), Some(self.id), within).await;
            match attempt {
                Attempt::Committed(committed) => return Ok(committed),
                Attempt::Unknown(reason) => {
                    return Err(ProposeError::OutcomeUnknown { request: proposal.request, reason });
                }
                // A leader that was just elected may not have heard from a majority yet.
                Attempt::NotAppended(reason) => {
                    if !self.stands() || Instant::now() >= deadline {
                        return Err(ProposeError::NotAppended { reason });
                    }
                }
            }
            self.inner.pause(deadline).await;
        }
    }

    /// Those who vote.
    #[must_use]
    pub fn voters(&self) -> BTreeSet<NodeId> {
        self.membership().voter_ids().map(NodeId).collect()
    }

    /// Those who only replicate.
    #[must_use]
    pub fn learners(&self) -> BTreeSet<NodeId> {
        self.membership().membership().learner_ids().map(NodeId).collect()
    }

    /// Lets a node replicate the log. It does not vote yet. Nothing happens if it is a member.
    ///
    /// # Errors
    /// [`MembershipError`].
    pub async fn add_learner(&self, node: NodeId) -> Result<(), MembershipError> {
        let membership = self.membership();
        if membership.get_node(&node.0).is_some() {
            return Ok(());
        }
        let nodes = [(node.0, EmptyNode {})].into_iter().collect();
        self.change(&membership, ChangeMembers::AddNodes(nodes), true).await
    }

    /// Lets a learner vote. Nothing happens if it does.
    ///
    /// # Errors
    /// [`MembershipError`].
    pub async fn promote(&self, node: NodeId) -> Result<(), MembershipError> {
        let membership = self.membership();
        if membership.voter_ids().any(|voter| voter == node.0) {
            return Ok(());
        }
        if membership.get_node(&node.0).is_none() {
            return Err(MembershipError::NoLearner(node));
        }
        self.change(&membership, ChangeMembers::AddVoterIds([node.0].into()), true).await
    }

    /// Lets a learner vote in the place of a voter, which goes on as a learner: one change, through a joint
    /// membership. Nothing happens if both are so already.
    ///
    /// # Errors
    /// [`MembershipError`].
    pub async fn exchange(&self, out: NodeId, into: NodeId) -> Result<(), MembershipError> {
        let membership = self.membership();
        let before: BTreeSet<u64> = membership.voter_ids().collect();
        if out == self.inner.node {
            return Err(MembershipError::IsLeader(out));
        }
        if membership.get_node(&into.0).is_none() {
            return Err(MembershipError::NoLearner(into));
        }
        let mut after = before.clone();
        after.remove(&out.0);
        after.insert(into.0);
        if after == before {
            return Ok(());
        }
        self.change(&membership, ChangeMembers::ReplaceAllVoters(after), true).await
    }

    /// Removes a node from the group, voter or learner, for good. Nothing happens if it is no member.
    ///
    /// # Errors
    /// [`MembershipError`].
    pub async fn remove(&self, node: NodeId) -> Result<(), MembershipError> {
        let membership = self.membership();
        if membership.get_node(&node.0).is_none() {
            return Ok(());
        }
        let voters: BTreeSet<u64> = membership.voter_ids().collect();
        if voters.len() == 1 && voters.contains(&node.0) {
            return Err(MembershipError::LastVoter(node));
        }
        if node == self.inner.node {
            return Err(MembershipError::IsLeader(node));
        }
        #[cfg(planted)]
        if pangolin_core::planted::is(pangolin_core::planted::Bug::NoJointConsensus) {
            // All others at once: one voter at a time does not need the joint membership.
            let others = voters.into_iter().filter(|voter| *voter != self.inner.node.0).collect();
            return self.change(&membership, ChangeMembers::RemoveVoters(others), true).await;
        }
        let change = if voters.contains(&node.0) {
            ChangeMembers::RemoveVoters([node.0].into())
        } else {
            ChangeMembers::RemoveNodes([node.0].into())
        };
        self.change(&membership, change, false).await
    }

    /// Finishes a change of voters that an earlier leader began. Nothing happens without one.
    ///
    /// # Errors
    /// [`MembershipError`].
    pub async fn finish_change(&self) -> Result<(), MembershipError> {
        let membership = self.membership();
        if membership.get_joint_config().len() < 2 {
            return Ok(());
        }
        self.change(&membership, ChangeMembers::AddVoterIds(BTreeSet::new()), false).await
    }

    fn stands(&self) -> bool {
        self.inner.raft.as_leader().is_ok_and(|leader| leader.to_committed_leader_id() == self.id)
    }

    fn membership(&self) -> StoredMembership {
        StoredMembership::clone(&self.inner.raft.server_metrics().borrow_watched().membership_config)
    }

    /// Makes a change if the membership is still the one it was decided on, and the leadership still this one.
    async fn change(
        &self,
        decided_on: &StoredMembership,
        change: ChangeMembers<u64, EmptyNode>,
        retain: bool,
    ) -> Result<(), MembershipError> {
        let conditions = [
            Precondition::<TypeConfig>::LastMembershipLogId { last_membership_log_id: *decided_on.log_id() },
            Precondition::CommittedLeaderId { committed_leader_id: self.id },
        ];
        let done = timeout(CHANGE_DEADLINE, self.inner.raft.change_membership_if(change, retain, conditions));
        match done.await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(OpenraftError::APIError(ClientWriteError::LogEntryDiscarded(error)))) => {
                Err(MembershipError::Unknown(error.to_string()))
            }
            Ok(Err(OpenraftError::APIError(error))) => Err(MembershipError::Conflict(error.to_string())),
            Ok(Err(error)) => Err(MembershipError::Unknown(error.to_string())),
            Err(_) => Err(MembershipError::Unknown("it was not committed in time".into())),
        }
    }
}
