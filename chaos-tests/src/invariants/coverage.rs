//! A run in which nothing happened shows nothing.

use std::collections::BTreeSet;

use crate::{
    history::{End, Event, Fault, History, What},
    verdict::Finding,
};

/// Counts the answers, and looks for the faults that were planned.
#[must_use]
pub fn check(history: &History) -> Finding {
    let answered =
        history.operations().iter().filter(|operation| matches!(operation.end, End::Ok { .. })).count();
    let wanted = history.header.load;
    if answered < wanted {
        return Finding::unknown(
            answered,
            format!("{answered} requests were answered; less than {wanted} show nothing"),
        );
    }
    let happened: BTreeSet<&str> = history
        .events
        .iter()
        .filter_map(|Event { what, .. }| match what {
            What::FaultStarted(Fault { kind, .. }) => Some(kind.as_str()),
            _ => None,
        })
        .collect();
    let missing: Vec<&str> =
        history.header.faults.iter().map(String::as_str).filter(|fault| !happened.contains(fault)).collect();
    match missing.is_empty() {
        true => Finding::holds(answered),
        false => Finding::unknown(answered, format!("never happened: {}", missing.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{history::samples::*, verdict::Verdict};

    #[test]
    fn without_load_or_faults_nothing_is_known() {
        let fault = |kind: &str| {
            let detail = String::new();
            (3, What::FaultStarted(Fault { fault: 1, kind: kind.into(), nodes: [].into(), detail }))
        };
        let answered = || vec![(1, write(1, "a")), (2, written(1, 5))];
        let with = |more| answered().into_iter().chain([more]).collect::<Vec<_>>();
        let cases = [
            (vec![], Verdict::Unknown),
            (vec![(1, write(1, "a")), (2, unknown(1)), fault("crash")], Verdict::Unknown),
            (answered(), Verdict::Unknown),
            (with(fault("partition")), Verdict::Unknown),
            (with(fault("crash")), Verdict::True),
        ];
        for (events, expected) in cases {
            let mut history = history(events);
            history.header.load = 1;
            history.header.faults.insert("crash".into());
            let finding = check(&history);
            assert_eq!(finding.verdict, expected, "{finding:?}");
        }
    }
}
