//! What nodes say to each other about the log. Sender and receiver of different versions are told apart by the
//! handshake of `peer`; the bytes of one version are guarded by the golden test below.

use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, TransferLeaderResponse, VoteRequest,
    VoteResponse,
};
use pangolin_core::{codec, id::NodeId};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    propose::{Committed, Proposal},
    types::{Entry, LogId, TypeConfig, Vote},
};

/// Largest request or answer on [`Service::Raft`](pangolin_peer::Service::Raft): a batch of entries.
pub(crate) const MESSAGE_MAX: usize = 4 * 1024 * 1024;

/// On [`Service::Raft`](pangolin_peer::Service::Raft).
#[derive(Serialize, Deserialize)]
pub(crate) enum Ask {
    Append(AppendEntriesRequest<TypeConfig>),
    Vote(VoteRequest<TypeConfig>),
    PreVote(VoteRequest<TypeConfig>),
    Transfer(TransferLeaderRequest<TypeConfig>),
    /// How far the log is committed, confirmed by a majority.
    ReadIndex,
}

/// The answer to [`Ask`].
#[derive(Serialize, Deserialize)]
pub(crate) enum Answer {
    Append(AppendEntriesResponse<TypeConfig>),
    Vote(VoteResponse<TypeConfig>),
    Transfer(TransferLeaderResponse<TypeConfig>),
    ReadIndex(u64),
}

/// On [`Service::Propose`](pangolin_peer::Service::Propose).
#[derive(Serialize, Deserialize)]
pub(crate) struct Forwarded {
    pub(crate) proposal: Proposal,
    /// How long the asker waits, in milliseconds.
    pub(crate) within: u64,
}

/// The answer to [`Forwarded`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Attempt {
    /// It is committed and applied.
    Committed(Committed),
    /// It is certainly not in the log.
    NotAppended(String),
    /// It may be.
    Unknown(String),
}

/// Begins a stream on [`Service::Snapshot`](pangolin_peer::Service::Snapshot).
#[derive(Serialize, Deserialize)]
pub(crate) struct SnapshotHeader {
    pub(crate) vote: Vote,
    /// As stored.
    pub(crate) meta: Vec<u8>,
    /// Bytes that follow.
    pub(crate) size: u64,
}

/// Ends it, from the other side: the receiver's vote, or why it was refused.
pub(crate) type SnapshotAnswer = Result<Vote, String>;

pub(crate) fn encode<T: Serialize>(message: &T) -> Result<bytes::Bytes, String> {
    codec::encode(message).map(Into::into).map_err(|error| error.to_string())
}

pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    codec::decode(bytes, MESSAGE_MAX).map_err(|error| error.to_string())
}

/// Whether a message is one that `from` may send: it speaks for itself alone, and its entries make up a piece of
/// a log. openraft takes both for granted.
pub(crate) fn check(ask: &Ask, from: NodeId) -> Result<(), String> {
    let vote = match ask {
        Ask::Append(append) => {
            check_entries(append.prev_log_id.as_ref(), &append.entries, &append.vote)?;
            if !append.vote.committed {
                return Err("entries from a node that was not elected".into());
            }
            &append.vote
        }
        Ask::Vote(ask) | Ask::PreVote(ask) => &ask.vote,
        Ask::Transfer(ask) => ask.from_leader(),
        Ask::ReadIndex => return Ok(()),
    };
    check_sender(vote, from)
}

pub(crate) fn check_sender(vote: &Vote, from: NodeId) -> Result<(), String> {
    match vote.leader_id.node_id {
        node if node == from.0 => Ok(()),
        node => Err(format!("node {from} speaks for node {node}")),
    }
}

fn check_entries(previous: Option<&LogId>, entries: &[Entry], vote: &Vote) -> Result<(), String> {
    let mut last = previous.copied();
    for entry in entries {
        let id = entry.log_id;
        let follows = last.map_or(0, |last| last.index.saturating_add(1));
        if id.index != follows || last.is_some_and(|last| last.leader_id > id.leader_id) {
            return Err(format!("entry {id} cannot follow {last:?}"));
        }
        last = Some(id);
    }
    match last {
        Some(last) if last.leader_id > vote.leader_id => {
            Err(format!("entry {last} is newer than its sender's leadership"))
        }
        _ => Ok(()),
    }
}
