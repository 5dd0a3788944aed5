//! The same log gives the same state.

use std::collections::BTreeMap;

use pangolin_core::{NodeId, Revision};

use crate::{
    history::{History, What},
    verdict::Finding,
};

/// Compares the digests of all states that were seen at one revision.
#[must_use]
pub fn check(history: &History) -> Finding {
    let mut states: BTreeMap<Revision, (NodeId, &str)> = BTreeMap::new();
    let mut compared = 0;
    for event in &history.events {
        let What::Observed(seen) = &event.what else { continue };
        let Some(state) = &seen.state else { continue };
        let (node, first) = *states.entry(seen.applied).or_insert((seen.node, state));
        if node == seen.node && first == state {
            continue;
        }
        compared += 1;
        if first != state {
            let (at, other) = (seen.applied, seen.node);
            return Finding::broken(
                compared,
                format!("at revision {at} node {node} has state {first}, node {other} has {state}"),
            );
        }
    }
    Finding::holds(compared)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        history::{Role::Other, samples::*},
        verdict::Verdict,
    };

    #[test]
    fn states_are_compared_where_the_log_is_equal() {
        let seen = |node, index, state| (0, observed(node, Other, 1, index, state));
        let cases = [
            (vec![], Verdict::True, 0),
            (vec![seen(1, 5, "a"), seen(1, 5, "a")], Verdict::True, 0),
            (vec![seen(1, 5, "a"), seen(2, 5, "a"), seen(3, 6, "b"), seen(2, 6, "")], Verdict::True, 1),
            (vec![seen(1, 5, "a"), seen(2, 6, "b"), seen(2, 5, "c")], Verdict::False, 1),
            (vec![seen(1, 5, "a"), seen(1, 5, "b")], Verdict::False, 1),
        ];
        for (events, expected, compared) in cases {
            let finding = check(&history(events));
            assert_eq!((finding.verdict, finding.checked), (expected, compared), "{finding:?}");
        }
    }
}
