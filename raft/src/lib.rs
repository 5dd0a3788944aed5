//! The one door to openraft: the replicated log, and the state that every node derives from it.
//!
//! [`Cluster`] is one node's part in the group. Whoever changes something calls [`Cluster::propose`], on any node;
//! whoever acts on the state follows [`Cluster::watch`]. What only a leader may do is on [`Leader`].
//!
//! Not here: what the commands mean (`core`), how bytes reach a disk (`storage`) or another node (`peer`). No type
//! of openraft is part of this crate's interface.

mod cluster;
mod config;
mod error;
mod follow;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod hold;
mod leader;
mod log;
mod machine;
mod messages;
mod nearest;
mod network;
pub mod offline;
#[cfg(planted)]
mod planted;
mod propose;
mod pulse;
mod rounds;
mod serve;
mod snapshot_stream;
mod status;
#[cfg(test)]
mod suite_tests;
mod transport;
mod types;

pub use cluster::Cluster;
pub use config::{Clock, RaftConfig, Timing};
pub use error::{MembershipError, NotYet, ProposeError, RaftError};
pub use leader::Leader;
pub use propose::{Committed, IN_FLIGHT_BYTES, PROPOSE_DEADLINE, Proposal};
pub use serve::Endpoint;
pub use status::{RaftStatus, ServerState};
pub use transport::{Duplex, Transport};
