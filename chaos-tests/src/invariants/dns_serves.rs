//! Whoever answers for a live name answers with data, or that there is none of the type.

use crate::{
    history::{History, What},
    verdict::Finding,
};

/// Looks at the response code of every answer. The names that are asked for are published before anybody asks, and stay:
/// whoever says that something is wrong, or that there is no such name, sends visitors away. That nobody answers is another
/// matter: resolvers ask the next server.
#[must_use]
pub fn check(history: &History) -> Finding {
    let mut checked = 0;
    for event in &history.events {
        let What::DnsAnswer(answer) = &event.what else { continue };
        checked += 1;
        if answer.code != 0 {
            let (node, question, code) = (answer.node, &answer.question, answer.code);
            let name = match code {
                2 => " (SERVFAIL)",
                3 => " (NXDOMAIN)",
                5 => " (REFUSED)",
                _ => "",
            };
            return Finding::broken(
                checked,
                format!("node {node} answered {question} with code {code}{name}"),
            );
        }
    }
    Finding::holds(checked)
}

#[cfg(test)]
mod tests {
    use pangolin_core::NodeId;

    use super::*;
    use crate::{
        history::{DnsAnswer, samples::*},
        verdict::Verdict,
    };

    #[test]
    fn good_and_bad_histories_are_told_apart() {
        let answer = |code, values: &[&str]| {
            let dns = DnsAnswer {
                node: NodeId(1),
                question: "app.lab.example A".into(),
                code,
                serial: 5,
                answers: values.iter().map(|value| (*value).to_owned()).collect(),
                applied: rev(5),
                names: [].into(),
            };
            (5, What::DnsAnswer(dns))
        };
        let cases = [
            (vec![], Verdict::True),
            (vec![answer(0, &["192.0.2.1"]), answer(0, &[])], Verdict::True),
            (vec![answer(0, &["192.0.2.1"]), answer(2, &[])], Verdict::False),
            (vec![answer(3, &[])], Verdict::False),
            (vec![answer(5, &[])], Verdict::False),
        ];
        for (events, expected) in cases {
            let finding = check(&history(events));
            assert_eq!(finding.verdict, expected, "{finding:?}");
        }
    }
}
