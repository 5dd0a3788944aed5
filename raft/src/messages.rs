//! What nodes say to each other about the log. Sender and receiver of different versions are told apart by the
//! handshake of `peer`; the bytes of one version are guarded by the golden test below.

use std::collections::BTreeMap;

use openraft::{
    EmptyNode, EntryPayload, Membership,
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, TransferLeaderResponse,
        VoteRequest, VoteResponse,
    },
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
    match vote.leader_id.voted_for {
        node if node == from.0 => Ok(()),
        node => Err(format!("node {from} speaks for node {node}")),
    }
}

/// openraft checks a membership where it is proposed, not where it arrives.
fn check_membership(membership: &Membership<u64, EmptyNode>) -> Result<(), String> {
    let nodes: BTreeMap<u64, EmptyNode> = membership.nodes().map(|(id, _)| (*id, EmptyNode {})).collect();
    Membership::new(membership.get_joint_config().clone(), nodes)
        .map(|_| ())
        .map_err(|error| error.to_string())
}

fn check_entries(previous: Option<&LogId>, entries: &[Entry], vote: &Vote) -> Result<(), String> {
    let mut last = previous.copied();
    for entry in entries {
        let id = entry.log_id;
        let follows = last.map_or(0, |last| last.index.saturating_add(1));
        if id.index != follows || last.is_some_and(|last| last.leader_id > id.leader_id) {
            return Err(format!("entry {id} cannot follow {last:?}"));
        }
        if let EntryPayload::Membership(membership) = &entry.payload {
            check_membership(membership)?;
        }
        last = Some(id);
    }
    match last {
        Some(last) if last.leader_id.term > vote.leader_id.term => {
            Err(format!("entry {last} is newer than its sender's leadership"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::types::{LeaderId, samples::entry};

    fn append(previous: Option<u64>, entries: Vec<Entry>) -> AppendEntriesRequest<TypeConfig> {
        let leader_id = LeaderId::new(3);
        AppendEntriesRequest {
            vote: Vote::new_committed(3, 2),
            prev_log_id: previous.map(|index| LogId { leader_id, index }),
            entries,
            leader_commit: None,
        }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn the_bytes_between_nodes_stay_what_they_are() {
        let asks = [
            (
                Ask::Append(append(Some(4), vec![entry(5)])),
                "01000301020101030401030501000103020178000001030200",
            ),
            (Ask::Vote(VoteRequest::new(Vote::new(3, 2), None)), "0101030102000000"),
            (Ask::PreVote(VoteRequest::new(Vote::new(3, 2), None)), "0102030102000000"),
            (
                Ask::Transfer(TransferLeaderRequest::new(Vote::new_committed(3, 2), 1, None)),
                "0103030102010100",
            ),
            (Ask::ReadIndex, "0104"),
        ];
        for (ask, bytes) in asks {
            assert_eq!(hex(&encode(&ask).expect("encoded")), bytes);
        }
        let answers = [
            (Answer::Append(AppendEntriesResponse::Success), "010000"),
            (Answer::Append(AppendEntriesResponse::Conflict), "010002"),
            (Answer::Append(AppendEntriesResponse::HigherVote(Vote::new(4, 1))), "01000304010100"),
            (Answer::Vote(VoteResponse::new(Vote::new(3, 2), None, true)), "0101030102000100"),
            (Answer::Transfer(Ok(())), "010200"),
            (Answer::ReadIndex(7), "010307"),
        ];
        for (answer, bytes) in answers {
            assert_eq!(hex(&encode(&answer).expect("encoded")), bytes);
        }
    }

    #[test]
    fn a_message_that_its_sender_may_not_send_is_refused() {
        let from = NodeId(2);
        let fine = Ask::Append(append(Some(4), vec![entry(5), entry(6)]));
        assert_eq!(check(&fine, from), Ok(()));
        assert!(check(&fine, NodeId(1)).is_err(), "somebody else's vote");
        let refused = [
            append(Some(4), vec![entry(6)]),
            append(Some(4), vec![entry(5), entry(5)]),
            append(None, vec![entry(1)]),
            AppendEntriesRequest { vote: Vote::new(3, 2), ..append(None, vec![]) },
            AppendEntriesRequest { vote: Vote::new_committed(2, 2), ..append(Some(4), vec![entry(5)]) },
        ];
        for (number, ask) in refused.into_iter().enumerate() {
            assert!(check(&Ask::Append(ask), from).is_err(), "case {number}");
        }
        assert!(check(&Ask::Vote(VoteRequest::new(Vote::new(3, 1), None)), from).is_err());
        assert_eq!(check(&Ask::ReadIndex, from), Ok(()));
    }

    proptest! {
        #[test]
        fn no_bytes_of_a_peer_make_a_node_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), kind in 0u8..6) {
            for begin in [&[][..], &[codec::FORMAT], &[codec::FORMAT, kind]] {
                let bytes = [begin, &bytes].concat();
                if let Ok(ask) = decode::<Ask>(&bytes) {
                    let _ = check(&ask, NodeId(2));
                }
                let _ = decode::<Answer>(&bytes);
                let _ = decode::<Forwarded>(&bytes);
                let _ = decode::<Attempt>(&bytes);
                let _ = decode::<SnapshotHeader>(&bytes);
                let _ = decode::<SnapshotAnswer>(&bytes);
            }
        }

        #[test]
        fn a_damaged_message_makes_no_node_panic(at in 0usize..200, bit in 0u8..8) {
            let mut bytes = encode(&Ask::Append(append(Some(4), vec![entry(5), entry(6)]))).expect("encoded").to_vec();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            if let Ok(ask) = decode::<Ask>(&bytes) {
                let _ = check(&ask, NodeId(2));
            }
        }
    }
}
