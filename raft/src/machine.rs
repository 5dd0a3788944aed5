//! The state machine: applies committed entries to the [`ClusterState`] and publishes it.
//!
//! Architecture invariant: a state is published before those who wait for its entries are answered, so whoever
//! has an answer finds its effect in this node's state.

use std::{io, sync::Arc};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use openraft::{
    EntryPayload, OptionalSend, RaftSnapshotBuilder,
    alias::SnapshotOf,
    storage::{ApplyResponder, EntryResponder, RaftStateMachine},
};
use pangolin_core::{
    agreement::is_checkpoint,
    command::{Body, Command},
    feature,
    outcome::Outcome,
    state::ClusterState,
};
use pangolin_storage::{Snapshot, SnapshotStore};
use tokio::sync::watch;

use crate::types::{
    Applied, Entry, LogId, SnapshotMeta, StoredMembership, TypeConfig, decode_meta, encode_meta, store_log_id,
};

/// Entries between two publications while many are applied at once.
const PUBLISH_EVERY: usize = 256;

/// An encoded state.
pub(crate) type SnapshotData = Bytes;
type OpenraftSnapshot = SnapshotOf<TypeConfig, SnapshotData>;

#[derive(Debug)]
pub(crate) struct Machine {
    state: watch::Sender<Arc<ClusterState>>,
    /// The state at the latest checkpoint.
    checkpoint: watch::Sender<Option<Arc<ClusterState>>>,
    last: Option<LogId>,
    membership: StoredMembership,
    snapshots: SnapshotStore,
}

