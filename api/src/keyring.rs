//! What the API needs of the node for the keys that seal: only a node has them.

use futures_util::future::BoxFuture;
use pangolin_core::{Cause, RequestId};
use pangolin_wire::KeyringEscrow;

use crate::failure::ApiFailure;

/// The keyring of the node that is asked.
pub trait KeyringPort: Send + Sync {
    /// Makes the next key-encryption key, and tells the cluster of it: the rotation goes on by itself.
    ///
    /// # Errors
    /// A rotation is under way already, or the cluster takes no changes.
    fn rotate(&self, cause: Cause, request: RequestId) -> BoxFuture<'_, Result<(), ApiFailure>>;

    /// The keyring, encrypted to the recovery key.
    ///
    /// # Errors
    /// This node has none, or the cluster has no recovery key yet.
    fn escrow(&self) -> Result<KeyringEscrow, ApiFailure>;
}
