//! `recover --force-new-cluster`: makes a cluster of the one node that is left, when the others are lost for good.
//!
//! Offline: the node must not run. Everything in its log counts, also what it does not know to be committed, because
//! any of it may have been acknowledged. The old store is renamed, never deleted; the steps are noted before they are
//! taken, so that a verb that was cut off is finished by repeating it.

use std::path::{Path, PathBuf};

use pangolin_core::{NodeId, Revision, Timestamp, command::LineageBegun, state::begin_index};
use pangolin_peer::identity::private_file;
use pangolin_raft::offline::{self, Founding, Survey};
use serde::{Deserialize, Serialize};

use super::{
    MembershipError,
    restore::{begin, refused, remove},
};
use crate::{
    config::Config,
    state_dir::{StateDir, StateDirError},
};

/// Notes that a recovery has begun, and how it goes on.
const MARK: &str = "recovering";
/// Where the new store is made.
const NEW: &str = "recovered";

/// What a recovery would do, and what it may lose.
#[derive(Debug)]
pub struct Recovery {
    /// The cluster's name: what the operator has to type.
    pub cluster: String,
    /// This node.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// The last entry in its log.
    pub last: Revision,
    /// Log time there.
    pub time: Timestamp,
    /// Up to where it knows entries to be committed.
    pub committed: u64,
    /// The nodes that will be gone.
    pub others: Vec<String>,
    survey: Survey,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mark {
    lineage: u64,
    aside: String,
}

impl Mark {
    /// What this node has noted: a directory beside the others, and nothing else.
    fn read(bytes: &[u8]) -> Result<Self, String> {
        let mark: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if !mark.aside.starts_with("lineage-") || mark.aside.contains('/') {
            return Err(format!("{:?} is no place for an old store", mark.aside));
        }
        Ok(mark)
    }
}

/// See [`crate::fuzz`].
#[cfg(any(test, fuzzing))]
pub(super) fn fuzz(bytes: &[u8]) {
    if let Ok(mark) = Mark::read(bytes) {
        assert_eq!(Path::new(&mark.aside).components().count(), 1);
    }
}

/// Looks at what is there; nothing is changed.
///
/// # Errors
/// The node runs, or its state is damaged, or there is none.
pub async fn recovery_of(config: &Config) -> Result<Recovery, MembershipError> {
    let member = StateDir::new(&config.state_dir).load()?;
    let node = member.identity.node;
    let survey = offline::survey(&config.state_dir).await?;
    let state = &survey.state;
    let cluster = state.cluster().ok_or_else(|| refused("this node has never had a state"))?;
    let name = |node: &pangolin_core::record::Node| format!("{} (node {})", node.spec.name, node.id);
    let own = state.nodes().get(&node).ok_or_else(|| {
        refused(&format!("node {node} is not in the last state that it has: it was removed"))
    })?;
    Ok(Recovery {
        cluster: cluster.name.to_string(),
        node,
        name: own.spec.name.to_string(),
        last: state.revision(),
        time: state.time(),
        committed: survey.committed,
        others: state.nodes().values().filter(|other| other.id != node).map(name).collect(),
        survey,
    })
}

/// Makes this node the only one of a new history. Returns where that begins, and where the old store is now.
///
/// # Errors
/// What the system refuses. Repeating it is safe.
pub async fn recover(config: &Config, recovery: Recovery) -> Result<(Revision, PathBuf), MembershipError> {
    let state_dir = StateDir::new(&config.state_dir);
    let Recovery { node, last, survey, .. } = recovery;
    let Survey { mut state, term, .. } = survey;
    let index = begin_index(last.index);
    let lineage = last.lineage + 1;
    begin(
        &mut state,
        index,
        LineageBegun { lineage, node, spec: None, from: last },
        "recover --force-new-cluster",
    )?;
    let begins = state.revision();

    let new = config.state_dir.join(NEW);
    remove(&new)?;
    offline::found(&new, Founding { node, term: term + 1, state }).await?;
    let seconds = crate::clock::now().0 / 1000;
    let mark = Mark { lineage, aside: format!("lineage-{}-{seconds}", last.lineage) };
    let text = serde_json::to_vec(&mark).map_err(|error| refused(&error.to_string()))?;
    private_file::write(&config.state_dir.join(MARK), &text).map_err(StateDirError::from)?;
    let aside = finish(&state_dir)?;
    Ok((begins, aside.unwrap_or_default()))
}

/// Finishes a recovery that was cut off. None if there is none.
///
/// # Errors
/// What the system refuses. Repeating it is safe.
pub fn interrupted_recovery(config: &Config) -> Result<Option<PathBuf>, MembershipError> {
    finish(&StateDir::new(&config.state_dir))
}

/// Takes the steps that are left of a recovery that was noted.
pub(crate) fn finish(state_dir: &StateDir) -> Result<Option<PathBuf>, MembershipError> {
    let dir = state_dir.path();
    let mark_path = dir.join(MARK);
    let mark = match private_file::read(&mark_path) {
        Ok(bytes) => Mark::read(&bytes)
            .map_err(|error| refused(&format!("{} is damaged: {error}", mark_path.display())))?,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(StateDirError::from(error).into()),
    };
    let (new, aside) = (dir.join(NEW), dir.join(&mark.aside));
    // The new store is taken out of its directory last: as long as it is there, the old one may still be in place.
    if new.join("raft").exists() {
        state_dir.put_aside(&aside)?;
        state_dir.adopt_raft(&new)?;
    }
    let mut member = state_dir.load()?;
    if member.identity.lineage < mark.lineage {
        member.identity.lineage = mark.lineage;
        let peers = alone(&member);
        state_dir.store(&member.identity, &peers, member.keyring.as_ref(), None)?;
    }
    state_dir.give_to_owner()?;
    std::fs::remove_file(&mark_path)
        .map_err(|error| refused(&format!("{} cannot be removed: {error}", mark_path.display())))?;
    Ok(Some(aside))
}

/// Whom the node knows from now on: itself. The rest follows from the state.
fn alone(member: &crate::state_dir::Member) -> pangolin_core::plan::PeerPlan {
    let mut peers = member.peers.clone();
    peers.nodes.retain(|id, _| *id == member.identity.node);
    peers.lineage = member.identity.lineage;
    peers
}

/// Whether a recovery has begun and was cut off.
pub(crate) fn is_interrupted(dir: &Path) -> bool {
    dir.join(MARK).exists()
}
