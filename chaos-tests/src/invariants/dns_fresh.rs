//! A node's DNS follows what the node has applied.

use std::collections::BTreeMap;

use pangolin_core::{NodeId, Revision};

use crate::{
    history::{History, PER_LATE, What},
    verdict::Finding,
};

/// How long after a node has applied something its DNS may answer from before, in microseconds.
const LAG: u64 = 1_000_000;

/// Compares the serial of each answer with what the node had applied a second before, and with what it has applied
/// by then. A process that starts anew begins anew.
#[must_use]
pub fn check(history: &History) -> Finding {
    let mut nodes: BTreeMap<NodeId, Seen> = BTreeMap::new();
    let mut checked = 0;
    for event in &history.events {
        match &event.what {
            What::Started { node } | What::Stopped { node } => {
                nodes.remove(node);
            }
            What::Observed(seen) => nodes.entry(seen.node).or_default().note(event.at, seen.applied),
            What::DnsAnswer(answer) if answer.code == 0 => {
                let seen = nodes.entry(answer.node).or_default();
                seen.note(event.at, answer.applied);
                checked += 1;
                let lag = LAG + PER_LATE * history.late_between(event.at.saturating_sub(LAG), event.at);
                let wanted = seen.applied_at(event.at.saturating_sub(lag)).map_or(0, serial);
                let (node, served, question) = (answer.node, answer.serial, &answer.question);
                if is_before(served, wanted) {
                    return Finding::broken(
                        checked,
                        format!(
                            "node {node} answered {question} from serial {served}; a second earlier it had applied \
                             up to {wanted}"
                        ),
                    );
                }
                let applied = serial(answer.applied);
                if is_before(applied, served) {
                    return Finding::broken(
                        checked,
                        format!(
                            "node {node} answered {question} from serial {served}, but has applied up to {applied}"
                        ),
                    );
                }
                if is_before(served, seen.served) {
                    let before = seen.served;
                    return Finding::broken(
                        checked,
                        format!("node {node} answered {question} from serial {served}, after {before}"),
                    );
                }
                seen.served = served;
            }
            _ => {}
        }
    }
    Finding::holds(checked)
}

/// What is known of one process.
#[derive(Default)]
struct Seen {
    applied: Vec<(u64, Revision)>,
    served: u32,
}

impl Seen {
    fn note(&mut self, at: u64, applied: Revision) {
        if self.applied.last().is_none_or(|(_, last)| *last < applied) {
            self.applied.push((at, applied));
        }
    }

    fn applied_at(&self, at: u64) -> Option<Revision> {
        self.applied.iter().rev().find(|(when, _)| *when <= at).map(|(_, applied)| *applied)
    }
}

/// The serial that follows from a revision, as `core::plan` makes it.
fn serial(revision: Revision) -> u32 {
    let count = revision.index.wrapping_add(revision.lineage.wrapping_sub(1).wrapping_mul(1 << 24));
    (count & u64::from(u32::MAX)) as u32
}

/// RFC 1982 §3.2.
fn is_before(a: u32, b: u32) -> bool {
    a != b && b.wrapping_sub(a) < 1 << 31
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        history::{DnsAnswer, Role::Other, samples::*},
        verdict::Verdict,
    };

    #[test]
    fn good_and_bad_histories_are_told_apart() {
        let seen = |at, index| (at, observed(1, Other, 1, index, ""));
        let answer = |at, serial, applied| {
            let question = "k TXT".into();
            let (node, applied) = (NodeId(1), rev(applied));
            let names = [].into();
            (
                at,
                What::DnsAnswer(DnsAnswer {
                    node,
                    question,
                    code: 0,
                    serial,
                    answers: vec![],
                    applied,
                    names,
                }),
            )
        };
        let restart = |at| (at, What::Started { node: NodeId(1) });
        let cases = [
            (vec![], Verdict::True),
            (
                vec![seen(0, 5), answer(10, 5, 5), seen(20, 9), answer(30, 5, 9), answer(900_000, 9, 9)],
                Verdict::True,
            ),
            (vec![seen(0, 5), answer(LAG + 1, 4, 5)], Verdict::False),
            (vec![answer(10, 6, 5)], Verdict::False),
            (vec![seen(0, 9), answer(10, 9, 9), answer(20, 8, 9)], Verdict::False),
            (vec![seen(0, 9), answer(10, 9, 9), restart(15), answer(20, 8, 8)], Verdict::True),
        ];
        for (events, expected) in cases {
            let finding = check(&history(events));
            assert_eq!(finding.verdict, expected, "{finding:?}");
        }
    }
}
