//! What the API asks of backups.

use futures_util::future::BoxFuture;
use pangolin_api::{ApiFailure, BackupPort};
use pangolin_core::{Body, Cause, Fence, Refusal, RequestId};
use pangolin_peer::identity::{RecoveryKey, fingerprint};
use pangolin_raft::Proposal;
use pangolin_storage::backup::{Header, Kind};
use pangolin_wire::{
    Backup, BackupKind, BackupList, Code, Moment, NewRecoveryKey, Pagination, RestoredCatalog,
    VerifiedBackups,
};

use super::{BackupError, Backups, blocking, catalog::Restored, verify::verify};

impl From<BackupError> for ApiFailure {
    fn from(error: BackupError) -> Self {
        let text = error.to_string();
        match error {
            BackupError::Point(_) => Self::invalid(text),
            BackupError::NoWay(_) => Self::new(Code::NotFound, text),
            BackupError::Refused(_) | BackupError::Witness => Self::new(Code::Conflict, text),
            BackupError::NoCluster => Refusal::NoCluster.into(),
            BackupError::NotReplaced(_) => Self::not_appended(text),
            BackupError::Storage(_) | BackupError::Raft(_) | BackupError::Ended(_) => Self::internal(text),
        }
    }
}

fn render(name: String, size: u64, header: &Header) -> Backup {
    let (kind, first) = match header.kind {
        Kind::State { .. } => (BackupKind::State, None),
        Kind::Log { first } => (BackupKind::Log, Some(first)),
    };
    Backup {
        name,
        kind,
        size,
        first,
        revision: header.revision,
        time: Moment(header.time),
        made_at: Moment(header.made_at),
        made_by: header.made_by,
        version: header.version.clone(),
    }
}

impl Backups {
    async fn list_all(&self) -> Result<BackupList, ApiFailure> {
        let inner = self.inner.clone();
        let files = blocking(move || Ok(inner.place.list()?)).await?;
        let (mut backups, mut problems) = (Vec::new(), Vec::new());
        for file in files {
            match file.header {
                Ok(header) => backups.push(render(file.name, file.size, &header)),
                Err(found) => problems.push(format!("{}: {found}", file.name)),
            }
        }
        backups.sort_by_key(|backup| (backup.kind == BackupKind::Log, backup.revision));
        let recovery_key = self.inner.cluster.state().recovery_key().as_ref().map(fingerprint);
        let pagination = Pagination { total: 0, limit: 0, offset: 0 };
        Ok(BackupList { backups, problems, recovery_key, pagination })
    }

    async fn make(&self) -> Result<Backup, ApiFailure> {
        let header = self.create().await?;
        let name = header.file_name();
        let size = std::fs::metadata(self.place().path().join(&name)).map_or(0, |file| file.len());
        Ok(render(name, size, &header))
    }

    async fn verify_all(&self) -> Result<VerifiedBackups, ApiFailure> {
        let inner = self.inner.clone();
        let report = blocking(move || verify(&inner.place, &*inner.keyring()?)).await?;
        let super::verify::Report { states, segments, joined, problems } = report;
        Ok(VerifiedBackups { states, segments, joined, problems })
    }

    async fn restore_catalog(
        &self,
        at: Option<String>,
        cause: Cause,
        request: RequestId,
    ) -> Result<RestoredCatalog, ApiFailure> {
        if self.inner.cluster.state().outcome_of(request).is_some() {
            let resources = self.inner.cluster.state().resources().len();
            let sites_without_credentials = Vec::new();
            return Ok(RestoredCatalog {
                from: None,
                time: None,
                resources,
                sites_without_credentials,
                undo: None,
            });
        }
        let Restored { from, time, resources, without_credentials, undo } =
            self.restore(at.as_deref(), cause, request).await?;
        Ok(RestoredCatalog {
            from: Some(from),
            time: Some(Moment(time)),
            resources,
            sites_without_credentials: without_credentials,
            undo: Some(undo),
        })
    }

    async fn change_key(&self, cause: Cause, request: RequestId) -> Result<NewRecoveryKey, ApiFailure> {
        let key = RecoveryKey::generate().map_err(|error| ApiFailure::internal(error.to_string()))?;
        let body = Body::RecoveryKeyChanged(key.public());
        let proposal = Proposal { request: Some(request), cause, fence: Fence::None, body };
        let committed = self.inner.cluster.propose(proposal).await?;
        committed.outcome.into_result()?;
        let shown =
            self.inner.cluster.wait_applied(committed.revision, std::time::Duration::from_secs(2)).await;
        shown.map_err(|error| ApiFailure::new(Code::NotVisibleYet, error.to_string()))?;
        if self.inner.cluster.state().recovery_key() != Some(key.public()) {
            return Err(ApiFailure::new(
                Code::Conflict,
                "a recovery key was made, but the answer with it was lost, or another one was made since",
            )
            .hint("Make another one: only the last one counts for new backups."));
        }
        // Backups of now are worth nothing to whoever has only the new key.
        self.create().await?;
        Ok(NewRecoveryKey {
            recovery_key: key.to_text().to_string(),
            fingerprint: fingerprint(&key.public()),
        })
    }
}

impl BackupPort for Backups {
    fn list(&self) -> BoxFuture<'_, Result<BackupList, ApiFailure>> {
        Box::pin(self.list_all())
    }

    fn create(&self) -> BoxFuture<'_, Result<Backup, ApiFailure>> {
        Box::pin(self.make())
    }

    fn verify(&self) -> BoxFuture<'_, Result<VerifiedBackups, ApiFailure>> {
        Box::pin(self.verify_all())
    }

    fn restore(
        &self,
        at: Option<String>,
        cause: Cause,
        request: RequestId,
    ) -> BoxFuture<'_, Result<RestoredCatalog, ApiFailure>> {
        Box::pin(self.restore_catalog(at, cause, request))
    }

    fn new_recovery_key(
        &self,
        cause: Cause,
        request: RequestId,
    ) -> BoxFuture<'_, Result<NewRecoveryKey, ApiFailure>> {
        Box::pin(self.change_key(cause, request))
    }
}
