//! What openraft is told about our types, and how they are stored.
//!
//! What goes to disk are types of this file, not openraft's: an upgrade of openraft changes no stored byte.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    sync::Arc,
};

use openraft::{
    EmptyNode, EntryPayload, Membership,
    alias::{CommittedLeaderIdOf, EntryOf, LogIdOf, SnapshotMetaOf, StoredMembershipOf, VoteOf},
    impls::leader_id_std,
};
use pangolin_core::{codec, command::Command, id::Revision, outcome::Outcome};
use pangolin_storage as storage;
use serde::{Deserialize, Serialize};

/// As Raft has it (§5.2). openraft's own default lets a second candidate of the same term win over a first one, and fences
/// of the two could not be told apart.
type OneLeaderPerTerm = leader_id_std::LeaderId<u64, u64>;

#[cfg(planted)]
openraft::declare_raft_types!(
    /// Our types, with entries that may be planted bugs.
    pub(crate) TypeConfig:
        D = Request,
        R = Applied,
        NodeId = u64,
        Node = EmptyNode,
        LeaderId = OneLeaderPerTerm,
        Entry = crate::planted::Entry,
);

#[cfg(not(planted))]
openraft::declare_raft_types!(
    /// Our types.
    pub(crate) TypeConfig:
        D = Request,
        R = Applied,
        NodeId = u64,
        Node = EmptyNode,
        LeaderId = OneLeaderPerTerm,
);

pub(crate) type Raft = openraft::Raft<TypeConfig, crate::machine::Machine>;
pub(crate) type LogId = LogIdOf<TypeConfig>;
pub(crate) type LeaderId = CommittedLeaderIdOf<TypeConfig>;
pub(crate) type Vote = VoteOf<TypeConfig>;
pub(crate) type Entry = EntryOf<TypeConfig>;
pub(crate) type StoredMembership = StoredMembershipOf<TypeConfig>;
pub(crate) type SnapshotMeta = SnapshotMetaOf<TypeConfig>;

/// A command on its way through the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Request(pub(crate) Arc<Command>);

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Applied {
    pub(crate) revision: Revision,
    pub(crate) outcome: Outcome,
}

/// An entry's content as it is stored. Append only.
#[derive(Serialize, Deserialize)]
enum Stored {
    Blank,
    Command(Arc<Command>),
    Members(Members),
}

/// A membership as it is stored.
#[derive(Serialize, Deserialize)]
struct Members {
    /// One set of voters, or two during a change.
    voters: Vec<BTreeSet<u64>>,
    /// All members.
    nodes: BTreeSet<u64>,
}

/// A snapshot's meta data as it is stored and sent.
#[derive(Serialize, Deserialize)]
struct Meta {
    last: Option<(u64, u64)>,
    members_at: Option<(u64, u64)>,
    members: Members,
}

/// Largest encoded meta data of a snapshot: a membership of some hundred nodes.
pub(crate) const META_MAX: usize = 64 * 1024;

