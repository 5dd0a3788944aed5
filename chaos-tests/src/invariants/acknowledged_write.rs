//! What was acknowledged is there for whoever looks later.

use std::collections::BTreeMap;

use crate::{
    history::{Call, End, History, Operation},
    verdict::Finding,
};

/// Compares, key by key, what each read found with the last write that was acknowledged before the read began.
/// Weaker than [linearizable](super::linearizable), but the search has no end to come to.
#[must_use]
pub fn check(history: &History) -> Finding {
    let operations = history.operations();
    let mut checked = 0;
    let mut by_key: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
    for operation in &operations {
        by_key.entry(operation.call.key()).or_default().push(operation);
    }
    for (key, operations) in by_key {
        let writes: BTreeMap<&str, &Operation> = operations
            .iter()
            .filter_map(|operation| match &operation.call {
                Call::Write { value, .. } => Some((value.as_str(), *operation)),
                _ => None,
            })
            .collect();
        let reads = operations.iter().filter_map(|operation| match (&operation.call, &operation.end) {
            (Call::Read { .. }, End::Ok { value, .. }) => Some((operation, value)),
            _ => None,
        });
        for (read, value) in reads {
            let before = writes
                .values()
                .copied()
                .filter(|write| write.to <= read.from)
                .filter_map(|write| Some((revision(write)?, write)))
                .max_by_key(|(revision, _)| *revision);
            let Some((acknowledged, last)) = before else { continue };
            checked += 1;
            let found = value.as_deref().map(|value| (value, writes.get(value)));
            let lost = match found {
                None => Some("nothing".to_owned()),
                Some((value, None)) => Some(format!("{value:?}, which nobody wrote")),
                Some((value, Some(write))) => match (&write.end, revision(write)) {
                    (End::Fail, _) => Some(format!("{value:?}, whose write was refused")),
                    (_, Some(at)) if at < acknowledged => Some(format!("{value:?} of revision {at}")),
                    _ => None,
                },
            };
            if let Some(found) = lost {
                let last = last.op;
                return Finding::broken(
                    checked,
                    format!(
                        "key {key}: operation {} found {found}, though operation {last} was acknowledged at \
                         revision {acknowledged} before",
                        read.op
                    ),
                );
            }
        }
    }
    Finding::holds(checked)
}

fn revision(operation: &Operation) -> Option<pangolin_core::Revision> {
    match &operation.end {
        End::Ok { revision, .. } => *revision,
        _ => None,
    }
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
        let two = || vec![write(1, "a"), written(1, 5), write(2, "b"), written(2, 6)];
        let after = |mut events: Vec<What>, more: Vec<What>| {
            events.extend(more);
            events
        };
        let cases: [(&str, Vec<What>, Verdict, usize); 8] = [
            ("nothing", vec![], True, 0),
            ("the last one is there", after(two(), vec![read(3), found(3, "b")]), True, 1),
            ("the last one is lost", after(two(), vec![read(3), found(3, "a")]), False, 1),
            ("all is lost", after(two(), vec![read(3), found(3, "")]), False, 1),
            ("from nowhere", after(two(), vec![read(3), found(3, "z")]), False, 1),
            ("a refused one", after(two(), vec![write(3, "c"), fail(3), read(4), found(4, "c")]), False, 1),
            (
                "a later one of unknown outcome",
                after(two(), vec![write(3, "c"), unknown(3), read(4), found(4, "c")]),
                True,
                1,
            ),
            (
                "at the same time",
                vec![write(1, "a"), written(1, 5), read(3), write(2, "b"), written(2, 6), found(3, "a")],
                True,
                1,
            ),
        ];
        for (name, events, expected, checked) in cases {
            let history = history(events.into_iter().enumerate().map(|(at, what)| (at as u64, what)));
            let finding = check(&history);
            assert_eq!((finding.verdict, finding.checked), (expected, checked), "{name}: {finding:?}");
        }
    }
}
