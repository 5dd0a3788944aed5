//! Nothing is done under a fence once something was done under a later one.

use std::collections::BTreeMap;

use pangolin_core::NodeId;

use crate::{
    history::{History, What},
    verdict::Finding,
};

/// Follows the fences under which each target was acted upon.
#[must_use]
pub fn check(history: &History) -> Finding {
    let mut latest: BTreeMap<&str, (u64, NodeId)> = BTreeMap::new();
    let mut checked = 0;
    for event in &history.events {
        let What::Effect { node, target, fence } = &event.what else { continue };
        checked += 1;
        let (last, by) = latest.entry(target).or_insert((*fence, *node));
        if fence < last {
            return Finding::broken(
                checked,
                format!(
                    "node {node} acted on {target} under fence {fence}, after node {by} had under {last}"
                ),
            );
        }
        (*last, *by) = (*fence, *node);
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
            (0, What::Effect { node: NodeId(node), target: target.into(), fence })
        };
        let cases = [
            (vec![], Verdict::True),
            (vec![act(1, "ca", 1), act(1, "ca", 1), act(2, "ca", 3), act(1, "site 1", 1)], Verdict::True),
            (vec![act(1, "ca", 1), act(2, "ca", 2), act(1, "ca", 1)], Verdict::False),
        ];
        for (events, expected) in cases {
            let finding = check(&history(events));
            assert_eq!(finding.verdict, expected, "{finding:?}");
        }
    }
}
