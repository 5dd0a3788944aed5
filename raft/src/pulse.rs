//! Heartbeats and the election timer, without the wake-ups of openraft's ticks.
//!
//! openraft ticks five times per heartbeat, all the time, on every node. A leader needs none of these ticks but those
//! that send heartbeats, and a follower that has just heard its leader cannot stand for election for a while: with its
//! ticks off an idle node sleeps twice as long.
//!
//! Where the leader is known to be gone (its connection broke, its probes stay unanswered), nobody waits for the random
//! part of the election timeout, which is there because followers do not know of each other: the one that leads most
//! gladly asks for votes as soon as the lease has ended, the next one a moment later.

use std::{cmp::Reverse, sync::Weak, time::Duration};

use openraft::async_runtime::watch::WatchReceiver as _;
use pangolin_core::{decide::willingness, id::NodeId};

use crate::{cluster::Inner, config::Timing, nearest::Voter};

/// Each node took what the dead leader sent last at its own moment: the others' leases end a little later.
const LEASES_END: Duration = Duration::from_millis(20);
/// How long each one has to win before the next one asks as well.
const TURN: Duration = Duration::from_millis(80);

/// What a node does about time right now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pulse {
    /// It leads: it sends a heartbeat, and the next one after [`Timing::heartbeat`].
    Heartbeat,
    /// The leader was heard: nothing, for so long.
    Rest(Duration),
    /// The leader has been silent: openraft ticks, and stands for election when its time has come; look again after so
    /// long.
    Tick(Duration),
    /// The leader is gone, and it is this node's turn to ask for votes.
    Stand,
}

/// `heard`: how long ago this node took something from a leader, whose lease ends [`Timing::election_max`] after that;
/// by itself openraft stands for election [`Timing::election_min`] later at the earliest. `turn`: how many voters come
/// before this one, where the leader is gone.
fn pulse(leads: bool, heard: Option<Duration>, turn: Option<u32>, timing: &Timing) -> Pulse {
    let lease = timing.election_max;
    match (heard, turn) {
        _ if leads => Pulse::Heartbeat,
        (Some(heard), _) if heard < lease => Pulse::Rest(lease - heard),
        (Some(heard), Some(turn)) => {
            let at = lease + LEASES_END + TURN.saturating_mul(turn);
            if heard < at { Pulse::Tick(at - heard) } else { Pulse::Stand }
        }
        _ => Pulse::Tick(timing.heartbeat / 4),
    }
}

/// Sends this node's heartbeats while it leads, and lets openraft tick while nobody does. Ends with Raft.
pub(crate) async fn beat(inner: Weak<Inner>) {
    let Some(first) = inner.upgrade() else { return };
    let mut server = first.raft.server_metrics();
    drop(first);
    // It asks once for each time that a leader falls silent; openraft asks again, in its own time.
    let mut stood = None;
    loop {
        let wait = {
            let Some(inner) = inner.upgrade() else { return };
            let leads = server.borrow_and_update().state.is_leader();
            let silent_since = inner.heard();
            let turn = if leads || stood == silent_since { None } else { inner.turn() };
            let pulse = pulse(leads, silent_since.map(|at| at.elapsed()), turn, &inner.timing);
            let raft = &inner.raft;
            raft.runtime_config().tick(matches!(pulse, Pulse::Tick(_) | Pulse::Stand));
            if leads {
                inner.choose_nearest();
            }
            let done = match pulse {
                Pulse::Heartbeat => raft.trigger().heartbeat().await,
                Pulse::Stand => {
                    stood = silent_since;
                    raft.trigger().elect(true).await
                }
                Pulse::Rest(_) | Pulse::Tick(_) => Ok(()),
            };
            if done.is_err() {
                return;
            }
            match pulse {
                Pulse::Rest(wait) | Pulse::Tick(wait) => wait,
                Pulse::Heartbeat | Pulse::Stand => inner.timing.heartbeat,
            }
        };
        tokio::select! {
            changed = server.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(wait) => {}
        }
    }
}

impl Inner {
    /// Chooses whom a confirmation asks first.
    fn choose_nearest(&self) {
        let others = self.raft.voter_ids().map(NodeId).filter(|node| *node != self.node);
        let look =
            |node| Voter { node, suspect: self.peers.is_suspect(node), distance: self.peers.distance(node) };
        self.nearest.choose(others.map(look).collect());
    }

    /// How many voters that can be reached lead more gladly than this one; none where the leader is not known to be
    /// gone.
    fn turn(&self) -> Option<u32> {
        let leader = self.leader().filter(|leader| *leader != self.node && self.peers.is_suspect(*leader))?;
        let state = self.state.borrow().clone();
        let rank = |node: NodeId| (Reverse(state.nodes().get(&node).map_or(0, willingness)), node);
        let voters: Vec<NodeId> = self.raft.voter_ids().map(NodeId).collect();
        let before = |node: &&NodeId| {
            **node != leader && rank(**node) < rank(self.node) && !self.peers.is_suspect(**node)
        };
        let count = voters.iter().filter(before).count();
        voters.contains(&self.node).then(|| u32::try_from(count).unwrap_or(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_rests_while_the_leader_is_heard_and_takes_its_turn_when_it_is_gone() {
        let timing = Timing::lan();
        let ms = Duration::from_millis;
        let poll = ms(50);
        let cases = [
            ("never heard one", false, None, None, Pulse::Tick(poll)),
            ("just heard it", false, Some(0), None, Pulse::Rest(ms(500))),
            ("just heard it, and lost the connection", false, Some(1), Some(0), Pulse::Rest(ms(499))),
            ("silent for a lease", false, Some(500), None, Pulse::Tick(poll)),
            ("gone, but others may have heard it later", false, Some(501), Some(0), Pulse::Tick(ms(19))),
            ("gone", false, Some(520), Some(0), Pulse::Stand),
            ("gone, and another one is to try first", false, Some(520), Some(1), Pulse::Tick(ms(80))),
            ("its turn", false, Some(601), Some(1), Pulse::Stand),
            ("leads", true, None, None, Pulse::Heartbeat),
            ("leads, and followed a moment ago", true, Some(10), None, Pulse::Heartbeat),
        ];
        for (who, leads, heard, turn, expected) in cases {
            assert_eq!(pulse(leads, heard.map(ms), turn, &timing), expected, "{who}");
        }
    }
}
