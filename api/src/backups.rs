//! What the API needs of the node for backups.

use futures_util::future::BoxFuture;
use pangolin_core::{Cause, RequestId};
use pangolin_wire::{Backup, BackupList, NewRecoveryKey, RestoredCatalog, VerifiedBackups};

use crate::failure::ApiFailure;

/// The backups of the node that is asked.
pub trait BackupPort: Send + Sync {
    /// All of them.
    fn list(&self) -> BoxFuture<'_, Result<BackupList, ApiFailure>>;

    /// Makes one now.
    fn create(&self) -> BoxFuture<'_, Result<Backup, ApiFailure>>;

    /// Reads all of them.
    fn verify(&self) -> BoxFuture<'_, Result<VerifiedBackups, ApiFailure>>;

    /// Puts the catalog of a point in the past in the place of the present one.
    fn restore(
        &self,
        at: Option<String>,
        cause: Cause,
        request: RequestId,
    ) -> BoxFuture<'_, Result<RestoredCatalog, ApiFailure>>;

    /// Makes a new recovery key, which takes the place of the present one.
    fn new_recovery_key(
        &self,
        cause: Cause,
        request: RequestId,
    ) -> BoxFuture<'_, Result<NewRecoveryKey, ApiFailure>>;
}
