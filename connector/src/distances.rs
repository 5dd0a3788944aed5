//! How far the nodes are with a tunnel, and when that is worth telling. Pure.

use std::{collections::BTreeMap, time::Duration};

use pangolin_core::NodeId;
use pangolin_tunnel::control::messages::PingResult;

/// Round trips by node.
pub type Distances = BTreeMap<NodeId, Duration>;

/// A distance that differs by no more than this from what was told is the same …
const SAME: Duration = Duration::from_millis(5);
/// … and so is one that differs by no more than this part of it.
const SAME_PART: u32 = 5;

/// Whether `now` says something that was not `told`: of a node that is new in it, or much nearer or farther. That a node
/// is not measured any more is no news.
#[must_use]
pub fn is_news(told: &Distances, now: &Distances) -> bool {
    now.iter().any(|(node, now)| {
        told.get(node).is_none_or(|told| {
            let difference = now.abs_diff(*told);
            difference > SAME && difference > *told / SAME_PART
        })
    })
}

/// Distances as they are told.
#[must_use]
pub fn results(distances: &Distances) -> Vec<PingResult> {
    let result = |(node, took): (&NodeId, &Duration)| PingResult {
        exit_node_id: node.0,
        latency_ms: (took.as_secs_f64() * 10_000.0).round() / 10.0,
        error: None,
    };
    distances.iter().map(result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn distances(pairs: &[(u64, u64)]) -> Distances {
        pairs.iter().map(|(node, ms)| (NodeId(*node), Duration::from_millis(*ms))).collect()
    }

    #[test]
    fn what_differs_by_a_fifth_and_five_milliseconds_is_news() {
        type Pairs = &'static [(u64, u64)];
        let cases: [(&str, Pairs, Pairs, bool); 9] = [
            ("nothing at all", &[], &[], false),
            ("the first", &[], &[(1, 10)], true),
            ("the same", &[(1, 10)], &[(1, 10)], false),
            ("one more", &[(1, 10)], &[(1, 10), (2, 10)], true),
            ("one less", &[(1, 10), (2, 10)], &[(1, 10)], false),
            ("a fifth of little", &[(1, 10)], &[(1, 15)], false),
            ("more than that", &[(1, 10)], &[(1, 16)], true),
            ("little of much", &[(1, 100)], &[(1, 120)], false),
            ("nearer", &[(1, 100)], &[(1, 79)], true),
        ];
        for (what, told, now, expected) in cases {
            assert_eq!(is_news(&distances(told), &distances(now)), expected, "{what}");
        }
    }

    #[test]
    fn distances_are_told_in_milliseconds() {
        let told = results(&BTreeMap::from([(NodeId(2), Duration::from_micros(11_349))]));
        assert_eq!((told[0].exit_node_id, told[0].latency_ms), (2, 11.3));
    }
}
