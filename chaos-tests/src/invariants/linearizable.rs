//! Each key behaves like one register.

use std::collections::{BTreeMap, BTreeSet};

use super::wgl::{Does, Found, Op, search};
use crate::{
    history::{Call, End, History, Operation},
    verdict::Finding,
};

/// Steps of the search for one key before it is given up.
const STEPS: usize = 2_000_000;

/// Searches an order of all operations on each key that respects the clock.
#[must_use]
pub fn check(history: &History) -> Finding {
    let mut keys: BTreeMap<String, Vec<Operation>> = BTreeMap::new();
    for operation in history.operations() {
        keys.entry(operation.call.key().to_owned()).or_default().push(operation);
    }
    let mut checked = 0;
    let mut given_up = Vec::new();
    for (key, operations) in keys {
        let (operations, ops) = searchable(operations);
        checked += ops.len();
        match search(&ops, STEPS) {
            Found::Order => {}
            Found::NoOrder(op) => return Finding::broken(checked, explain(&key, &operations, op)),
            Found::TooLong => given_up.push(key),
        }
    }
    match given_up.is_empty() {
        true => Finding::holds(checked),
        false => {
            Finding::unknown(checked, format!("no order was found in time for: {}", given_up.join(", ")))
        }
    }
}

/// What can tell something: reads that were answered, and writes that may have taken place. An open write that
/// nobody has seen can be left out: whatever order there is with it, there is without.
fn searchable(operations: Vec<Operation>) -> (Vec<Operation>, Vec<Op>) {
    let mut numbers: BTreeMap<String, usize> = BTreeMap::new();
    let mut number = |value: &Option<String>| match value {
        None => 0,
        Some(value) => {
            let next = numbers.len() + 1;
            *numbers.entry(value.clone()).or_insert(next)
        }
    };
    let read: BTreeSet<String> = operations
        .iter()
        .filter_map(|operation| match (&operation.call, &operation.end) {
            (Call::Read { .. }, End::Ok { value, .. }) => value.clone(),
            _ => None,
        })
        .collect();
    let mut kept = Vec::new();
    let mut ops = Vec::new();
    for operation in operations {
        let does = match (&operation.call, &operation.end) {
            (Call::Read { .. }, End::Ok { value, .. }) => Does::Read(number(value)),
            (Call::Write { value, .. }, End::Ok { .. }) => Does::Write(number(&Some(value.clone()))),
            (Call::Write { value, .. }, End::Unknown) if read.contains(value) => {
                Does::Write(number(&Some(value.clone())))
            }
            _ => continue,
        };
        let to = if operation.end == End::Unknown { u64::MAX } else { operation.to };
        ops.push(Op { from: operation.from, to, does });
        kept.push(operation);
    }
    (kept, ops)
}

fn explain(key: &str, operations: &[Operation], op: usize) -> String {
    let operation = &operations[op];
    let what = match (&operation.call, &operation.end) {
        (Call::Write { value, .. }, _) => format!("the write of {value:?}"),
        (_, End::Ok { value: Some(value), .. }) => format!("the read that found {value:?}"),
        _ => "the read that found nothing".to_owned(),
    };
    format!(
        "key {key}: {what} (operation {} of client {} on node {}, {} to {} us) has no place in any order",
        operation.op, operation.client, operation.node, operation.from, operation.to
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        history::{What, samples::*},
        verdict::Verdict,
    };

    #[test]
    fn good_and_bad_histories_are_told_apart() {
        use Verdict::{False, True};
        let cases: [(&str, Vec<What>, Verdict); 8] = [
            ("nothing", vec![], True),
            ("read what was written", vec![write(1, "a"), written(1, 5), read(2), found(2, "a")], True),
            ("a stale read", vec![write(1, "a"), written(1, 5), read(2), found(2, "")], False),
            ("a failed write shows", vec![write(1, "a"), fail(1), read(2), found(2, "a")], False),
            ("an unknown write shows", vec![write(1, "a"), unknown(1), read(2), found(2, "a")], True),
            ("an unknown write is lost", vec![write(1, "a"), unknown(1), read(2), found(2, "")], True),
            (
                "an unknown write shows, then not",
                vec![write(1, "a"), unknown(1), read(2), found(2, "a"), read(3), found(3, "")],
                False,
            ),
            (
                "an unknown write shows very late",
                vec![
                    write(1, "a"),
                    unknown(1),
                    write(2, "b"),
                    written(2, 5),
                    read(3),
                    found(3, "b"),
                    read(4),
                    found(4, "a"),
                ],
                True,
            ),
        ];
        for (name, events, expected) in cases {
            let history = history(events.into_iter().enumerate().map(|(at, what)| (at as u64, what)));
            let finding = check(&history);
            assert_eq!(finding.verdict, expected, "{name}: {finding:?}");
        }
    }
}
