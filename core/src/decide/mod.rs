//! The leader's judgement: what to propose, given the state and what the nodes have seen.

mod liveness;
mod placement;
mod renewal;

use crate::{command::Command, id::NodeId, observation::Observations, state::ClusterState, time::Timestamp};

pub use renewal::certificates_due;

pub use liveness::{DOWN_AFTER, UP_AFTER};

/// What the leader proposes now. Every command carries the fence it was decided under, so that one which comes late
/// changes nothing.
///
/// `leader` is the node that decides: the leader of the state's current term. At rest the answer is empty.
#[must_use]
pub fn decide(state: &ClusterState, seen: &Observations, leader: NodeId, now: Timestamp) -> Vec<Command> {
    let Some(leadership) = state.leadership().filter(|leadership| leadership.node == leader) else {
        return Vec::new();
    };
    let mut commands = liveness::decide(state, seen, leadership, now);
    commands.extend(placement::decide(state, seen, leadership, now));
    commands
}
