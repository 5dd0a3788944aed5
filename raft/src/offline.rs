//! The store of a node that does not run: what is in it, and how a new history is founded.

use std::{collections::BTreeSet, path::Path};

use openraft::{EmptyNode, EntryPayload, Membership};
use pangolin_core::{Timestamp, id::NodeId, state::ClusterState};
use pangolin_storage::{Entry, LogId, RaftStore, Snapshot, StateDir, StorageError, Vote};

use crate::{
    error::RaftError,
    types::{SnapshotMeta, StoredMembership, decode_entry, decode_meta, encode_meta, load_log_id},
};

/// Bytes of the log that are read at a time.
const READ_BYTES: usize = 1024 * 1024;

/// What one node's store holds. The store is locked as long as this lives.
#[derive(Debug)]
pub struct Survey {
    /// The state with every entry of the log applied: also of those that this node does not know to be committed,
    /// because any of them may have been acknowledged.
    pub state: ClusterState,
    /// The last entry.
    pub last: u64,
    /// Up to where entries are known to be committed.
    pub committed: u64,
    /// The highest term that this node has seen or voted in.
    pub term: u64,
    /// Those who vote.
    pub voters: BTreeSet<NodeId>,
    _lock: Option<StateDir>,
}

/// What a new history begins with.
#[derive(Debug)]
pub struct Founding {
    /// Its only node.
    pub node: NodeId,
    /// Above every term of the old one.
    pub term: u64,
    /// The state to begin with; its revision is where the log begins.
    pub state: ClusterState,
}

fn unusable(dir: &Path, found: String) -> StorageError {
    StorageError::Rejoin { place: dir.join("raft"), found, state_dir: dir.to_owned() }
}

/// Looks at the store of a node that does not run.
///
/// # Errors
/// The node runs, or what is there is damaged.
pub async fn survey(dir: &Path) -> Result<Survey, RaftError> {
    let at = dir.to_owned();
    let opened = tokio::task::spawn_blocking(move || RaftStore::open(at)).await;
    let RaftStore { log, snapshot, lock, .. } =
        opened.map_err(|error| RaftError::Ended(error.to_string()))??;
    let mut state = ClusterState::default();
    let mut voters = BTreeSet::new();
    let mut last = 0;
    let mut term = log.state().vote.map_or(0, |vote| vote.term);
    if let Some(snapshot) = &snapshot {
        let bad = |error: String| unusable(dir, format!("the snapshot cannot be read: {error}"));
        let meta = decode_meta(&snapshot.meta).map_err(|error| bad(error.to_string()))?;
        state = ClusterState::decode(&snapshot.data).map_err(|error| bad(error.to_string()))?;
        voters = meta.last_membership.membership().voter_ids().map(NodeId).collect();
        (last, term) = (snapshot.last.index, term.max(snapshot.last.term));
    }
    let standing = log.state();
    while last < standing.last.map_or(0, |id| id.index) {
        // The log of a new cluster begins with entry 0, before which nothing is.
        let from = if last == 0 && snapshot.is_none() { 0 } else { last + 1 };
        let entries = log.read(from, standing.next_index(), READ_BYTES).await?;
        if entries.first().is_none_or(|first| first.id.index != from) {
            return Err(unusable(dir, format!("the log has no entry {from}")).into());
        }
        for entry in &entries {
            if let Some(now) = replay(&mut state, entry)? {
                voters = now;
            }
            (last, term) = (entry.id.index, term.max(entry.id.term));
        }
    }
    let committed = standing.committed.map_or(0, |id| id.index);
    log.close().await;
    let committed = committed.max(snapshot.map_or(0, |snapshot| snapshot.last.index)).min(last);
    Ok(Survey { state, last, committed, term, voters, _lock: lock })
}

/// Applies an entry as it is stored in the log. Gives the voters where the entry changes them.
///
/// # Errors
/// The entry cannot be read.
pub fn replay(state: &mut ClusterState, entry: &Entry) -> Result<Option<BTreeSet<NodeId>>, RaftError> {
    let index = entry.id.index;
    match read(entry)? {
        EntryPayload::Normal(request) => {
            state.apply(index, &request.0);
            Ok(None)
        }
        EntryPayload::Blank => {
            state.advance(index);
            Ok(None)
        }
        EntryPayload::Membership(membership) => {
            state.advance(index);
            Ok(Some(membership.voter_ids().map(NodeId).collect()))
        }
    }
}

/// The time that the log reaches with an entry, if it carries one.
///
/// # Errors
/// The entry cannot be read.
pub fn time_of(entry: &Entry) -> Result<Option<Timestamp>, RaftError> {
    Ok(match read(entry)? {
        EntryPayload::Normal(request) => Some(request.0.at),
        _ => None,
    })
}

fn read(entry: &Entry) -> Result<EntryPayload<crate::types::Request, u64, EmptyNode>, RaftError> {
    let decoded = decode_entry(entry);
    decoded
        .map(|entry| entry.payload)
        .map_err(|error| RaftError::Entry { index: entry.id.index, reason: error.to_string() })
}

/// Writes the store of a node that is a whole group by itself, with `founding.state` as its snapshot, below an empty
/// directory.
///
/// # Errors
/// What the system refuses.
pub async fn found(dir: &Path, founding: Founding) -> Result<(), RaftError> {
    let at = dir.to_owned();
    let store = tokio::task::spawn_blocking(move || RaftStore::open(at)).await;
    let RaftStore { log, snapshots, lock, .. } =
        store.map_err(|error| RaftError::Ended(error.to_string()))??;
    let Founding { node, term, state } = founding;
    if log.state().last.is_some() || log.state().vote.is_some() {
        return Err(RaftError::Bootstrapped);
    }
    let last = LogId { term, index: state.revision().index };
    let alone = BTreeSet::from([node.0]);
    let members = Membership::<u64, EmptyNode>::new(vec![alone.clone()], alone);
    let members = members.map_err(|error| RaftError::Ended(error.to_string()))?;
    let at = Some(load_log_id(last));
    let meta = SnapshotMeta { last_log_id: at, last_membership: StoredMembership::new(at, members) };
    let meta = encode_meta(&meta).map_err(|error| RaftError::Ended(error.to_string()))?;
    let data = state.encode().map_err(|error| RaftError::Ended(error.to_string()))?;
    log.save_vote(Vote { term, node: node.0, elected: false }).await?;
    log.close().await;
    tokio::task::spawn_blocking(move || snapshots.save(&Snapshot { last, meta, data }))
        .await
        .map_err(|error| RaftError::Ended(error.to_string()))??;
    drop(lock);
    Ok(())
}
