//! The one-node cluster of these tests makes no backups, and says so: `tests/recovery.rs` has real ones.

use futures_util::future::BoxFuture;
use pangolin_api::{ApiFailure, BackupPort};
use pangolin_core::{Cause, RequestId};
use pangolin_wire::{Backup, BackupList, Code, NewRecoveryKey, Pagination, RestoredCatalog, VerifiedBackups};

pub(crate) struct NoBackups;

fn none<T: Send + 'static>() -> BoxFuture<'static, Result<T, ApiFailure>> {
    Box::pin(async { Err(ApiFailure::new(Code::NotFound, "this node makes no backups")) })
}

impl BackupPort for NoBackups {
    fn list(&self) -> BoxFuture<'_, Result<BackupList, ApiFailure>> {
        Box::pin(async {
            let pagination = Pagination { total: 0, limit: 0, offset: 0 };
            Ok(BackupList { backups: vec![], problems: vec![], recovery_key: None, pagination })
        })
    }

    fn create(&self) -> BoxFuture<'_, Result<Backup, ApiFailure>> {
        none()
    }

    fn verify(&self) -> BoxFuture<'_, Result<VerifiedBackups, ApiFailure>> {
        none()
    }

    fn restore(
        &self,
        _at: Option<String>,
        _cause: Cause,
        _request: RequestId,
    ) -> BoxFuture<'_, Result<RestoredCatalog, ApiFailure>> {
        none()
    }

    fn new_recovery_key(
        &self,
        _cause: Cause,
        _request: RequestId,
    ) -> BoxFuture<'_, Result<NewRecoveryKey, ApiFailure>> {
        none()
    }
}
