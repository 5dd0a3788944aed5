//! A site has one home in an epoch.

use std::collections::BTreeMap;

use pangolin_core::{NodeId, SiteId};

use crate::{
    history::{History, What},
    verdict::Finding,
};

/// Compares the homes that were seen of a site in an epoch.
#[must_use]
pub fn check(history: &History) -> Finding {
    let mut homes: BTreeMap<(SiteId, u64), NodeId> = BTreeMap::new();
    let mut checked = 0;
    for event in &history.events {
        let What::Placement { node, site, epoch, home, .. } = event.what else { continue };
        checked += 1;
        let known = *homes.entry((site, epoch)).or_insert(home);
        if known != home {
            return Finding::broken(
                checked,
                format!(
                    "site {site} has two homes in epoch {epoch}: node {known}, and node {home} says node {node}"
                ),
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
    fn two_homes_need_two_epochs() {
        let placed = |epoch, home| {
            let (node, home) = (NodeId(1), NodeId(home));
            (0, What::Placement { node, revision: rev(1), site: SiteId(7), epoch, home })
        };
        let cases = [
            (vec![], Verdict::True),
            (vec![placed(1, 1), placed(1, 1), placed(2, 3)], Verdict::True),
            (vec![placed(1, 1), placed(2, 3), placed(1, 3)], Verdict::False),
        ];
        for (events, expected) in cases {
            let finding = check(&history(events));
            assert_eq!(finding.verdict, expected, "{finding:?}");
        }
    }
}
