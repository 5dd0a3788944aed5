//! What can go wrong between nodes.

use std::{io, net::SocketAddr, time::Duration};

use pangolin_core::id::NodeId;

use crate::identity::IdentityError;

/// Why a peer did not get, or did not answer, a request; or why the listener does not work.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// The port is not ours.
    #[error("cannot listen for peers on {address}: {source}")]
    Bind {
        /// Where it should have listened.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The own certificate or key does not work.
    #[error("this node's identity cannot be used: {0}")]
    Identity(String),
    /// Not a member.
    #[error("node {0} is not in the cluster as this node knows it")]
    UnknownNode(NodeId),
    /// Asked to call itself.
    #[error("node {0} is this node; it has no connection to itself")]
    ThisNode(NodeId),
    /// Not connected.
    #[error("node {node} cannot be reached: {reason}")]
    Unreachable {
        /// Who.
        node: NodeId,
        /// Why not.
        reason: String,
    },
    /// A limit on this side.
    #[error("too much is under way to node {node} already: {limit}")]
    Busy {
        /// Whom it should have gone to.
        node: NodeId,
        /// Which limit was reached.
        limit: &'static str,
    },
    /// A limit, or no handler, on the other side: it did not look at the request.
    #[error("node {node} does not take the request: {message}")]
    NotTaken {
        /// Who.
        node: NodeId,
        /// What it says.
        message: String,
    },
    /// No answer in time.
    #[error("node {node} has not answered within {after:?}")]
    Timeout {
        /// Who.
        node: NodeId,
        /// How long was waited.
        after: Duration,
        /// Whether the request may have left this node.
        sent: bool,
    },
    /// The connection broke while the answer was awaited.
    #[error(
        "the connection to node {node} broke before it answered ({reason}); what became of it is not known"
    )]
    Lost {
        /// Who.
        node: NodeId,
        /// What happened.
        reason: String,
    },
    /// The other side's handler says no.
    #[error("node {node} refuses: {message}")]
    Refused {
        /// Who.
        node: NodeId,
        /// What it says.
        message: String,
    },
    /// Above the limit of one message.
    #[error("the request has {size} bytes, {limit} are allowed; send it as a stream")]
    TooLarge {
        /// What it has.
        size: usize,
        /// What is allowed.
        limit: usize,
    },
}

impl PeerError {
    /// Whether the request certainly never reached the other side's handler, so that it may be sent elsewhere
    /// without being done twice. False also for [`PeerError::Refused`]: the handler has seen it.
    #[must_use]
    pub fn not_delivered(&self) -> bool {
        match self {
            Self::Bind { .. }
            | Self::Identity(_)
            | Self::UnknownNode(_)
            | Self::ThisNode(_)
            | Self::Unreachable { .. }
            | Self::Busy { .. }
            | Self::NotTaken { .. }
            | Self::TooLarge { .. } => true,
            Self::Timeout { sent, .. } => !sent,
            Self::Lost { .. } | Self::Refused { .. } => false,
        }
    }
}

impl From<IdentityError> for PeerError {
    fn from(error: IdentityError) -> Self {
        Self::Identity(error.to_string())
    }
}
