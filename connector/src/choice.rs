//! Which of the offered nodes to have tunnels to. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use pangolin_core::{NodeId, Timestamp, observation::Seen};

/// A path that has been dead for longer gets a stand-in. Shorter breaks, such as the restart of a node, are not worth
/// another tunnel.
pub const DEAD_AFTER: Duration = Duration::from_secs(10);

/// Where many connectors have lost the same node, their stand-ins come spread over this time: each shakes hands with a
/// node that may have hundreds to do.
pub const STAND_IN_SPREAD: Duration = Duration::from_secs(5);

/// A path that came back has to live this long before its stand-in goes.
pub const SETTLED_AFTER: Duration = Duration::from_secs(10);

/// Chooses from `offered` (best first): the first `most`, and for each of them that is dead the next one offered. The
/// dead ones stay chosen, so that their return is noticed; stand-ins in `held` stay until it has lasted a while. `later`
/// is what this connector waits beyond [`DEAD_AFTER`] and [`SETTLED_AFTER`].
#[must_use]
pub fn choose(
    offered: &[NodeId],
    held: &BTreeSet<NodeId>,
    paths: &BTreeMap<NodeId, Seen>,
    most: usize,
    later: Duration,
    now: Timestamp,
) -> Vec<NodeId> {
    let mut chosen = Vec::new();
    let (mut count, mut settled) = (0, true);
    for node in offered {
        let seen = paths.get(node);
        let long = |limit| seen.is_some_and(|seen| now.since(seen.since) > limit + later);
        let alive = seen.is_some_and(|seen| seen.alive);
        let dead = seen.is_some_and(|seen| !seen.alive) && long(DEAD_AFTER);
        if count < most {
            chosen.push(*node);
            settled &= alive && long(SETTLED_AFTER);
            count += usize::from(!dead);
        } else if alive && !settled && held.contains(node) {
            chosen.push(*node);
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_000_000);

    /// How a path looks: alive or dead for so many seconds.
    enum Path {
        Alive(u64),
        Dead(u64),
        Unseen,
    }
    use Path::{Alive, Dead, Unseen};

    #[test]
    fn the_first_nodes_are_chosen_and_the_dead_ones_have_stand_ins() {
        struct Case {
            what: &'static str,
            /// Of the nodes 1, 2, 3, 4.
            paths: [Path; 4],
            held: &'static [u64],
            expected: &'static [u64],
        }
        let cases = [
            Case {
                what: "at the start",
                paths: [Unseen, Unseen, Unseen, Unseen],
                held: &[],
                expected: &[1, 2],
            },
            Case {
                what: "all young",
                paths: [Alive(1), Alive(1), Unseen, Unseen],
                held: &[1, 2],
                expected: &[1, 2],
            },
            Case {
                what: "a short break",
                paths: [Dead(10), Alive(99), Unseen, Unseen],
                held: &[1, 2],
                expected: &[1, 2],
            },
            Case {
                what: "a long one",
                paths: [Dead(11), Alive(99), Unseen, Unseen],
                held: &[1, 2],
                expected: &[1, 2, 3],
            },
            Case {
                what: "the stand-in is dead too",
                paths: [Dead(30), Alive(99), Dead(11), Unseen],
                held: &[1, 2, 3],
                expected: &[1, 2, 3, 4],
            },
            Case {
                what: "all are dead",
                paths: [Dead(99), Dead(99), Dead(99), Dead(99)],
                held: &[1, 2, 3, 4],
                expected: &[1, 2, 3, 4],
            },
            Case {
                what: "just back: the stand-in stays",
                paths: [Alive(3), Alive(99), Alive(50), Unseen],
                held: &[1, 2, 3],
                expected: &[1, 2, 3],
            },
            Case {
                what: "back for good: given back",
                paths: [Alive(11), Alive(99), Alive(50), Unseen],
                held: &[1, 2, 3],
                expected: &[1, 2],
            },
            Case {
                what: "a dead stand-in is of no use",
                paths: [Alive(3), Alive(99), Dead(1), Unseen],
                held: &[1, 2, 3],
                expected: &[1, 2],
            },
        ];
        for case in cases {
            let paths = (1..).zip(case.paths).filter_map(|(id, path)| {
                let (alive, seconds) = match path {
                    Alive(seconds) => (true, seconds),
                    Dead(seconds) => (false, seconds),
                    Unseen => return None,
                };
                Some((NodeId(id), Seen { alive, since: Timestamp(NOW.0 - seconds * 1000) }))
            });
            let held = case.held.iter().map(|id| NodeId(*id)).collect();
            let chosen = choose(&[1, 2, 3, 4].map(NodeId), &held, &paths.collect(), 2, Duration::ZERO, NOW);
            assert_eq!(chosen.iter().map(|id| id.0).collect::<Vec<_>>(), case.expected, "{}", case.what);
        }
    }

    #[test]
    fn the_order_offered_decides_and_there_may_be_fewer() {
        let none = BTreeMap::new();
        let chosen = choose(&[NodeId(9), NodeId(4)], &BTreeSet::new(), &none, 3, Duration::ZERO, NOW);
        assert_eq!(chosen, [NodeId(9), NodeId(4)]);
        assert!(choose(&[], &BTreeSet::new(), &none, 3, Duration::ZERO, NOW).is_empty());
    }

    #[test]
    fn a_stand_in_comes_as_much_later_as_is_said() {
        let paths = BTreeMap::from([(NodeId(1), Seen { alive: false, since: Timestamp(NOW.0 - 12_000) })]);
        let chosen = |later| {
            choose(&[1, 2].map(NodeId), &BTreeSet::new(), &paths, 1, Duration::from_secs(later), NOW).len()
        };
        assert_eq!((chosen(1), chosen(3)), (2, 1));
    }
}
