//! Why a node leads: what it knows of the leader before it.

use crate::{
    command::{Actor, Cause},
    decision::Aspect,
    id::{NodeId, Revision},
    observation::Observations,
    outcome::Object,
    record::{AdminState, NodeRole},
    state::ClusterState,
    time::Timestamp,
};

/// The cause with which `node`, just elected, takes up its duties.
#[must_use]
pub fn elected(state: &ClusterState, seen: &Observations, node: NodeId, now: Timestamp) -> Cause {
    let cause = |reason: String| Cause::new(Actor::Leader(node), reason);
    let Some(before) = state.leadership() else {
        return cause("elected: the first leader of this cluster".to_owned());
    };
    if before.node == node {
        return cause("elected again".to_owned());
    }
    let name = state.node_name(before.node);
    if !state.nodes().contains_key(&before.node) {
        return cause(format!("elected: {name}, which led before, has left the cluster"));
    }
    let report = |of: NodeId| seen.fresh(now).find(|(id, _)| *id == of).map(|(_, report)| report);
    if report(before.node).is_some_and(|report| report.stopping) {
        return cause(format!("elected: {name}, which led before, says that it is stopping"));
    }
    let own = report(node).and_then(|report| Some((report.at, *report.peers.get(&before.node)?)));
    cause(match own {
        Some((at, peer)) if !peer.alive => format!(
            "elected: {name}, which led before, has not answered it for {:.1} s",
            at.since(peer.since).as_secs_f32()
        ),
        Some(_) => {
            let (why, wanted) = gave_up(state, before.node);
            let reason = format!(
                "elected: {name}, which led before, {why}still answers it and gave the leadership up"
            );
            return cause(reason).because(wanted);
        }
        None => format!("elected: nothing is known here yet of {name}, which led before"),
    })
}

/// Why a leader that lives gave the leadership up, and the decision that led to it, where the state tells.
fn gave_up(state: &ClusterState, before: NodeId) -> (&'static str, Option<Revision>) {
    let Some(node) = state.nodes().get(&before) else { return ("", None) };
    let wanted = || Some(state.decisions().latest(&Object::Node(before), Aspect::Admin)?.revision);
    match (node.admin, node.spec.role) {
        (AdminState::Drained, _) => ("is drained, ", wanted()),
        (AdminState::Leaving, _) => ("is leaving the cluster, ", wanted()),
        (AdminState::Active, NodeRole::Witness) => ("is a witness, ", None),
        (AdminState::Active, NodeRole::Data) => ("", None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Body, Command, Fence};

    #[test]
    fn a_new_leader_says_what_it_knows_of_the_one_before_it() {
        let (one, two, now) = (NodeId(1), NodeId(2), Timestamp(10_000));
        let mut state = ClusterState::default();
        let reason = |state: &ClusterState, seen: &Observations| elected(state, seen, one, now).reason;
        assert_eq!(reason(&state, &Observations::default()), "elected: the first leader of this cluster");
        for (index, node) in [(1, one), (2, two)] {
            let body = Body::LeaderStarted { term: index, node };
            let cause = Cause::new(Actor::Leader(node), "test");
            state.apply(index, &Command { request: None, at: now, cause, fence: Fence::None, body });
            if node == one {
                assert_eq!(reason(&state, &Observations::default()), "elected again");
            }
        }
        assert_eq!(
            reason(&state, &Observations::default()),
            "elected: node 2, which led before, has left the cluster"
        );
    }
}