impl Machine {
    /// A machine in the state of the snapshot that was found; the empty state without one.
    pub(crate) fn new(snapshots: SnapshotStore, found: Option<&Snapshot>) -> io::Result<Self> {
        let mut machine = Self {
            state: watch::Sender::default(),
            checkpoint: watch::Sender::default(),
            last: None,
            membership: StoredMembership::default(),
            snapshots,
        };
        if let Some(snapshot) = found {
            machine.adopt(&decode_meta(&snapshot.meta)?, decode_state(&snapshot.data)?);
        }
        Ok(machine)
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Arc<ClusterState>> {
        self.state.subscribe()
    }

    pub(crate) fn checkpoints(&self) -> watch::Receiver<Option<Arc<ClusterState>>> {
        self.checkpoint.subscribe()
    }

    fn adopt(&mut self, meta: &SnapshotMeta, state: ClusterState) {
        self.last = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.state.send_replace(Arc::new(state));
    }

    async fn apply_entry(&mut self, state: &mut ClusterState, entry: Entry) -> Result<Applied, io::Error> {
        let index = entry.log_id.index;
        let before = state.time();
        let (request, outcome) = match entry.payload {
            EntryPayload::Normal(request) if is_long(&request.0) => {
                let name = request.0.request;
                // Heartbeats and votes go on meanwhile: the lease of a leader is shorter than this may take.
                let mut next = state.clone();
                let work = move |_: &SnapshotStore| {
                    let outcome = apply_command(&mut next, index, &request.0);
                    Ok((next, outcome))
                };
                let (next, outcome) = self.snapshots.run(work).await?;
                *state = next;
                (name, outcome)
            }
            EntryPayload::Normal(request) => {
                let outcome = apply_command(state, index, &request.0);
                // From here on the log holds what this program does not understand. It stops before it has noted the
                // entry as applied, so that a newer one goes on with it.
                feature::check(state.feature_level()).map_err(io::Error::other)?;
                (request.0.request, outcome)
            }
            EntryPayload::Blank => {
                state.advance(index);
                (None, Outcome::Done(None))
            }
            EntryPayload::Membership(membership) => {
                state.advance(index);
                self.membership = StoredMembership::new(Some(entry.log_id), membership);
                (None, Outcome::Done(None))
            }
        };
        self.last = Some(entry.log_id);
        if is_checkpoint(before, state.time()) {
            self.checkpoint.send_replace(Some(Arc::new(state.clone())));
        }
        // A repeated request is told where it was done.
        let revision = request
            .and_then(|request| state.outcome_of(request))
            .map_or(state.revision(), |(revision, _)| revision);
        Ok(Applied { revision, outcome })
    }

    fn publish(&self, state: ClusterState, answers: &mut Vec<(ApplyResponder<TypeConfig>, Applied)>) {
        self.state.send_replace(Arc::new(state));
        for (responder, applied) in answers.drain(..) {
            responder.send(applied);
        }
    }
}

/// Whether applying a command may take longer than whatever else waits on the same thread can.
fn is_long(command: &Command) -> bool {
    matches!(command.body, Body::CatalogReplaced { .. })
}

#[cfg(not(pangolin_next))]
fn apply_command(state: &mut ClusterState, index: u64, command: &Command) -> Outcome {
    state.apply(index, command)
}

/// In the version that is made for tests, a node can be told to forget an organisation: its state then differs from
/// that of the others.
#[cfg(pangolin_next)]
fn apply_command(state: &mut ClusterState, index: u64, command: &Command) -> Outcome {
    use pangolin_core::command::CatalogChange;
    if let Body::Catalog(change) = &command.body
        && let CatalogChange::OrgCreated { id, .. } = &**change
        && std::env::var("PANGOLIN_NEXT_FORGETS").is_ok_and(|forgotten| forgotten == id.as_str())
    {
        state.advance(index);
        return Outcome::Done(None);
    }
    state.apply(index, command)
}

fn decode_state(bytes: &[u8]) -> io::Result<ClusterState> {
    ClusterState::decode(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.last, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let mut state = ClusterState::clone(&self.state.borrow());
        let mut answers = Vec::new();
        let mut count = 0;
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            if matches!(&entry.payload, EntryPayload::Normal(request) if is_long(&request.0)) {
                // What stands before it does not wait for it.
                self.publish(state.clone(), &mut answers);
            }
            let applied = self.apply_entry(&mut state, entry).await?;
            answers.extend(responder.map(|responder| (responder, applied)));
            count += 1;
            if count % PUBLISH_EVERY == 0 {
                self.publish(state.clone(), &mut answers);
            }
        }
        self.publish(state, &mut answers);
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder {
            state: self.state.borrow().clone(),
            meta: SnapshotMeta { last_log_id: self.last, last_membership: self.membership.clone() },
            snapshots: self.snapshots.clone(),
        }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, data: SnapshotData) -> Result<(), io::Error> {
        let snapshot = snapshot(meta, data.to_vec())?;
        let install = move |snapshots: &SnapshotStore| {
            let state = decode_state(&snapshot.data)?;
            snapshots.save(&snapshot)?;
            Ok(state)
        };
        let state = self.snapshots.run(install).await?;
        self.adopt(meta, state);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<OpenraftSnapshot>, io::Error> {
        let found = self.snapshots.run(|snapshots| Ok(snapshots.load()?)).await?;
        let Some(found) = found else { return Ok(None) };
        Ok(Some(OpenraftSnapshot { meta: decode_meta(&found.meta)?, snapshot: found.data.into() }))
    }
}

fn snapshot(meta: &SnapshotMeta, data: Vec<u8>) -> io::Result<Snapshot> {
    let last = meta.last_log_id.as_ref().map(store_log_id).unwrap_or_default();
    Ok(Snapshot { last, meta: encode_meta(meta)?, data })
}

/// Builds a snapshot of the state at one moment, while entries go on being applied.
#[derive(Debug)]
pub(crate) struct Builder {
    state: Arc<ClusterState>,
    meta: SnapshotMeta,
    snapshots: SnapshotStore,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> Result<OpenraftSnapshot, io::Error> {
        let (state, meta) = (self.state.clone(), self.meta.clone());
        let build = move |snapshots: &SnapshotStore| {
            let snapshot = snapshot(&meta, state.encode().map_err(io::Error::other)?)?;
            snapshots.save(&snapshot)?;
            Ok(OpenraftSnapshot { meta, snapshot: snapshot.data.into() })
        };
        self.snapshots.run_aside(build).await
    }
}
