//! Whatever the faults, some things never happen: a panic, an end without a reason, a start on a damaged log.

use crate::{
    history::{History, What},
    verdict::Finding,
};

/// Looks for what was called wrong where it was seen.
#[must_use]
pub fn check(history: &History) -> Finding {
    let checked = history.events.iter().filter(|event| matches!(event.what, What::Started { .. })).count();
    let wrong: Vec<String> = history
        .events
        .iter()
        .filter_map(|event| match &event.what {
            What::Wrong { node, text } => Some(format!("node {node}: {text}")),
            _ => None,
        })
        .collect();
    match wrong.first() {
        None => Finding::holds(checked),
        Some(first) if wrong.len() == 1 => Finding::broken(checked, first.clone()),
        Some(first) => Finding::broken(checked, format!("{first} (and {} more)", wrong.len() - 1)),
    }
}

#[cfg(test)]
mod tests {
    use pangolin_core::NodeId;

    use super::*;
    use crate::{history::samples::history, verdict::Verdict};

    #[test]
    fn what_was_called_wrong_breaks_the_run() {
        let started = || (1, What::Started { node: NodeId(1) });
        let wrong = || (2, What::Wrong { node: NodeId(1), text: "panicked at src/x.rs".into() });
        assert_eq!(check(&history([])), Finding::holds(0));
        assert_eq!(check(&history([started()])), Finding::holds(1));
        let finding = check(&history([started(), wrong(), wrong()]));
        assert_eq!(finding.verdict, Verdict::False);
        assert_eq!(finding.detail, "node 1: panicked at src/x.rs (and 1 more)");
    }
}