fn invalid(error: impl fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

impl Members {
    fn of(membership: &Membership<u64, EmptyNode>) -> Self {
        Self {
            voters: membership.get_joint_config().clone(),
            nodes: membership.nodes().map(|(id, _)| *id).collect(),
        }
    }

    fn into_membership(self) -> io::Result<Membership<u64, EmptyNode>> {
        if self.voters.is_empty() && self.nodes.is_empty() {
            return Ok(Membership::default());
        }
        let nodes: BTreeMap<u64, EmptyNode> = self.nodes.into_iter().map(|id| (id, EmptyNode {})).collect();
        Membership::new(self.voters, nodes).map_err(invalid)
    }
}

pub(crate) fn encode_entry(entry: &Entry) -> io::Result<storage::Entry> {
    let stored = match &entry.payload {
        EntryPayload::Blank => Stored::Blank,
        EntryPayload::Normal(request) => Stored::Command(request.0.clone()),
        EntryPayload::Membership(membership) => Stored::Members(Members::of(membership)),
    };
    let body = codec::encode(&stored).map_err(invalid)?.into();
    Ok(storage::Entry { id: store_log_id(&entry.log_id), body })
}

pub(crate) fn decode_entry(entry: &storage::Entry) -> io::Result<Entry> {
    let stored = codec::decode(&entry.body, storage::log::ENTRY_MAX).map_err(|error| {
        invalid(format!(
            "entry {} cannot be read ({error}). Its checksum is right, so a newer version has written it: install the \
             version that the other nodes run and start again; nothing is lost",
            entry.id.index
        ))
    })?;
    let payload = match stored {
        Stored::Blank => EntryPayload::Blank,
        Stored::Command(command) => EntryPayload::Normal(Request(command)),
        Stored::Members(members) => EntryPayload::Membership(members.into_membership()?),
    };
    Ok(Entry { log_id: load_log_id(entry.id), payload })
}

pub(crate) fn encode_meta(meta: &SnapshotMeta) -> io::Result<Vec<u8>> {
    let pair = |id: &LogId| (id.leader_id.term, id.index);
    codec::encode(&Meta {
        last: meta.last_log_id.as_ref().map(pair),
        members_at: meta.last_membership.log_id().as_ref().map(pair),
        members: Members::of(meta.last_membership.membership()),
    })
    .map_err(invalid)
}

pub(crate) fn decode_meta(bytes: &[u8]) -> io::Result<SnapshotMeta> {
    let meta: Meta = codec::decode(bytes, META_MAX).map_err(invalid)?;
    let id = |(term, index)| load_log_id(storage::LogId { term, index });
    Ok(SnapshotMeta {
        last_log_id: meta.last.map(id),
        last_membership: StoredMembership::new(meta.members_at.map(id), meta.members.into_membership()?),
    })
}

pub(crate) fn store_log_id(id: &LogId) -> storage::LogId {
    storage::LogId { term: id.leader_id.term, index: id.index }
}

pub(crate) fn load_log_id(id: storage::LogId) -> LogId {
    LogId { leader_id: LeaderId::new(id.term), index: id.index }
}

pub(crate) fn store_vote(vote: &Vote) -> storage::Vote {
    storage::Vote { term: vote.leader_id.term, elected: vote.committed, node: vote.leader_id.voted_for }
}

pub(crate) fn load_vote(vote: storage::Vote) -> Vote {
    let leader_id = OneLeaderPerTerm { term: vote.term, voted_for: vote.node };
    Vote { leader_id, committed: vote.elected }
}

#[cfg(test)]
pub(crate) mod samples {
    use pangolin_core::{
        command::{Actor, Body, Cause, Fence},
        id::NodeId,
        time::Timestamp,
    };

    use super::*;

    /// An entry of term 3, proposed by its leader, node 2.
    pub(crate) fn entry(index: u64) -> Entry {
        let command = Command {
            request: None,
            at: Timestamp(1),
            cause: Cause::new(Actor::Leader(NodeId(2)), "x"),
            fence: Fence::None,
            body: Body::LeaderStarted { term: 3, node: NodeId(2) },
        };
        let payload = EntryPayload::Normal(Request(Arc::new(command)));
        Entry { log_id: LogId { leader_id: LeaderId::new(3), index }, payload }
    }

    pub(crate) fn membership() -> Membership<u64, EmptyNode> {
        Membership::new_with_defaults(vec![[1, 2].into()], [3])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{samples::*, *};

    fn stored(payload: EntryPayload<Request, u64, EmptyNode>) -> storage::Entry {
        encode_entry(&Entry { payload, ..entry(5) }).expect("encoded")
    }

    #[test]
    fn the_bytes_on_disk_stay_what_they_are() {
        let cases = [
            (stored(EntryPayload::Blank), vec![1, 0]),
            (stored(entry(5).payload), vec![1, 1, 0, 1, 3, 2, 1, 120, 0, 0, 1, 3, 2]),
            (stored(EntryPayload::Membership(membership())), vec![1, 2, 1, 2, 1, 2, 3, 1, 2, 3]),
        ];
        for (entry, bytes) in cases {
            assert_eq!(entry.body, bytes);
            assert_eq!(encode_entry(&decode_entry(&entry).expect("decoded")).expect("encoded"), entry);
        }
        let at = Some(entry(9).log_id);
        let meta = SnapshotMeta { last_log_id: at, last_membership: StoredMembership::new(at, membership()) };
        let bytes = encode_meta(&meta).expect("encoded");
        assert_eq!(bytes, [1, 1, 3, 9, 1, 3, 9, 1, 2, 1, 2, 3, 1, 2, 3]);
        assert_eq!(decode_meta(&bytes).expect("decoded"), meta);
        let empty = encode_meta(&SnapshotMeta::default()).expect("encoded");
        assert_eq!(decode_meta(&empty).expect("decoded"), SnapshotMeta::default());
    }

    #[test]
    fn votes_and_ids_survive_the_disk() {
        for vote in [Vote::new(3, 2), Vote::new_committed(4, 1)] {
            assert_eq!(load_vote(store_vote(&vote)), vote);
        }
        assert_eq!(load_log_id(store_log_id(&entry(5).log_id)), entry(5).log_id);
    }

    proptest! {
        #[test]
        fn no_bytes_on_disk_make_a_node_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), kind in 0u8..4) {
            for begin in [&[][..], &[codec::FORMAT], &[codec::FORMAT, kind]] {
                let bytes = [begin, &bytes].concat();
                let _ = decode_meta(&bytes);
                let _ = decode_entry(&storage::Entry { id: storage::LogId::default(), body: bytes.into() });
            }
        }
    }
}
