//! What can go wrong.

use std::time::Duration;

/// Why there is no answer, or none of the kind that was asked for.
#[derive(Debug, thiserror::Error)]
pub enum AcmeError {
    /// The client cannot be made as asked for.
    #[error("{0}")]
    Setup(String),
    /// The authority is not reached, or does not answer in time. What was asked for may have been done.
    #[error("{host} is not reached: {reason}")]
    Unreachable {
        /// The authority's host.
        host: String,
        /// What happened.
        reason: String,
    },
    /// The authority says no.
    #[error(transparent)]
    Refused(#[from] Problem),
    /// The authority's answer is none of this protocol.
    #[error("{host} answers something that cannot be understood: {reason}")]
    Foreign {
        /// The authority's host.
        host: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Not a key of an account.
    #[error(
        "the key of the account cannot be used: an unencrypted PKCS #8 document with a P-256 key is expected"
    )]
    Key,
}

/// An authority's refusal (RFC 8555 §6.7).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{detail}", if kind.is_empty() { String::new() } else { format!("{kind}: ") })]
pub struct Problem {
    /// HTTP status; 0 where it stands within another answer.
    pub status: u16,
    /// What comes behind `urn:ietf:params:acme:error:`; empty if it is of another kind.
    pub kind: String,
    /// In the authority's words.
    pub detail: String,
    /// When it wants to be asked again.
    pub retry_after: Option<Duration>,
}

impl Problem {
    /// Whether it is of this kind.
    #[must_use]
    pub fn is(&self, kind: &str) -> bool {
        self.kind == kind
    }
}

impl AcmeError {
    /// The refusal, if it is one.
    #[must_use]
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Refused(problem) => Some(problem),
            _ => None,
        }
    }
}
