//! A client never sees time go back, and sees what it wrote itself.

use std::collections::BTreeMap;

use pangolin_core::Revision;

use crate::{
    history::{End, History},
    verdict::Finding,
};

/// Follows the revisions that each client was answered: the state that an answer comes from includes everything that
/// the client had been answered before it asked.
#[must_use]
pub fn check(history: &History) -> Finding {
    let mut seen: BTreeMap<u64, (Revision, u64)> = BTreeMap::new();
    let mut checked = 0;
    // A client asks one thing at a time, so the order of its calls is that of its answers.
    for operation in history.operations() {
        let End::Ok { revision: Some(revision), .. } = operation.end else { continue };
        if let Some((before, op)) = seen.get(&operation.client) {
            checked += 1;
            if revision < *before {
                return Finding::broken(
                    checked,
                    format!(
                        "client {} was answered from revision {revision} by node {} (operation {}), after {before} \
                         (operation {op})",
                        operation.client, operation.node, operation.op
                    ),
                );
            }
        }
        seen.insert(operation.client, (revision, operation.op));
    }
    Finding::holds(checked)
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
        let ours = || vec![write_of(1, 1, "k", "a"), written(1, 5)];
        let then = |more: Vec<What>| ours().into_iter().chain(more).collect::<Vec<_>>();
        let cases = [
            (ours(), Verdict::True, 0),
            (then(vec![local_read(1, 2), found_at(2, "a", 5)]), Verdict::True, 1),
            (then(vec![local_read(1, 2), found_at(2, "a", 9)]), Verdict::True, 1),
            (then(vec![local_read(1, 2), found_at(2, "", 4)]), Verdict::False, 1),
            (then(vec![local_read(2, 2), found_at(2, "", 4)]), Verdict::True, 0),
            (
                then(vec![local_read(1, 2), found_at(2, "a", 9), local_read(1, 3), found_at(3, "a", 8)]),
                Verdict::False,
                2,
            ),
        ];
        for (events, expected, checked) in cases {
            let finding = check(&history(events.into_iter().enumerate().map(|(at, what)| (at as u64, what))));
            assert_eq!((finding.verdict, finding.checked), (expected, checked), "{finding:?}");
        }
    }
}
