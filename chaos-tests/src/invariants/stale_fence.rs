//! Nothing is done under a fence once something was done under a later one.

use std::collections::BTreeMap;

use pangolin_core::{NodeId, Revision};

use crate::{
    history::{History, What},
    verdict::Finding,
};

/// Where in the log, under which fence, by whom.
type Effect = (Option<Revision>, u64, NodeId);

/// Follows the fences under which each target was acted upon.
#[must_use]
pub fn check(history: &History) -> Finding {
    let mut effects: BTreeMap<&str, Vec<Effect>> = BTreeMap::new();
    for event in &history.events {
        let What::Effect { node, target, fence, revision } = &event.what else { continue };
        effects.entry(target).or_default().push((*revision, *fence, *node));
    }
    // Only what follows something else shows anything.
    let mut checked = 0;
    for (target, mut effects) in effects {
        // Those without a place in the log keep their order.
        effects.sort_by_key(|(revision, _, _)| *revision);
        checked += effects.len() - 1;
        for pair in effects.windows(2) {
            let ((_, last, by), (at, fence, node)) = (pair[0], pair[1]);
            if fence < last {
                let place = at.map(|at| format!(" at revision {at}")).unwrap_or_default();
                return Finding::broken(
                    checked,
                    format!(
                        "node {node} acted on {target} under fence {fence}{place}, after node {by} had under {last}"
                    ),
                );
            }
        }
    }
    Finding::holds(checked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{history::samples::*, verdict::Verdict};

    #[test]
    fn fences_only_grow() {
        let act = |node, target: &str, fence| {
            (0, What::Effect { node: NodeId(node), target: target.into(), fence, revision: None })
        };
        let logged = |index, fence| {
            let (node, target) = (NodeId(1), "site 1".into());
            (0, What::Effect { node, target, fence, revision: Some(rev(index)) })
        };
        let cases = [
            (vec![], Verdict::True),
            (vec![act(1, "ca", 1), act(1, "ca", 1), act(2, "ca", 3), act(1, "site 1", 1)], Verdict::True),
            (vec![act(1, "ca", 1), act(2, "ca", 2), act(1, "ca", 1)], Verdict::False),
            // The answers may come in another order than the log has.
            (vec![logged(9, 2), logged(5, 1)], Verdict::True),
            (vec![logged(5, 2), logged(9, 1)], Verdict::False),
        ];
        for (events, expected) in cases {
            let finding = check(&history(events));
            assert_eq!(finding.verdict, expected, "{finding:?}");
        }
        assert_eq!(check(&history([act(1, "ca", 1), act(1, "site 1", 1)])).checked, 0, "nothing came later");
        assert_eq!(check(&history([act(1, "ca", 1), act(1, "ca", 2)])).checked, 1);
    }
}
