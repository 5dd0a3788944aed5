//! The one envelope around every answer.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Largest page of a list, and what is given when no limit is asked for.
pub const PAGE_MAX: usize = 1000;

/// What an error is, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The request is not acceptable as it stands (400).
    Invalid,
    /// No credentials, or not valid ones (401).
    Unauthorized,
    /// Valid credentials without the right to do this (403).
    Forbidden,
    /// There is no such thing, or none that the caller may see (404).
    NotFound,
    /// The path is known, the verb is not (405).
    MethodNotAllowed,
    /// The request did not arrive in time (408).
    RequestTimeout,
    /// The state does not allow it: a name is taken, something is in use (409).
    Conflict,
    /// The request is larger than what is taken (413).
    TooLarge,
    /// A fault of the node (500).
    Internal,
    /// Nothing was changed: no leader could take the write (503). Repeat it.
    NotAppended,
    /// The node has not got as far as the request demands, or is not ready (503). Repeat it, or ask another node.
    Behind,
    /// The write may or may not come to pass (504). Repeat it under the same request id to learn which.
    OutcomeUnknown,
    /// The write is done, but this node cannot show it yet (504). Repeat it under the same request id.
    NotVisibleYet,
    /// A code that this version does not know.
    #[serde(other)]
    Unknown,
}

impl Code {
    /// The HTTP status that goes with it.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::Invalid => 400,
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::RequestTimeout => 408,
            Self::Conflict => 409,
            Self::TooLarge => 413,
            Self::Internal | Self::Unknown => 500,
            Self::NotAppended | Self::Behind => 503,
            Self::OutcomeUnknown | Self::NotVisibleYet => 504,
        }
    }

    /// Whether the same request, repeated under the same id, may well succeed.
    #[must_use]
    pub fn is_passing(self) -> bool {
        matches!(
            self,
            Self::NotAppended
                | Self::Behind
                | Self::OutcomeUnknown
                | Self::NotVisibleYet
                | Self::RequestTimeout
        )
    }
}

/// The envelope.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Envelope<T> {
    /// The answer proper; null in errors and where there is nothing to say.
    pub data: Option<T>,
    /// It went well.
    pub success: bool,
    /// It did not.
    pub error: bool,
    /// What happened, for people.
    pub message: String,
    /// The HTTP status.
    pub status: u16,
    /// What the error is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<Code>,
    /// The request's name; to repeat it, send it along.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<Uuid>,
    /// What to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl<T> Envelope<T> {
    /// Around a success.
    pub fn success(status: u16, message: impl Into<String>, data: Option<T>) -> Self {
        let message = message.into();
        Self { data, success: true, error: false, message, status, code: None, request_id: None, hint: None }
    }

    /// Around an error.
    #[must_use]
    pub fn failure(failure: Failure) -> Self {
        let Failure { status, code, message, hint, request_id } = failure;
        Self { data: None, success: false, error: true, message, status, code: Some(code), request_id, hint }
    }
}

/// An error that the API answered with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// The HTTP status.
    pub status: u16,
    /// What it is.
    pub code: Code,
    /// What was wrong, and where.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
    /// The request's name.
    pub request_id: Option<Uuid>,
}

/// Which part of a list an answer shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pagination {
    /// Number of all entries.
    pub total: usize,
    /// Most entries shown.
    pub limit: usize,
    /// Entries left out before the first one shown.
    pub offset: usize,
}
