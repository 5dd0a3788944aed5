//! The sites' control channel: connectors sign in, open a WebSocket, register their WireGuard key, and are told where
//! their tunnel ends and what it carries. The protocol is Newt's, so that an unmodified Newt works, with an addition
//! for connectors that keep tunnels to several nodes ([`messages`]).
//!
//! The edge hands the requests in ([`ControlService::serves`], [`ControlService::handle`]); the node answers the
//! layer's questions through [`SiteControl`] and reads who is attached and what their targets are like. Nothing is
//! decided here: where a tunnel ends is in the plan, except for [`ControlService::move_to`], which says it ahead of it.
//!
//! Not here: the tunnels themselves, and the Docker and private-client parts of Newt, whose messages are ignored.
//! Blueprints are refused with what to do instead.

mod attached;
mod config;
pub mod messages;
mod over_tls;
mod service;
mod session;
mod socket;
mod token;

use std::{net::SocketAddr, sync::Arc};

use futures_util::future::BoxFuture;
use pangolin_core::{
    NodeId, SiteId, Timestamp,
    plan::TunnelPlan,
    record::{Digest, TunnelKey},
};
use tokio::sync::watch;
use zeroize::Zeroizing;

pub use attached::FAREWELL_LIFETIME;
pub use over_tls::DATAGRAM_MAX;
pub use service::{
    AnswerBody, ControlService, DATAGRAMS_PATH, PROVISION_PATH, SOCKET_PATH, TOKEN_PATH, VERSION_PATH,
};

/// Tells the time.
pub type Clock = fn() -> Timestamp;

/// A connector's key was not committed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the connector's key was not committed: {reason}")]
pub struct RegisterError {
    /// Why, and what to do.
    pub reason: String,
}

/// A connector that brought a provisioning key was given no site.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProvisionError {
    /// The key is none, or good for nothing any more. Which of it is for the log: who guesses is told no more.
    #[error("the provisioning key is not valid, has expired or has been used up")]
    Key,
    /// The site was not made.
    #[error("the site was not made: {reason}")]
    Site {
        /// Why, and what to do.
        reason: String,
        /// Whether it may succeed later.
        later: bool,
    },
}

/// A connector's credentials.
pub struct Provisioned {
    /// Public half.
    pub connector_id: String,
    /// Secret half.
    pub secret: Zeroizing<String>,
}

/// What the control channel asks of the node.
pub trait SiteControl: Send + Sync + 'static {
    /// The enabled site that has these credentials. Called for every reconnect of every connector: a lookup and a
    /// fast hash, compared in constant time.
    fn sign_in(&self, connector_id: &str, secret: &str) -> Option<SiteId>;

    /// Makes a site for a connector that brings a provisioning key, and gives it credentials. `name` is the connector's
    /// wish for a display name.
    ///
    /// # Errors
    /// [`ProvisionError`] if the key is not good, or nothing can be committed now.
    fn provision(
        &self,
        key: String,
        name: Option<String>,
    ) -> BoxFuture<'_, Result<Provisioned, ProvisionError>>;

    /// Digest of the site's present secret; none = there is no such site, or it is off. Tokens and open sockets end
    /// when it changes.
    fn credential(&self, site: SiteId) -> Option<Digest>;

    /// Commits the key of a site's connector. Returns when that is applied here. A registration that changes nothing
    /// is repeated at every reconnect and needs no commit.
    ///
    /// # Errors
    /// [`RegisterError`] if it is refused or cannot be committed now.
    fn register(
        &self,
        site: SiteId,
        key: TunnelKey,
        version: String,
        multi_homed: bool,
    ) -> BoxFuture<'_, Result<(), RegisterError>>;

    /// Whether `node` has a live tunnel to the site, as far as is known here. It decides whether a Newt that comes
    /// back is left alone or has to rebuild its tunnel.
    fn carried(&self, site: SiteId, node: NodeId) -> bool;

    /// Whether `node` does not answer this one: no connector is sent there.
    fn suspect(&self, node: NodeId) -> bool;

    /// Where this node's WireGuard takes datagrams; none = it carries no tunnels.
    fn wireguard(&self) -> Option<SocketAddr>;

    /// What is to be told.
    fn plan(&self) -> watch::Receiver<Arc<TunnelPlan>>;

    /// This node.
    fn node(&self) -> NodeId;
}

/// See [`crate::fuzz`].
#[cfg(any(test, fuzzing))]
pub(crate) fn check_token(
    key: &[u8; 32],
    token: &str,
    now: pangolin_core::time::Timestamp,
    credential: impl FnOnce(pangolin_core::id::SiteId) -> Option<pangolin_core::record::Digest>,
) -> bool {
    token::Tokens::new(key).check(token, now, credential).is_ok()
}
