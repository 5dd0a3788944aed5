//! What a run shows: true, false, or that nobody can tell.

use std::{fmt, process::ExitCode};

use serde::{Deserialize, Serialize};

use crate::{history::History, invariants};

/// True, false, or unknown: a run that broke nothing because nothing happened in it shows nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It holds, and was put to the test.
    True,
    /// It was not put to the test, or the check came to no end.
    Unknown,
    /// It is broken.
    False,
}

impl Verdict {
    /// What the program ends with: 0 true, 1 false, 2 unknown.
    #[must_use]
    pub fn exit_code(self) -> ExitCode {
        ExitCode::from(match self {
            Self::True => 0,
            Self::False => 1,
            Self::Unknown => 2,
        })
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::True => "true",
            Self::False => "false",
            Self::Unknown => "unknown",
        })
    }
}

/// What one invariant says of one history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Whether it holds.
    pub verdict: Verdict,
    /// How much there was to check.
    pub checked: usize,
    /// What is broken, or cannot be told; empty where it holds.
    pub detail: String,
}

impl Finding {
    /// It holds for so many things.
    #[must_use]
    pub fn holds(checked: usize) -> Self {
        Self { verdict: Verdict::True, checked, detail: String::new() }
    }

    /// It is broken.
    #[must_use]
    pub fn broken(checked: usize, detail: impl Into<String>) -> Self {
        Self { verdict: Verdict::False, checked, detail: detail.into() }
    }

    /// Nobody can tell.
    #[must_use]
    pub fn unknown(checked: usize, detail: impl Into<String>) -> Self {
        Self { verdict: Verdict::Unknown, checked, detail: detail.into() }
    }
}

/// What all invariants say of one history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judgement {
    /// False if one is broken, else unknown if one cannot be told, else true.
    pub verdict: Verdict,
    /// By the invariants' names.
    pub findings: Vec<(String, Finding)>,
}

/// Judges a history by every invariant.
#[must_use]
pub fn judge(history: &History) -> Judgement {
    let findings: Vec<(String, Finding)> = invariants::ALL
        .iter()
        .map(|invariant| {
            let mut finding = (invariant.check)(history);
            if finding.checked == 0
                && finding.verdict == Verdict::True
                && history.header.expects.contains(invariant.name)
            {
                finding = Finding::unknown(0, "nothing happened that puts it to the test");
            }
            (invariant.name.to_owned(), finding)
        })
        .collect();
    let verdict = findings.iter().map(|(_, finding)| finding.verdict).max().unwrap_or(Verdict::Unknown);
    Judgement { verdict, findings }
}

impl fmt::Display for Judgement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, finding) in &self.findings {
            writeln!(f, "{:<8} {name:<28} {:>7}  {}", finding.verdict, finding.checked, finding.detail)?;
        }
        write!(f, "verdict: {}", self.verdict)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::samples::{found, history, read, write, written};

    #[test]
    fn one_broken_invariant_breaks_the_run_and_nothing_checked_is_no_proof() {
        let mut empty = history([]);
        assert_eq!(judge(&empty).verdict, Verdict::True, "nothing was expected");
        empty.header.expects.insert("linearizable".into());
        assert_eq!(judge(&empty).verdict, Verdict::Unknown);
        let mut stale = history([(1, write(1, "a")), (2, written(1, 5)), (3, read(2)), (4, found(2, ""))]);
        stale.header.expects = empty.header.expects;
        let judgement = judge(&stale);
        assert_eq!(judgement.verdict, Verdict::False, "{judgement}");
    }

    #[test]
    fn every_invariant_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<&str> = invariants::ALL.iter().map(|one| one.name).collect();
        assert_eq!(names.len(), invariants::ALL.len());
    }
}
