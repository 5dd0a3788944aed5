//! How a new history begins where the old one cannot go on.

use crate::{
    command::{Cause, LineageBegun},
    outcome::{Object, Refusal},
    record::{AdminState, Verdict},
    state::{Applied, ClusterState},
};

/// Numbers that may have been given in the part of the old history that is lost are left out up to the next multiple
/// of this: neither a node's id nor an object's nor a log index occurs twice. Far above what any cluster commits
/// between two looks at its log; small enough that DNS serials, which follow the index, go on in order.
const GAP: u64 = 1_000_000;

/// The log index with which a new history begins, behind one that is known up to `known`.
#[must_use]
pub fn begin_index(known: u64) -> u64 {
    (known / GAP).saturating_add(1).saturating_mul(GAP)
}

impl ClusterState {
    /// The other nodes and every join token are gone; what operators want, certificates and placements stay, and so
    /// does what is remembered of requests.
    pub(super) fn begin_lineage(&mut self, begun: &LineageBegun, cause: &Cause) -> Applied {
        let current = self.revision.lineage;
        if begun.lineage <= current {
            return Err(Refusal::Invalid(format!("lineage {current} has begun already")));
        }
        match &begun.spec {
            None => {
                let mut survivor =
                    self.nodes.get(&begun.node).ok_or(Refusal::NotFound(Object::Node(begun.node)))?.clone();
                survivor.admin = AdminState::Active;
                if survivor.verdict != Verdict::Up {
                    survivor.verdict = Verdict::Up;
                    survivor.verdict_at = self.time;
                    survivor.verdict_cause = cause.clone();
                }
                self.nodes = imbl::OrdMap::unit(begun.node, survivor);
            }
            Some(spec) => {
                if self.nodes.contains_key(&begun.node) {
                    return Err(Refusal::Invalid(format!("the id of node {} is taken", begun.node)));
                }
                let others = std::mem::take(&mut self.nodes);
                if let Err(refusal) = self.add_node(begun.node, spec, Verdict::Up, cause) {
                    self.nodes = others;
                    return Err(refusal);
                }
            }
        }
        self.revision.lineage = begun.lineage;
        self.sequence = begin_index(self.sequence);
        self.tokens = imbl::OrdMap::new();
        self.staged = None;
        self.forget_holders();
        self.tidy_fabric();
        // It was about nodes that are gone.
        self.upgrade = None;
        Ok(Some(Object::Node(begun.node)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_begins_behind_every_number_that_the_old_one_can_have_used() {
        assert_eq!([0, 999_999, 1_000_000].map(begin_index), [1_000_000, 1_000_000, 2_000_000]);
        assert!(begin_index(u64::MAX) >= u64::MAX / 2, "no overflow");
    }
}
