//! A node that is gone is no longer named in DNS.

use std::collections::{BTreeMap, BTreeSet};

use pangolin_core::NodeId;

use crate::{
    history::{History, PER_LATE, What},
    verdict::Finding,
};

/// How long a node may be named after it has stopped, in microseconds: it is called down after 1.5 s by those who
/// report, plus a new election if it was the leader, plus a report's way.
const GONE_WITHIN: u64 = 6_000_000;

/// A disk that refuses ends a node's part in the group for as long as the node is not started again, whenever the fault
/// itself is over: nobody may be left who could decide that another one is gone.
const REFUSING_DISKS: &[&str] = &["disk-full", "write-error", "sync-error"];

/// Looks at answers while exactly one node is away and no other fault is under way: then, and only then, the others
/// have to agree that it is gone.
#[must_use]
pub fn check(history: &History) -> Finding {
    let mut away: BTreeMap<NodeId, u64> = BTreeMap::new();
    let mut faults: BTreeMap<u64, BTreeSet<NodeId>> = BTreeMap::new();
    let mut refused: BTreeSet<NodeId> = BTreeSet::new();
    // Since when nothing has changed but the clock.
    let mut calm_since = 0;
    let mut checked = 0;
    for event in &history.events {
        match &event.what {
            What::Stopped { node } => {
                away.insert(*node, event.at);
                calm_since = event.at;
            }
            // Who has left for good is not away, and nobody waits for its disk.
            What::Started { node } | What::Removed { node } => {
                away.remove(node);
                refused.remove(node);
                calm_since = event.at;
            }
            What::FaultStarted(fault) => {
                faults.insert(fault.fault, fault.nodes.clone());
                if REFUSING_DISKS.contains(&fault.kind.as_str()) {
                    refused.extend(&fault.nodes);
                }
                calm_since = event.at;
            }
            What::FaultEnded { fault } => {
                faults.remove(fault);
                calm_since = event.at;
            }
            What::DnsAnswer(answer) if answer.code == 0 => {
                let [(dead, _)] = away.iter().collect::<Vec<_>>()[..] else { continue };
                let elsewhere = faults.values().flatten().chain(&refused).any(|node| node != dead);
                let within = GONE_WITHIN + PER_LATE * history.late_between(calm_since, event.at);
                if elsewhere || answer.names.is_empty() || event.at < calm_since + within {
                    continue;
                }
                checked += 1;
                // When no other is in service, an answer that may work is better than none.
                if answer.names.contains(dead) && answer.names.len() > 1 {
                    let seconds = (event.at - calm_since) / 1_000_000;
                    return Finding::broken(
                        checked,
                        format!(
                            "node {} still names node {dead} for {}, {seconds} s after it was gone",
                            answer.node, answer.question
                        ),
                    );
                }
            }
            _ => {}
        }
    }
    Finding::holds(checked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        history::{DnsAnswer, Fault, samples::*},
        verdict::Verdict,
    };

    #[test]
    fn good_and_bad_histories_are_told_apart() {
        let stop = |at, node| (at, What::Stopped { node: NodeId(node) });
        let start = |at, node| (at, What::Started { node: NodeId(node) });
        let removed = |at, node| (at, What::Removed { node: NodeId(node) });
        let begun = |at, kind: &str, node| {
            let (kind, detail) = (kind.to_owned(), String::new());
            (at, What::FaultStarted(Fault { fault: 1, kind, nodes: [NodeId(node)].into(), detail }))
        };
        let fault = |at, node| begun(at, "partition", node);
        let ended = |at| (at, What::FaultEnded { fault: 1 });
        let answer = |at, names: &[u64]| {
            let dns = DnsAnswer {
                node: NodeId(1),
                question: "app A".into(),
                code: 0,
                serial: 1,
                answers: vec![],
                applied: rev(1),
                names: names.iter().copied().map(NodeId).collect(),
            };
            (at, What::DnsAnswer(dns))
        };
        let late = GONE_WITHIN + 10;
        let cases = [
            (vec![answer(0, &[1, 2, 3])], Verdict::True, 0),
            (vec![stop(1, 2), answer(9, &[1, 2, 3]), answer(late, &[1, 3])], Verdict::True, 1),
            (vec![stop(1, 2), answer(late, &[1, 2, 3])], Verdict::False, 1),
            (vec![stop(1, 2), answer(late, &[2])], Verdict::True, 1),
            // Too much else is going on.
            (vec![stop(1, 2), stop(1, 3), answer(late, &[1, 2, 3])], Verdict::True, 0),
            (vec![stop(1, 2), fault(2, 3), answer(late, &[1, 2, 3])], Verdict::True, 0),
            (vec![fault(1, 2), stop(1, 2), answer(late, &[1, 2, 3])], Verdict::False, 1),
            (vec![stop(1, 2), start(5, 2), answer(late, &[1, 2, 3])], Verdict::True, 0),
            (vec![stop(1, 3), removed(2, 3), stop(3, 2), answer(late, &[1, 2])], Verdict::False, 1),
            (vec![stop(1, 3), removed(2, 3), stop(3, 2), answer(late, &[1])], Verdict::True, 1),
            (vec![fault(1, 3), ended(2), stop(3, 2), answer(late, &[1, 2, 3])], Verdict::False, 1),
            // One whose disk has refused takes no part, until it is started again.
            (
                vec![begun(1, "sync-error", 3), ended(2), stop(3, 2), answer(late, &[1, 2, 3])],
                Verdict::True,
                0,
            ),
            (
                vec![begun(1, "disk-full", 3), ended(2), start(3, 3), stop(4, 2), answer(late, &[1, 2, 3])],
                Verdict::False,
                1,
            ),
        ];
        for (events, expected, checked) in cases {
            let finding = check(&history(events));
            assert_eq!((finding.verdict, finding.checked), (expected, checked), "{finding:?}");
        }
    }
}
