//! `init --restore`: makes the first node of a cluster from a backup, when all hosts are lost. One-shot, like `init`.
//!
//! The cluster stays itself: its id, its authority, its keys, its catalog. It gets a new lineage, so that a host of
//! the old one that turns up again is refused, and this host as its only node, under a new id.

use std::{path::PathBuf, time::SystemTime};

use pangolin_core::{
    Body, Cause, ClusterId, Command, Fence, NodeId, Outcome, Revision, Timestamp,
    command::{Actor, LineageBegun},
    plan::plan,
    state::begin_index,
};
use pangolin_peer::identity::{AuthorityKey, NodeIdentity, RecoveryKey};
use pangolin_raft::offline::{self, Founding};
use pangolin_storage::backup::{Header, Key, Place, Point};

use super::{MembershipError, spec_of};
use crate::{
    backup::{files_in, point_of, state_at},
    clock,
    config::Config,
    seal,
    state_dir::StateDir,
};

/// What `init --restore` is told.
#[derive(Debug)]
pub struct RestoreOptions {
    /// A backup file, or a directory of them.
    pub from: PathBuf,
    /// The key that `init` showed once.
    pub key: RecoveryKey,
    /// A log index, `LINEAGE.INDEX` or a time; none = as far as the files go (of a file: its revision).
    pub at: Option<String>,
}

/// What was restored.
#[derive(Debug)]
pub struct Restoration {
    /// The cluster's name.
    pub cluster: String,
    /// This host's node id.
    pub node: NodeId,
    /// The revision that the state was taken from.
    pub from: Revision,
    /// Log time there.
    pub time: Timestamp,
    /// Where the new history begins.
    pub begins: Revision,
    /// Number of resources.
    pub resources: usize,
    /// The files that were used.
    pub files: Vec<String>,
}

/// Makes the first node of a restored cluster.
///
/// # Errors
/// The state directory holds a node, or the backup cannot be used; nothing is left half made.
pub async fn restore(config: &Config, options: &RestoreOptions) -> Result<Restoration, MembershipError> {
    let state_dir = StateDir::new(&config.state_dir);
    state_dir.create()?;
    state_dir.need_empty()?;
    let (place, files, own) = find(options)?;
    let lineage = files.iter().map(|(_, header)| header.revision.lineage).max().unwrap_or(1);
    let point = match (&options.at, own) {
        (Some(text), _) => point_of(text, lineage)?,
        (None, Some(revision)) => Point::Revision(revision),
        (None, None) => Point::Latest,
    };
    let past = state_at(&place, &files, Key::Recovery(&options.key), point)?;
    let keyring = past.keyring.ok_or_else(|| refused("the backup holds no keyring"))?;
    let mut state = past.state;
    let (from, time) = (state.revision(), state.time());
    let cluster = state.cluster().cloned().ok_or_else(|| refused("there is no cluster in the backup"))?;

    let key = state_dir.node_key()?;
    let spec = spec_of(config, key.spki_digest(), state_dir.tunnel_key()?.public());
    // Later histories, of which only other files tell, are left behind as well.
    let index = begin_index(files.iter().map(|(_, header)| header.revision.index).max().unwrap_or(0));
    let node = NodeId(index);
    let begun = LineageBegun { lineage: lineage + 1, node, spec: Some(spec), from };
    let term = state.leadership().map_or(0, |leadership| leadership.term) + 1;
    begin(&mut state, index, begun, "init --restore")?;

    let authority = keyring.open(&cluster.authority.key, seal::AUTHORITY)?;
    let authority = AuthorityKey::from_parts(cluster.authority.certificate.clone(), &authority)?;
    let certificate = authority.sign_node(&key.csr_der()?, cluster.id, node, SystemTime::now())?;
    let identity = NodeIdentity {
        cluster: cluster.id,
        lineage: state.revision().lineage,
        node,
        authority: cluster.authority.certificate.clone(),
        certificate,
        key,
    };
    let (peers, begins, resources) = (plan(&state, node).peers, state.revision(), state.resources().len());
    // The identity comes last: without it the directory is no node's, and the verb can be repeated.
    if state.recovery_key().is_none() {
        // The backup is from before the cluster knew it: this host tells it, like the first one after `init`.
        state_dir.store_recovery(&options.key.public())?;
    }
    let aside = state_dir.path().join("restoring");
    remove(&aside)?;
    offline::found(&aside, Founding { node, term, state }).await?;
    state_dir.adopt_raft(&aside)?;
    state_dir.store(&identity, &peers, Some(&keyring), None)?;
    state_dir.give_to_owner()?;
    Ok(Restoration {
        cluster: cluster.name.to_string(),
        node,
        from,
        time,
        begins,
        resources,
        files: past.files,
    })
}

/// Applies the beginning of a new history to a state.
pub(super) fn begin(
    state: &mut pangolin_core::ClusterState,
    index: u64,
    begun: LineageBegun,
    verb: &str,
) -> Result<(), MembershipError> {
    let cause = Cause::new(Actor::Operator("root".into()), verb);
    let at = clock::now();
    let body = Body::LineageBegun(Box::new(begun));
    match state.apply(index, &Command { request: None, at, cause, fence: Fence::None, body }) {
        Outcome::Done(_) => Ok(()),
        Outcome::Refused(refusal) => Err(refused(&refusal.to_string())),
    }
}

pub(super) fn refused(reason: &str) -> MembershipError {
    MembershipError::Recovery(format!("the cluster cannot be recovered: {reason}; nothing was changed"))
}

/// What an attempt that was cut off has left: nothing in it was ever used.
pub(super) fn remove(dir: &std::path::Path) -> Result<(), MembershipError> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(refused(&format!("{} cannot be removed: {error}", dir.display())))
        }
        _ => Ok(()),
    }
}

/// The files that count, and the revision of the one that was named.
#[expect(clippy::type_complexity, reason = "three parts of one answer, taken apart at once")]
fn find(
    options: &RestoreOptions,
) -> Result<(Place, Vec<(String, Header)>, Option<Revision>), MembershipError> {
    let path = &options.from;
    let place = match path.is_dir() {
        true => Place::new(path),
        false => match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => Place::new(parent),
            _ => Place::new("."),
        },
    };
    let mut files = files_in(&place, None)?;
    let mut own = None;
    if !path.is_dir() {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let Some((_, header)) = files.iter().find(|(file, _)| *file == name) else {
            return Err(refused(&format!("{} is not a backup, or cannot be read", path.display())));
        };
        own = Some(header.revision);
        let cluster = header.cluster;
        files.retain(|(_, header)| header.cluster == cluster);
    }
    let clusters: std::collections::BTreeSet<ClusterId> =
        files.iter().map(|(_, header)| header.cluster).collect();
    match clusters.len() {
        0 => Err(refused(&format!("there are no backups in {}", place.path().display()))),
        1 => Ok((place, files, own)),
        _ => Err(refused(&format!(
            "{} holds backups of several clusters: name a file of the one that is meant",
            place.path().display()
        ))),
    }
}
