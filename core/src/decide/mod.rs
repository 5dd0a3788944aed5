//! The leader's judgement: what to propose, given the state and what the nodes have seen.

mod ahead;
mod leadership;
mod levels;
mod liveness;
mod placement;
mod ranking;
mod renewal;
mod voters;

use crate::{command::Command, id::NodeId, observation::Observations, state::ClusterState, time::Timestamp};

pub use ahead::{Ahead, PUSH_AGAIN, PUSH_PATIENCE, PUSHES_MAX, Sight, tunnel_end};
pub use leadership::elected;
pub use renewal::{
    certificate_cause, certificates_due, certificates_unneeded, certificates_wanted, is_due, order_cause,
};
pub use voters::{
    Step, VOTERS_MAX, Voting, check_promotion, check_removal, hand_over, next_step, remarks, willingness,
};

pub use levels::{LEVEL_STABLE, common_level};
pub use liveness::{DOWN_AFTER, UP_AFTER, UP_AFTER_MAX, up_after};

/// What the leader proposes now. Every command carries the fence it was decided under, so that one which comes late
/// changes nothing.
///
/// `leader` is the node that decides: the leader of the state's current term; `now` is the time by its steady clock,
/// as for [`Observations::insert`]. At rest the answer is empty.
#[must_use]
pub fn decide(state: &ClusterState, seen: &Observations, leader: NodeId, now: Timestamp) -> Vec<Command> {
    let Some(leadership) = state.leadership().filter(|leadership| leadership.node == leader) else {
        return Vec::new();
    };
    let mut commands = liveness::decide(state, seen, leadership, now);
    commands.extend(placement::decide(state, seen, leadership, now));
    commands.extend(levels::decide(state, seen, leadership, now));
    commands
}
