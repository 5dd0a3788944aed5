//! Errors as the API tells them.

use pangolin_core::{Object, Refusal};
use pangolin_raft::ProposeError;
use pangolin_wire::Code;

/// Why a request was not done: what it is, what was wrong and where, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiFailure {
    /// What it is; decides the HTTP status.
    pub code: Code,
    /// What was wrong, and where.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

impl ApiFailure {
    /// A failure.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None }
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The request is not acceptable as it stands.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::Invalid, message)
    }

    /// There is no such thing, or none that the caller may see.
    #[must_use]
    pub fn not_found(object: &Object) -> Self {
        Self::new(Code::NotFound, format!("there is no {object}"))
    }

    /// Nothing was changed, because no leader could take the write.
    pub fn not_appended(reason: impl std::fmt::Display) -> Self {
        Self::new(Code::NotAppended, format!("nothing was changed: {reason}"))
            .hint("Repeat the request when the cluster has a leader again: `pangolinctl status` shows it.")
    }

    /// The write may or may not come to pass.
    pub fn outcome_unknown(reason: impl std::fmt::Display) -> Self {
        Self::new(Code::OutcomeUnknown, format!("the change may or may not come to pass: {reason}")).hint(
            "Repeat the request with the same Pangolin-Request-Id: it is done once, and you learn which.",
        )
    }

    /// A fault of this node.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Code::Internal, message).hint("See the log of pangolind on this node.")
    }
}

impl From<Refusal> for ApiFailure {
    fn from(refusal: Refusal) -> Self {
        let code = match &refusal {
            Refusal::NotFound(_) => Code::NotFound,
            Refusal::Invalid(_) => Code::Invalid,
            Refusal::NoCluster => Code::Behind,
            Refusal::NameTaken { .. }
            | Refusal::Exists(_)
            | Refusal::InUse(..)
            | Refusal::StaleTerm { .. }
            | Refusal::StaleEpoch { .. }
            | Refusal::StaleRevision { .. }
            | Refusal::TokenExpired(_)
            | Refusal::TokenUsed(..)
            | Refusal::KeyWorthless { .. }
            | Refusal::Limit { .. }
            | Refusal::Forgotten { .. }
            | Refusal::ClusterExists
            | Refusal::Changed(_) => Code::Conflict,
        };
        Self::new(code, refusal.to_string())
    }
}

impl From<ProposeError> for ApiFailure {
    fn from(error: ProposeError) -> Self {
        match &error {
            ProposeError::NotAppended { reason } => Self::not_appended(reason),
            ProposeError::OutcomeUnknown { reason, .. } => Self::outcome_unknown(reason),
            ProposeError::Level { .. } => Self::new(Code::Conflict, error.to_string()),
            ProposeError::TooLarge { .. } => Self::new(Code::TooLarge, error.to_string()),
        }
    }
}
