//! A node that is not hit itself serves visitors through whatever happens to the others.

use std::collections::{BTreeMap, BTreeSet};

use pangolin_core::NodeId;

use crate::{
    history::{History, PER_LATE, What},
    verdict::Finding,
};

/// Longest silence, in microseconds, of a node that no fault has hit: what it relayed through one that has died takes
/// another way within a second; the rest is room for a machine that is busy.
const SILENCE_MAX: u64 = 5_000_000;
/// Looks at every silence between two pages that came from a node. A node counts from its first page after all that
/// hit it is over.
#[must_use]
pub fn check(history: &History) -> Finding {
    let silences = silences(history);
    let checked = silences.len();
    for silence in silences {
        let excused = PER_LATE * history.late_between(silence.from, silence.to);
        if silence.length() > SILENCE_MAX + excused {
            return Finding::broken(
                checked,
                format!(
                    "node {} gave visitors no page for {} ms (from {} ms of the run on), though no fault had hit it: {}",
                    silence.node,
                    silence.length() / 1000,
                    silence.from / 1000,
                    silence.problem.unwrap_or_default()
                ),
            );
        }
    }
    Finding::holds(checked)
}

/// The longest silence of a node that no fault had hit, in microseconds.
#[must_use]
pub fn longest_gap(history: &History) -> u64 {
    silences(history).iter().map(Silence::length).max().unwrap_or(0)
}

#[derive(Debug)]
struct Silence {
    node: NodeId,
    from: u64,
    to: u64,
    problem: Option<String>,
}

impl Silence {
    fn length(&self) -> u64 {
        self.to - self.from
    }
}

/// A node as visitors know it.
#[derive(Default)]
struct Node {
    /// Faults that hit it.
    faults: BTreeSet<u64>,
    stopped: bool,
    /// When its last page came; none until it serves after all that hit it.
    served: Option<u64>,
    /// What has gone wrong since.
    problem: Option<String>,
}

fn silences(history: &History) -> Vec<Silence> {
    let mut nodes: BTreeMap<NodeId, Node> = BTreeMap::new();
    let mut all = Vec::new();
    let end = history.events.iter().rev().find(|event| matches!(event.what, What::Probe(_)));
    let end = end.map_or(0, |event| event.at);
    for event in &history.events {
        match &event.what {
            What::FaultStarted(fault) => {
                for node in &fault.nodes {
                    let known = nodes.entry(*node).or_default();
                    known.faults.insert(fault.fault);
                    known.served = None;
                }
            }
            What::FaultEnded { fault } => {
                nodes.values_mut().for_each(|known| {
                    known.faults.remove(fault);
                });
            }
            What::Stopped { node } => {
                let known = nodes.entry(*node).or_default();
                (known.stopped, known.served) = (true, None);
            }
            What::Started { node } => nodes.entry(*node).or_default().stopped = false,
            What::Probe(probe) => {
                let known = nodes.entry(probe.node).or_default();
                if known.stopped || !known.faults.is_empty() {
                    continue;
                }
                if probe.problem.is_some() {
                    known.problem.clone_from(&probe.problem);
                    continue;
                }
                if let Some(from) = known.served.replace(event.at) {
                    all.push(Silence { node: probe.node, from, to: event.at, problem: known.problem.take() });
                }
            }
            _ => {}
        }
    }
    // One that has not ended yet is as long as is known.
    for (node, known) in nodes {
        if let Some(from) = known.served {
            all.push(Silence { node, from, to: end.max(from), problem: known.problem });
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        history::{Fault, Probe, samples::*},
        verdict::Verdict,
    };

    #[test]
    fn good_and_bad_histories_are_told_apart() {
        let page = |at, node| (at, What::Probe(Probe { node: NodeId(node), sent: at, problem: None }));
        let none =
            |at| (at, What::Probe(Probe { node: NodeId(1), sent: at, problem: Some("refused".into()) }));
        let fault = |at, node| {
            let (kind, detail) = ("partition".to_owned(), String::new());
            (at, What::FaultStarted(Fault { fault: 1, kind, nodes: [NodeId(node)].into(), detail }))
        };
        let over = |at| (at, What::FaultEnded { fault: 1 });
        let late = SILENCE_MAX + 10;
        let cases = [
            (vec![], Verdict::True),
            (vec![page(1, 1), page(SILENCE_MAX, 1)], Verdict::True),
            (vec![page(1, 1), page(late, 1)], Verdict::False),
            (vec![page(1, 1), none(5), page(late, 2)], Verdict::False),
            (vec![page(1, 1), (5, What::Late { micros: 100 }), page(late, 1)], Verdict::True),
            // Hit itself, and until it serves again.
            (vec![page(1, 1), fault(2, 1), over(9), page(late, 1), page(late + 1, 1)], Verdict::True),
            (vec![page(1, 1), fault(2, 2), over(9), page(late, 1)], Verdict::False),
            (vec![page(1, 1), (2, What::Stopped { node: NodeId(1) }), page(late, 1)], Verdict::True),
        ];
        for (number, (events, expected)) in cases.into_iter().enumerate() {
            let finding = check(&history(events));
            assert_eq!(finding.verdict, expected, "case {number}: {finding:?}");
        }
    }
}
