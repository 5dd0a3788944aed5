//! When the faults are over, the cluster serves.

use crate::{
    history::{Call, End, History, PER_LATE, What},
    verdict::Finding,
};

/// How long after the faults a write may still fail, in microseconds: nodes that have crashed start again, the log
/// is caught up with, an election takes place.
const WITHIN: u64 = 15_000_000;

/// Looks for a write and a read that were asked after the faults and answered in time.
#[must_use]
pub fn check(history: &History) -> Finding {
    let healed = history.events.iter().rev().find(|event| event.what == What::Healed).map(|event| event.at);
    let Some(healed) = healed else { return Finding::holds(0) };
    let end = history.events.last().map_or(0, |event| event.at);
    let within = WITHIN + PER_LATE * history.late_between(healed, end);
    let first = |wanted: fn(&Call) -> bool| {
        let operations = history.operations().into_iter();
        operations
            .filter(|op| op.from >= healed && wanted(&op.call) && matches!(op.end, End::Ok { .. }))
            .map(|op| op.to)
            .min()
    };
    let write = first(|call| matches!(call, Call::Write { .. }));
    let read = first(|call| matches!(call, Call::Read { .. }));
    for (what, served) in [("write", write), ("read", read)] {
        match served {
            Some(at) if at <= healed + within => {}
            Some(at) => {
                let after = (at - healed) / 1000;
                return Finding::broken(1, format!("the first {what} after the faults took {after} ms"));
            }
            None if end > healed + within => {
                return Finding::broken(1, format!("no {what} was answered after the faults"));
            }
            None => {
                return Finding::unknown(1, format!("the run was over before a {what} had to be answered"));
            }
        }
    }
    Finding::holds(2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{history::samples::*, verdict::Verdict};

    #[test]
    fn good_and_bad_histories_are_told_apart() {
        let healed = (100, What::Healed);
        let served =
            |at| vec![(101, write(1, "a")), (at, written(1, 5)), (at, read(2)), (at + 1, found(2, "a"))];
        let end = |at| vec![(at, What::Note { text: "the end".into() })];
        let cases = [
            (vec![], Verdict::True),
            (served(200), Verdict::True),
            (served(100 + WITHIN + 1), Verdict::False),
            (end(100 + WITHIN + 1), Verdict::False),
            (end(101), Verdict::Unknown),
        ];
        for (n, (mut events, expected)) in cases.into_iter().enumerate() {
            if n > 0 {
                events.insert(0, healed.clone());
            }
            let finding = check(&history(events));
            assert_eq!(finding.verdict, expected, "{finding:?}");
        }
    }
}
