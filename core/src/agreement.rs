//! Whether the nodes still agree on the state: the same log must have given the same bytes everywhere.
//!
//! Each node hashes its state at checkpoints that follow from the log alone, and reports the latest hashes. A node
//! whose hash differs from that of a majority is damaged (memory, disk, a fault of the program) and must stop before
//! it serves or spreads what nobody decided.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    id::{NodeId, Revision},
    observation::Observations,
    record::Digest,
    time::Timestamp,
};

/// A checkpoint is the first entry in each period of this length, by log time: often enough to find damage early, so
/// seldom that the hash of a large state (about 100 ms for 50 MB) costs nothing that anyone notices. A cluster at rest
/// has no entries, so no checkpoints.
pub const CHECKPOINT_PERIOD: Duration = Duration::from_secs(10);

/// How many hashes are kept and reported: nodes that are not further apart than this many checkpoints can compare.
pub const HASHES_KEPT: usize = 4;

/// Hash of the state at a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateHash {
    /// The checkpoint.
    pub revision: Revision,
    /// SHA-256 of the encoded state there.
    pub digest: Digest,
}

/// Whether an entry that brought log time from `before` to `after` is a checkpoint.
#[must_use]
pub fn is_checkpoint(before: Timestamp, after: Timestamp) -> bool {
    let period = |at: Timestamp| u128::from(at.0) / CHECKPOINT_PERIOD.as_millis();
    period(before) != period(after)
}

/// What the comparison says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Agreement {
    /// No other node reports another hash.
    Agreed,
    /// Nodes differ, and this one is not against a majority: who, and where.
    Disputed {
        /// The checkpoint.
        at: Revision,
        /// The nodes that have another hash than this one.
        others: Vec<NodeId>,
    },
    /// More than half of all nodes have the same hash, and this one another: it must stop.
    Alone {
        /// The checkpoint.
        at: Revision,
        /// The nodes that agree with each other.
        others: Vec<NodeId>,
    },
}

/// Compares `own` hashes of node `node` with those that the others report. `members` is the number of nodes.
#[must_use]
pub fn compare(
    node: NodeId,
    own: &[StateHash],
    seen: &Observations,
    members: usize,
    now: Timestamp,
) -> Agreement {
    let mut disputed = None;
    // The latest first: it tells most.
    for mine in own.iter().rev() {
        let others: Vec<(NodeId, Digest)> = seen
            .fresh(now)
            .filter(|(id, _)| *id != node)
            .filter_map(|(id, report)| {
                let theirs = report.hashes.iter().find(|theirs| theirs.revision == mine.revision)?;
                (theirs.digest != mine.digest).then_some((id, theirs.digest))
            })
            .collect();
        for (_, digest) in &others {
            let same = others.iter().filter(|(_, other)| other == digest);
            let agreeing: Vec<NodeId> = same.map(|(id, _)| *id).collect();
            if agreeing.len() * 2 > members {
                return Agreement::Alone { at: mine.revision, others: agreeing };
            }
        }
        if disputed.is_none() && !others.is_empty() {
            let others = others.into_iter().map(|(id, _)| id).collect();
            disputed = Some(Agreement::Disputed { at: mine.revision, others });
        }
    }
    disputed.unwrap_or(Agreement::Agreed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observation::Report;

    const NOW: Timestamp = Timestamp(100_000);

    fn hash(index: u64, value: u8) -> StateHash {
        StateHash { revision: Revision { lineage: 1, index }, digest: Digest([value; 32]) }
    }

    fn seen(reports: &[(u64, &[(u64, u8)])]) -> Observations {
        let mut seen = Observations::default();
        for (node, hashes) in reports {
            let hashes = hashes.iter().map(|(index, value)| hash(*index, *value)).collect();
            seen.insert(NodeId(*node), NOW, Report { hashes, ..Report::default() });
        }
        seen
    }

    #[test]
    fn the_one_that_differs_from_the_majority_is_told_and_nobody_else() {
        let at = |index| Revision { lineage: 1, index };
        let nodes = |ids: &[u64]| ids.iter().copied().map(NodeId).collect::<Vec<_>>();
        let alone = |index, ids: &[u64]| Agreement::Alone { at: at(index), others: nodes(ids) };
        let disputed = |index, ids: &[u64]| Agreement::Disputed { at: at(index), others: nodes(ids) };
        type Case = (&'static str, usize, Vec<(u64, u8)>, Vec<(u64, &'static [(u64, u8)])>, Agreement);
        let cases: Vec<Case> = vec![
            ("nobody reports", 3, vec![(5, 1)], vec![], Agreement::Agreed),
            ("all agree", 3, vec![(5, 1)], vec![(2, &[(5, 1)]), (3, &[(5, 1)])], Agreement::Agreed),
            (
                "no common checkpoint",
                3,
                vec![(5, 1)],
                vec![(2, &[(6, 9)]), (3, &[(4, 9)])],
                Agreement::Agreed,
            ),
            ("both others agree", 3, vec![(5, 1)], vec![(2, &[(5, 9)]), (3, &[(5, 9)])], alone(5, &[2, 3])),
            ("one other differs", 3, vec![(5, 1)], vec![(2, &[(5, 9)]), (3, &[(5, 1)])], disputed(5, &[2])),
            ("each has its own", 3, vec![(5, 1)], vec![(2, &[(5, 8)]), (3, &[(5, 9)])], disputed(5, &[2, 3])),
            ("one of two", 2, vec![(5, 1)], vec![(2, &[(5, 9)])], disputed(5, &[2])),
            (
                "two of five are not enough",
                5,
                vec![(5, 1)],
                vec![(2, &[(5, 9)]), (3, &[(5, 9)])],
                disputed(5, &[2, 3]),
            ),
            (
                "an older checkpoint tells as well",
                3,
                vec![(5, 1), (7, 1)],
                vec![(2, &[(5, 9)]), (3, &[(5, 9)])],
                alone(5, &[2, 3]),
            ),
        ];
        for (what, members, own, reports, expected) in cases {
            let own: Vec<StateHash> = own.iter().map(|(index, value)| hash(*index, *value)).collect();
            assert_eq!(compare(NodeId(1), &own, &seen(&reports), members, NOW), expected, "{what}");
        }
    }

    #[test]
    fn what_was_reported_long_ago_is_not_compared() {
        let late = NOW + crate::observation::REPORT_LIFETIME + Duration::from_millis(1);
        let seen = seen(&[(2, &[(5, 9)]), (3, &[(5, 9)])]);
        assert_eq!(compare(NodeId(1), &[hash(5, 1)], &seen, 3, late), Agreement::Agreed);
    }

    #[test]
    fn a_checkpoint_is_the_first_entry_of_a_period() {
        for (before, after, expected) in
            [(0, 9_999, false), (9_999, 10_000, true), (10_000, 10_000, false), (10_001, 45_000, true)]
        {
            assert_eq!(is_checkpoint(Timestamp(before), Timestamp(after)), expected, "{before} {after}");
        }
    }
}
