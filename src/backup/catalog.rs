//! The restore into a cluster that runs: the catalog of then takes the place of the catalog of now, by going forward.

use std::time::Duration;

use pangolin_core::{
    Body, Cause, Fence, RequestId, Revision, Timestamp,
    id::ClientId,
    record::Digest,
    state::{Catalog, STAGED_PART_MAX},
};
use pangolin_raft::{Committed, Proposal};
use pangolin_storage::backup::Key;
use tokio::time::{Instant, sleep};
use tracing::info;

use super::{BackupError, Backups, blocking, files_in, point_of, state_at};

/// How long one step is tried while leadership moves.
const STEP: Duration = Duration::from_secs(20);
/// Pause before a step is tried again.
const RETRY: Duration = Duration::from_millis(200);
/// How long this node may take to show what the leader has done.
const SHOWN: Duration = Duration::from_secs(60);

/// What a restore has done.
#[derive(Debug)]
pub(super) struct Restored {
    pub(super) from: Revision,
    pub(super) time: Timestamp,
    pub(super) resources: usize,
    /// Sites whose connectors need new credentials.
    pub(super) without_credentials: Vec<String>,
    /// The backup of what was there before.
    pub(super) undo: Revision,
}

impl Backups {
    /// Puts the catalog of a point in the past in the place of the present one. Makes a backup first.
    pub(super) async fn restore(
        &self,
        at: Option<&str>,
        cause: Cause,
        request: RequestId,
    ) -> Result<Restored, BackupError> {
        let undo = self.create().await?.revision;
        let now = self.inner.cluster.state();
        let cluster = now.cluster().ok_or(BackupError::NoCluster)?.id;
        // Without a point it is the last backup before the one that was just made.
        let point = at.map(|text| point_of(text, now.revision().lineage)).transpose()?;
        let inner = self.inner.clone();
        let past = blocking(move || {
            let mut files = files_in(&inner.place, Some(cluster))?;
            let point = point.unwrap_or_else(|| {
                files.retain(|(_, header)| header.is_state() && header.revision < undo);
                pangolin_storage::backup::Point::Latest
            });
            state_at(&inner.place, &files, Key::Keyring(&*inner.keyring()?), point)
        })
        .await?;
        let catalog = past.state.catalog();
        let without_credentials: Vec<String> = catalog
            .sites_without_credentials(&now)
            .map(|site| format!("{}/{}", site.org, site.nice_id))
            .collect();
        let from = past.state.revision();
        let resources = catalog.resources();
        let revision = self.replace(catalog, from, &cause, request).await?;
        let shown = self.inner.cluster.wait_applied(revision, SHOWN).await;
        shown.map_err(|error| BackupError::Ended(format!("the catalog is replaced, but {error}")))?;
        info!(%from, %revision, "an earlier catalog was restored");
        let time = past.state.time();
        Ok(Restored { from, time, resources, without_credentials, undo })
    }

    async fn replace(
        &self,
        catalog: Catalog,
        from: Revision,
        cause: &Cause,
        request: RequestId,
    ) -> Result<Revision, BackupError> {
        let encode = move || catalog.encode().map_err(|error| BackupError::Ended(error.to_string()));
        let (bytes, digest) = blocking(encode).await?;
        let client = ClientId(part_client(request, digest));
        let mut parts = 0;
        for bytes in bytes.chunks(STAGED_PART_MAX) {
            let body = Body::CatalogStaged { catalog: digest, part: parts, bytes: bytes.to_vec() };
            parts += 1;
            let named = RequestId { client, serial: u64::from(parts) };
            self.step(Proposal { request: Some(named), cause: cause.clone(), fence: Fence::None, body })
                .await?;
        }
        let body = Body::CatalogReplaced { catalog: digest, parts, from };
        let proposal = Proposal { request: Some(request), cause: cause.clone(), fence: Fence::None, body };
        Ok(self.step(proposal).await?.revision)
    }

    /// Proposes until it is known what became of it: each step has a name, so that it is done once.
    async fn step(&self, proposal: Proposal) -> Result<Committed, BackupError> {
        let end = Instant::now() + STEP;
        loop {
            match self.inner.cluster.propose(proposal.clone()).await {
                Ok(committed) => {
                    return match committed.outcome.clone().into_result() {
                        Ok(_) => Ok(committed),
                        Err(refusal) => Err(BackupError::Refused(refusal.to_string())),
                    };
                }
                Err(error) if Instant::now() >= end => {
                    return Err(BackupError::NotReplaced(error.to_string()));
                }
                Err(_) => sleep(RETRY).await,
            }
        }
    }
}

/// Names the parts of one request: another one than the request itself, the same when it is repeated.
fn part_client(request: RequestId, catalog: Digest) -> [u8; 16] {
    let mut client = request.client.0;
    for (byte, other) in client.iter_mut().zip(catalog.0) {
        *byte ^= other;
    }
    client
}
