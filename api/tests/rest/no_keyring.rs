//! The one-node cluster of these tests has no keyring: `tests/keyring.rs` has nodes with one.

use futures_util::future::BoxFuture;
use pangolin_api::{ApiFailure, KeyringPort};
use pangolin_core::{Cause, RequestId};
use pangolin_wire::{Code, KeyringEscrow};

pub(crate) struct NoKeyring;

impl KeyringPort for NoKeyring {
    fn rotate(&self, _: Cause, _: RequestId) -> BoxFuture<'_, Result<(), ApiFailure>> {
        Box::pin(async { Err(ApiFailure::new(Code::Conflict, "this node holds no keys")) })
    }

    fn escrow(&self) -> Result<KeyringEscrow, ApiFailure> {
        Err(ApiFailure::new(Code::Conflict, "this node holds no keys"))
    }
}
