//! What a node can tell about its part.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use pangolin_core::id::NodeId;
use serde::Serialize;

/// What a node is in the group right now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ServerState {
    /// Replicates and does not vote.
    Learner,
    /// Replicates and votes.
    Follower,
    /// Stands for election.
    Candidate,
    /// Leads.
    Leader,
    /// Raft has ended here.
    Ended,
}

impl fmt::Display for ServerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Learner => "learner",
            Self::Follower => "follower",
            Self::Candidate => "candidate",
            Self::Leader => "leader",
            Self::Ended => "ended",
        })
    }
}

impl From<openraft::ServerState> for ServerState {
    fn from(state: openraft::ServerState) -> Self {
        match state {
            openraft::ServerState::Learner => Self::Learner,
            openraft::ServerState::Follower => Self::Follower,
            openraft::ServerState::Candidate => Self::Candidate,
            openraft::ServerState::Leader => Self::Leader,
            openraft::ServerState::Shutdown => Self::Ended,
        }
    }
}

/// A node's part in the group, as it sees it. Numbers are log indices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RaftStatus {
    /// This node.
    pub node: NodeId,
    /// What it is.
    pub state: ServerState,
    /// The term it is in.
    pub term: u64,
    /// Who leads, as far as it knows.
    pub leader: Option<NodeId>,
    /// Last entry of its log.
    pub last_log: Option<u64>,
    /// Last entry that it knows to be committed.
    pub committed: Option<u64>,
    /// Last entry that it has applied.
    pub applied: Option<u64>,
    /// Last entry of its snapshot.
    pub snapshot: Option<u64>,
    /// Those who vote.
    pub voters: BTreeSet<NodeId>,
    /// Those who only replicate.
    pub learners: BTreeSet<NodeId>,
    /// How far each other member has the log; empty unless this node leads.
    pub progress: BTreeMap<NodeId, u64>,
    /// How long ago this node last heard from the leader; on the leader, from a majority. None if never.
    pub leader_contact: Option<Duration>,
}
