//! Whether figures are what they are to be.

use serde::Serialize;

/// A figure and its bound.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Check {
    /// What is measured, with its unit.
    pub(crate) what: String,
    /// What came out.
    pub(crate) is: f64,
    /// Smallest acceptable value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) at_least: Option<f64>,
    /// Largest acceptable value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) at_most: Option<f64>,
    pub(crate) ok: bool,
}

impl Check {
    pub(crate) fn at_least(what: impl Into<String>, is: f64, bound: f64) -> Self {
        let (at_least, at_most) = (Some(bound), None);
        Self { what: what.into(), is, at_least, at_most, ok: is >= bound }
    }

    pub(crate) fn at_most(what: impl Into<String>, is: f64, bound: f64) -> Self {
        let (at_least, at_most) = (None, Some(bound));
        Self { what: what.into(), is, at_least, at_most, ok: is <= bound }
    }

    /// In words.
    pub(crate) fn line(&self) -> String {
        let verdict = if self.ok { "ok  " } else { "MISS" };
        let bound = match (self.at_least, self.at_most) {
            (Some(bound), _) => format!("at least {bound}"),
            (_, Some(bound)) => format!("at most {bound}"),
            _ => String::new(),
        };
        format!("{verdict}  {}: {} ({bound})", self.what, self.is)
    }
}
