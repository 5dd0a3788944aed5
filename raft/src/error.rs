//! What can go wrong.

use pangolin_core::{
    feature::{FeatureLevel, TooNew},
    id::{NodeId, RequestId, Revision},
};
use pangolin_storage::StorageError;

/// The node's part in the cluster cannot begin, or has ended.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RaftError {
    /// What is on disk cannot be used.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The state is of a version that this program does not understand.
    #[error("this program cannot take part: {0}")]
    TooNew(#[from] TooNew),
    /// An entry of the log cannot be read.
    #[error("entry {index} of the log cannot be read: {reason}")]
    Entry {
        /// Which.
        index: u64,
        /// Why.
        reason: String,
    },
    /// The timing makes no sense.
    #[error("the Raft timing cannot be used: {0}")]
    Timing(String),
    /// `bootstrap` on a node that has a history.
    #[error("this node already belongs to a cluster; a cluster is made once, on a node without state")]
    Bootstrapped,
    /// It has ended.
    #[error("Raft has ended on this node: {0}")]
    Ended(String),
    /// Nobody to hand the leadership to, or nobody took it.
    #[error("the leadership was not transferred: {0}")]
    Transfer(String),
}

/// What became of a proposal that was not committed before one's eyes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Certainly not in the log, now or later: may be tried again (503).
    #[error("the change was not made: {reason}")]
    NotAppended {
        /// Why.
        reason: String,
    },
    /// It may be, or become, part of the log (504). A repeat with the same request id is answered, not done twice.
    #[error("it is not known whether the change was made: {reason}")]
    OutcomeUnknown {
        /// The request's name, where it has one.
        request: Option<RequestId>,
        /// What happened.
        reason: String,
    },
    /// Not every node is known to understand it; not proposed.
    #[error(
        "{what} needs feature level {needed}, the cluster is at {committed}: bring every node to the newer version, \
         then `pangolinctl upgrade finish`"
    )]
    Level {
        /// What was to be proposed.
        what: &'static str,
        /// What it needs.
        needed: FeatureLevel,
        /// What the cluster is committed to.
        committed: FeatureLevel,
    },
    /// Larger than what the log takes; not proposed.
    #[error("the change has {size} bytes, {limit} are allowed")]
    TooLarge {
        /// What it has.
        size: usize,
        /// What is allowed.
        limit: usize,
    },
}

/// This node has not come as far as it was asked to within the time given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotYet {
    /// The revision has not been applied here.
    #[error("this node has applied the log up to {applied}, {wanted} was asked for")]
    Behind {
        /// Where it is.
        applied: Revision,
        /// What was asked for.
        wanted: Revision,
    },
    /// No leader could say how far the log is committed.
    #[error("no leader confirmed how far the log goes: {0}")]
    Unconfirmed(String),
}

/// A change of the group's membership was not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    /// Another change is under way, or the leadership is lost: look again and decide anew.
    #[error("the membership was not changed: {0}")]
    Conflict(String),
    /// It may have been changed.
    #[error("it is not known whether the membership was changed: {0}")]
    Unknown(String),
    /// A leader does not remove itself: it would leave the others to an election.
    #[error("node {0} leads: transfer the leadership before it is removed")]
    IsLeader(NodeId),
    /// Only a learner becomes a voter.
    #[error("node {0} is no learner of this group")]
    NoLearner(NodeId),
    /// Nobody would be left to vote.
    #[error("node {0} is the last voter")]
    LastVoter(NodeId),
}
