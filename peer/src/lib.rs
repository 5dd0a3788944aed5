//! Node identity and the mTLS streams between nodes.
//!
//! - [`identity`]: keys, certificates, the cluster's authority, the keyring that seals secrets;
//! - [`BoundPeers`], [`Peers`], [`PeersTask`]: the listener, the pooled connections, the probes;
//! - [`join`]: how somebody who is not a node yet talks to one that is.
//!
//! Each node keeps two connections to every other node of its [plan](pangolin_core::plan::PeerPlan): the
//! *control* lane (requests and probes, framed by this crate) and the *bulk* lane (byte streams, multiplexed by
//! yamux), so that a snapshot or a relayed download never delays a heartbeat. A node dials both lanes itself; on
//! the ones that others dialled it only answers.
//!
//! Not here: what the requests say, and who is a member. Both come from the callers.

mod bulk;
mod clock;
mod control;
mod error;
mod frame;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod hello;
pub mod identity;
pub mod join;
mod link;
mod listener;
mod peers;
mod service;
mod shared;
mod socket;
mod tls;

pub use bulk::PeerStream;
pub use clock::{steady_now, wall_now};
pub use error::PeerError;
pub use frame::MESSAGE_MAX;
pub use futures_util::future::BoxFuture;
pub use link::{PROBE_INTERVAL, SUSPECT_AFTER};
pub use peers::{BoundPeers, Peers, PeersTask};
pub use service::{Handler, Service};
