//! What every node does on its own: it brings its layers in line with the plan, tells what it sees, and answers for
//! itself.
//!
//! Architecture invariant: nothing in here waits for a leader, an election or a commit to carry traffic.

pub mod agreement;
pub mod answers;
mod certificates;
pub mod checks;
pub mod control;
pub mod datagrams;
pub mod dialer;
pub mod journal;
pub mod keyring;
pub mod layers;
pub mod local_sites;
pub mod local_targets;
pub mod moves;
pub(crate) mod pace;
pub mod reach;
pub mod regions;
pub mod reports;
pub mod socket;
pub mod status;
pub mod targets;
pub mod txt;
pub mod verbs;
pub mod witness;
pub mod zones;
