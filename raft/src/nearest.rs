//! Who is asked first where the word of a majority is enough.
//!
//! openraft confirms a read with a heartbeat to every follower, and goes on with the first answers that make a majority.
//! What the others answer costs as much, on both sides, and is thrown away. So those that are not needed get theirs a
//! moment later, and of several that come within this moment only the last: whoever is asked first answers before that,
//! or is out of reach, and then the others answer for it.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use pangolin_core::id::NodeId;
use parking_lot::RwLock;

/// How much later the others are asked: several times what a confirmation takes in one place, and little beside what a
/// read takes whose answer comes from further away.
pub(crate) const LATER: Duration = Duration::from_millis(2);

/// Who is asked first; clones share it. Nobody is asked later before [`Nearest::choose`].
#[derive(Clone, Debug, Default)]
pub(crate) struct Nearest(Arc<RwLock<Option<BTreeSet<NodeId>>>>);

/// How a voter looks from the leader.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Voter {
    pub(crate) node: NodeId,
    /// It does not answer.
    pub(crate) suspect: bool,
    /// How long an answer takes, if that is known.
    pub(crate) distance: Option<Duration>,
}

impl Nearest {
    /// Chooses among the voters besides the leader.
    pub(crate) fn choose(&self, others: Vec<Voter>) {
        let nearest = nearest(others);
        let mut chosen = self.0.write();
        if chosen.as_ref() != Some(&nearest) {
            *chosen = Some(nearest);
        }
    }

    /// How long a node is not to be asked yet.
    pub(crate) fn delay(&self, node: NodeId) -> Duration {
        match &*self.0.read() {
            Some(nearest) if !nearest.contains(&node) => LATER,
            _ => Duration::ZERO,
        }
    }
}

/// As many of the others as make a majority with the leader, who votes.
fn nearest(mut others: Vec<Voter>) -> BTreeSet<NodeId> {
    others.sort_by_key(|voter| (voter.suspect, voter.distance.unwrap_or(Duration::MAX), voter.node));
    let needed = others.len().div_ceil(2);
    others.into_iter().take(needed).map(|voter| voter.node).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_make_a_majority_with_the_leader_are_asked_first() {
        let at = |node, ms| Voter {
            node: NodeId(node),
            suspect: false,
            distance: Some(Duration::from_millis(ms)),
        };
        let suspect = |node, ms| Voter { suspect: true, ..at(node, ms) };
        let unknown = |node| Voter { distance: None, ..at(node, 0) };
        let cases = [
            (vec![], vec![]),
            (vec![at(2, 1)], vec![2]),
            (vec![at(2, 5), at(3, 1)], vec![3]),
            (vec![at(2, 1), at(3, 1)], vec![2]),
            (vec![suspect(2, 1), at(3, 9)], vec![3]),
            (vec![unknown(2), at(3, 9)], vec![3]),
            (vec![at(2, 3), at(3, 1), at(4, 2), at(5, 4)], vec![3, 4]),
        ];
        for (others, expected) in cases {
            let chosen: Vec<u64> = nearest(others.clone()).iter().map(|node| node.0).collect();
            assert_eq!(chosen, expected, "{others:?}");
        }
    }

    #[test]
    fn nobody_waits_before_there_is_a_choice() {
        let chosen = Nearest::default();
        assert_eq!(chosen.delay(NodeId(3)), Duration::ZERO);
        let voter = |node| Voter { node: NodeId(node), suspect: false, distance: None };
        chosen.choose(vec![voter(2), voter(3)]);
        assert_eq!((chosen.delay(NodeId(2)), chosen.delay(NodeId(3))), (Duration::ZERO, LATER));
    }
}
