//! A term has one leader at most.

use std::collections::BTreeMap;

use pangolin_core::NodeId;

use crate::{
    history::{History, Role, What},
    verdict::Finding,
};

/// Compares all nodes that were seen as the leader of a term.
#[must_use]
pub fn check(history: &History) -> Finding {
    let mut leaders: BTreeMap<u64, NodeId> = BTreeMap::new();
    let mut checked = 0;
    for event in &history.events {
        let What::Observed(seen) = &event.what else { continue };
        if seen.role != Role::Leader {
            continue;
        }
        checked += 1;
        let leader = *leaders.entry(seen.term).or_insert(seen.node);
        if leader != seen.node {
            return Finding::broken(
                checked,
                format!("term {} has two leaders: node {leader} and node {}", seen.term, seen.node),
            );
        }
    }
    Finding::holds(checked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{history::samples::*, verdict::Verdict};

    #[test]
    fn two_leaders_of_one_term_are_one_too_many() {
        let lead = |node, term| (0, observed(node, Role::Leader, term, 1, ""));
        let other = |node, term| (0, observed(node, Role::Other, term, 1, ""));
        let cases = [
            (vec![], Verdict::True),
            (vec![lead(1, 1), lead(1, 1), other(2, 1), lead(2, 2), lead(1, 1)], Verdict::True),
            (vec![lead(1, 1), lead(2, 2), lead(2, 1)], Verdict::False),
        ];
        for (events, expected) in cases {
            let finding = check(&history(events));
            assert_eq!(finding.verdict, expected, "{finding:?}");
        }
    }
}
