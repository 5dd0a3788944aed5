//! The pure heart of Pangolin Cluster.
//!
//! Everything that the cluster decides passes through three functions of this crate:
//!
//! - [`decide::decide`]: what the leader proposes, given the state and what the nodes have seen;
//! - [`state::ClusterState::apply`]: what a committed command does to the state, the same on every node;
//! - [`plan::plan`]: what one node must do now, given the state.
//!
//! Architecture invariant: no I/O, no clock, no randomness and no iteration over hash maps in here. Time and
//! random values arrive inside commands, stamped by whoever proposes them.

pub mod access;
pub mod agreement;
pub mod codec;
pub mod command;
pub mod decide;
pub mod decision;
pub mod dns;
pub mod fabric;
pub mod feature;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod health;
pub mod id;
pub mod issuance;
pub mod keyring;
pub mod name;
pub mod observation;
pub mod outcome;
pub mod plan;
#[cfg(planted)]
pub mod planted;
pub mod record;
pub mod rollover;
pub mod state;
pub mod time;
pub mod traffic;
pub mod why;

pub use self::time::Timestamp;
pub use codec::CodecError;
pub use command::{Actor, Body, CatalogChange, Cause, Command, Fence};
pub use decision::Decision;
pub use feature::FeatureLevel;
pub use id::{
    CertificateId, ClusterId, DomainId, Epoch, NodeId, RequestId, ResourceId, Revision, RoleId, SiteId,
    TargetId, TokenId, UserId,
};
pub use name::{HostName, NameError, Slug};
pub use observation::{Observations, Report};
pub use outcome::{Object, Outcome, Refusal};
pub use plan::{Plan, plan};
pub use state::ClusterState;
