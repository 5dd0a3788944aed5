//! Explanations as text.

use std::fmt;

use super::{Explanation, Fact, Step, Told};
use crate::command::Cause;

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.about)?;
        self.facts.iter().try_for_each(|fact| write!(f, "\n{fact}"))
    }
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text)?;
        self.steps.iter().try_for_each(|step| write!(f, "{step}"))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let indent = "  ".repeat(self.depth + 1);
        let because = if self.depth > 0 { "because " } else { "" };
        let revision = self.revision.map(|revision| format!("  {revision}")).unwrap_or_default();
        match &self.told {
            Told::Decision { decision, actor } => {
                writeln!(f, "{indent}{because}{}{revision}  {}", decision.at, decision.text())?;
                let term = decision.term.map(|term| format!(" in term {term}")).unwrap_or_default();
                writeln!(f, "{indent}  {}", by(&decision.cause, actor, &term))
            }
            Told::Recorded { at, cause, actor } => {
                writeln!(f, "{indent}{because}{at}{revision}  (the decision itself is no longer kept)")?;
                writeln!(f, "{indent}  {}", by(cause, actor, ""))
            }
            Told::Forgotten => {
                writeln!(f, "{indent}{because}a decision that is no longer kept{revision}")
            }
            Told::Hidden => {
                writeln!(f, "{indent}{because}a decision about the cluster that administrators see{revision}")
            }
        }
    }
}

/// Who and why, and whether somebody wanted it or the cluster did it by itself.
fn by(cause: &Cause, actor: &str, term: &str) -> String {
    let kind = if cause.actor.is_operator() { "operator" } else { "automatic" };
    format!("{kind}: {actor}{term}: {}", cause.reason)
}
