//! Which nodes are up and which are down.
//!
//! *Suspect* is a node's own and immediate judgement and steers its data path. *Down* is committed here, with
//! hysteresis and by a majority of those who report; it affects DNS and new placement only. A node that keeps going
//! down has to be reached for longer each time before it is up again.

use std::time::Duration;

use crate::{
    command::{Actor, Body, Cause, Command, Fence},
    id::NodeId,
    observation::Observations,
    record::{Leadership, Node, Verdict},
    state::ClusterState,
    time::Timestamp,
};

/// A node that a majority has not reached for this long is down.
pub const DOWN_AFTER: Duration = Duration::from_millis(1500);
/// A node that a majority has reached for this long is up again, if it has not flapped.
pub const UP_AFTER: Duration = Duration::from_millis(2000);
/// However often a node has flapped, it is up again when it has been reached for this long.
pub const UP_AFTER_MAX: Duration = Duration::from_secs(120);

/// How long a node that is down has to be reached before it is up again: twice as long after each flap.
#[must_use]
pub fn up_after(node: &Node) -> Duration {
    UP_AFTER.saturating_mul(1 << node.flaps.min(16)).min(UP_AFTER_MAX)
}

pub(super) fn decide(
    state: &ClusterState,
    seen: &Observations,
    leadership: Leadership,
    now: Timestamp,
) -> Vec<Command> {
    state.nodes().values().filter_map(|node| judge(state, node, seen, leadership, now)).collect()
}

fn judge(
    state: &ClusterState,
    node: &Node,
    seen: &Observations,
    leadership: Leadership,
    now: Timestamp,
) -> Option<Command> {
    let wanted = match node.verdict {
        Verdict::Up => Verdict::Down,
        Verdict::Down => Verdict::Up,
    };
    let (alive, patience) = match wanted {
        Verdict::Up => (true, up_after(node)),
        Verdict::Down => (false, DOWN_AFTER),
    };
    let reporters: Vec<(NodeId, Option<Duration>)> = seen
        .fresh(now)
        .filter(|(reporter, _)| *reporter != node.id)
        .filter_map(|(reporter, report)| {
            let seen = report.peers.get(&node.id)?;
            let time = report.at.since(seen.since);
            Some((reporter, (seen.alive == alive && time >= patience).then_some(time)))
        })
        .collect();
    let agreeing: Vec<(NodeId, Duration)> =
        reporters.iter().filter_map(|(id, time)| Some((*id, (*time)?))).collect();
    // Its own word: none, at work, or about to stop.
    let own = seen.fresh(now).find(|(reporter, _)| *reporter == node.id).map(|(_, report)| report.stopping);
    let majority = agreeing.len() * 2 > reporters.len();
    // Those who should have a say. A leader that was stopped for a moment has its own report alone at first, and
    // judges nobody by it.
    let witnesses = state
        .nodes()
        .values()
        .filter(|other| other.id != node.id)
        .filter(|other| other.verdict == Verdict::Up || other.id == leadership.node)
        .count();
    let enough = agreeing.len() * 2 > witnesses;
    let agreed = match wanted {
        Verdict::Up => own == Some(false) && majority,
        // Nobody has to reach the leader for its followers to know that it lives: they follow it.
        Verdict::Down => node.id != leadership.node && (own == Some(true) || (majority && enough)),
    };
    if !agreed {
        return None;
    }
    let reason = match wanted {
        Verdict::Down if own == Some(true) => "it says that it is stopping".to_owned(),
        _ => {
            let names: Vec<String> =
                agreeing.iter().map(|(id, _)| state.node_name(*id).to_string()).collect();
            let longest = agreeing.iter().map(|(_, time)| *time).max().unwrap_or_default();
            let reached = if wanted == Verdict::Up { "reached" } else { "not reached" };
            let damped = if wanted == Verdict::Up && node.flaps > 0 {
                "; that long because it keeps going down"
            } else {
                ""
            };
            format!(
                "{reached} for {:.1} s by {} ({} of {} nodes that report on it){damped}",
                longest.as_secs_f32(),
                names.join(", "),
                agreeing.len(),
                reporters.len(),
            )
        }
    };
    Some(Command {
        request: None,
        at: now,
        cause: Cause::new(Actor::Leader(leadership.node), reason),
        fence: Fence::Term(leadership.term),
        body: Body::NodeVerdict { node: node.id, verdict: wanted },
    })
}
