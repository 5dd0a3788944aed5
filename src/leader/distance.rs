//! Whether the voters are further apart than the timing of the elections allows for.
//!
//! The timing is configured, the same on every node: each would measure something else, and an election that each node
//! times in its own way takes longer, not shorter. What is measured is an advice.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use pangolin_core::{ClusterState, NodeId};
use pangolin_raft::Timing;

/// Round trips that are this long for so long are no passing trouble.
const LASTING: Duration = Duration::from_secs(30);

/// What is remembered between looks: since when each voter has been far away.
#[derive(Debug, Default)]
pub(super) struct Distance {
    far_since: BTreeMap<NodeId, Instant>,
}

impl Distance {
    /// The voters that have been too far from the leader for a while, with their round trips.
    pub(super) fn look(
        &mut self,
        timing: Timing,
        round_trips: impl IntoIterator<Item = (NodeId, Duration)>,
        now: Instant,
    ) -> Vec<(NodeId, Duration)> {
        let limit = timing.round_trip_max();
        let far: BTreeMap<NodeId, Duration> =
            round_trips.into_iter().filter(|(_, round_trip)| *round_trip > limit).collect();
        self.far_since.retain(|node, _| far.contains_key(node));
        far.into_iter()
            .filter(|(node, _)| now.duration_since(*self.far_since.entry(*node).or_insert(now)) >= LASTING)
            .collect()
    }
}

/// What an operator is told of them; none where the timing fits.
pub(super) fn advice(state: &ClusterState, timing: Timing, far: &[(NodeId, Duration)]) -> Option<String> {
    if far.is_empty() {
        return None;
    }
    let named: Vec<String> = far
        .iter()
        .map(|(node, round_trip)| {
            let name =
                state.nodes().get(node).map_or_else(|| format!("node {node}"), |n| n.spec.name.to_string());
            format!("{name} {} ms", round_trip.as_millis())
        })
        .collect();
    let remedy = if timing == Timing::lan() {
        "peer.timing = \"wan\" in the configuration of every node, and a restart one by one, keeps leaders from being \
         given up too early"
    } else {
        "expect elections without need: no timing is made for that"
    };
    Some(format!(
        "round trips from the leader take longer than the {} ms that the timing of the elections allows for: {}; {remedy}",
        timing.round_trip_max().as_millis(),
        named.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn voters_that_stay_far_away_are_told_and_no_others() {
        let (mut distance, start) = (Distance::default(), Instant::now());
        let mut at = |second: u64, round_trips: &[(u64, u64)]| {
            let measured = round_trips.iter().map(|(id, ms)| (NodeId(*id), Duration::from_millis(*ms)));
            let far = distance.look(Timing::lan(), measured, start + Duration::from_secs(second));
            far.into_iter().map(|(id, _)| id.0).collect::<Vec<_>>()
        };
        assert!(at(0, &[(2, 51), (3, 50)]).is_empty(), "it may pass");
        assert!(at(29, &[(2, 80), (3, 1)]).is_empty());
        assert_eq!(at(30, &[(2, 80), (3, 80)]), [2]);
        assert!(at(40, &[(2, 20), (3, 80)]).is_empty(), "it came closer");
        assert_eq!(at(60, &[(2, 80), (3, 80)]), [3], "the one begins anew");
    }

    #[test]
    fn the_advice_names_nodes_figures_and_the_setting() {
        let state = ClusterState::default();
        assert_eq!(advice(&state, Timing::lan(), &[]), None);
        let far = [(NodeId(7), Duration::from_millis(83))];
        let lan = advice(&state, Timing::lan(), &far).expect("an advice");
        assert!(lan.contains("50 ms") && lan.contains("node 7 83 ms") && lan.contains("\"wan\""), "{lan}");
        let wan = advice(&state, Timing::wan(), &far).expect("an advice");
        assert!(wan.contains("no timing is made for that"), "{wan}");
    }
}
