//! The epoch of a site's placement never goes back.

use std::collections::BTreeMap;

use pangolin_core::{Revision, SiteId};

use crate::{
    history::{History, What},
    verdict::Finding,
};

/// Compares all placements that were seen of a site, in the order of the log.
#[must_use]
pub fn check(history: &History) -> Finding {
    let mut sites: BTreeMap<SiteId, BTreeMap<Revision, u64>> = BTreeMap::new();
    for event in &history.events {
        let What::Placement { revision, site, epoch, .. } = event.what else { continue };
        let epochs = sites.entry(site).or_default();
        let known = *epochs.entry(revision).or_insert(epoch);
        if known != epoch {
            return Finding::broken(
                1,
                format!("site {site} has epochs {known} and {epoch} at revision {revision}"),
            );
        }
    }
    let mut checked = 0;
    for (site, epochs) in sites {
        let mut last = None;
        for (revision, epoch) in epochs {
            checked += 1;
            if let Some((before, at)) = last.filter(|(before, _)| *before > epoch) {
                return Finding::broken(
                    checked,
                    format!(
                        "site {site} has epoch {before} at revision {at} and {epoch} at revision {revision}"
                    ),
                );
            }
            last = Some((epoch, revision));
        }
    }
    Finding::holds(checked)
}

#[cfg(test)]
mod tests {
    use pangolin_core::NodeId;

    use super::*;
    use crate::{history::samples::*, verdict::Verdict};

    #[test]
    fn good_and_bad_histories_are_told_apart() {
        let placed = |node, index, epoch| {
            let (node, home) = (NodeId(node), NodeId(1));
            (0, What::Placement { node, revision: rev(index), site: SiteId(7), epoch, home })
        };
        let cases = [
            (vec![], Verdict::True),
            // A node that is behind says what was true there.
            (vec![placed(1, 9, 2), placed(2, 5, 1), placed(3, 9, 2)], Verdict::True),
            (vec![placed(1, 5, 2), placed(1, 9, 1)], Verdict::False),
            (vec![placed(1, 9, 1), placed(2, 5, 2)], Verdict::False),
            (vec![placed(1, 9, 1), placed(2, 9, 2)], Verdict::False),
        ];
        for (events, expected) in cases {
            let finding = check(&history(events));
            assert_eq!(finding.verdict, expected, "{finding:?}");
        }
    }
}
