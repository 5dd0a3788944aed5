//! Two nodes that answer from the same serial answer the same, and never with what was refused.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    history::{Call, DnsAnswer, End, History, What},
    verdict::Finding,
};

/// Compares all answers to a question that carry the same serial; the order within an answer does not count.
#[must_use]
pub fn check(history: &History) -> Finding {
    let refused: BTreeSet<String> = history
        .operations()
        .into_iter()
        .filter_map(|operation| match (operation.call, operation.end) {
            (Call::Write { value, .. }, End::Fail) => Some(value),
            _ => None,
        })
        .collect();
    let mut answers: BTreeMap<(&str, u32), (&DnsAnswer, BTreeSet<&String>)> = BTreeMap::new();
    let mut checked = 0;
    for event in &history.events {
        let What::DnsAnswer(answer) = &event.what else { continue };
        if answer.code != 0 {
            continue;
        }
        checked += 1;
        if let Some(value) = answer.answers.iter().find(|value| refused.contains(*value)) {
            return Finding::broken(
                checked,
                format!("node {} answered {value:?}, whose write was refused", answer.node),
            );
        }
        let values: BTreeSet<&String> = answer.answers.iter().collect();
        let (first, known) =
            answers.entry((&answer.question, answer.serial)).or_insert_with(|| (answer, values.clone()));
        if *known != values {
            return Finding::broken(
                checked,
                format!(
                    "{} at serial {}: node {} answered {:?}, node {} {:?}",
                    answer.question, answer.serial, first.node, first.answers, answer.node, answer.answers
                ),
            );
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
        let answer = |node, serial: u32, values: &[&str]| {
            let dns = DnsAnswer {
                node: NodeId(node),
                question: "k TXT".into(),
                code: 0,
                serial,
                answers: values.iter().map(|value| (*value).to_owned()).collect(),
                applied: rev(u64::from(serial)),
                names: BTreeSet::new(),
            };
            (5, What::DnsAnswer(dns))
        };
        let cases = [
            (vec![], Verdict::True),
            (vec![answer(1, 5, &["a", "b"]), answer(2, 5, &["b", "a"]), answer(1, 6, &["c"])], Verdict::True),
            (vec![answer(1, 5, &["a"]), answer(1, 6, &["a"]), answer(2, 5, &["b"])], Verdict::False),
            (vec![(1, write(1, "a")), (2, fail(1)), answer(1, 5, &["a"])], Verdict::False),
            (vec![(1, write(1, "a")), (2, unknown(1)), answer(1, 5, &["a"])], Verdict::True),
        ];
        for (events, expected) in cases {
            let finding = check(&history(events));
            assert_eq!(finding.verdict, expected, "{finding:?}");
        }
    }
}
