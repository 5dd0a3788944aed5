//! Answers and errors as HTTP responses.

use http::{HeaderValue, StatusCode, header};
use pangolin_core::Revision;
use pangolin_wire::{Code, Envelope, Failure, REVISION_HEADER};
use serde::Serialize;
use uuid::Uuid;
use warp::reply::Response;

use crate::failure::ApiFailure;

/// Seconds after which a client may try again when there is no leader: an election takes less.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// What a handler answers.
#[derive(Debug)]
pub(crate) struct Answer {
    status: StatusCode,
    /// The envelope, as it is sent.
    body: Vec<u8>,
    revision: Revision,
}

impl Answer {
    /// Something was read or changed.
    pub(crate) fn ok(
        revision: Revision,
        message: impl Into<String>,
        data: &impl Serialize,
    ) -> Result<Self, ApiFailure> {
        Self::with(StatusCode::OK, revision, message, data)
    }

    /// Something was made.
    pub(crate) fn created(
        revision: Revision,
        message: impl Into<String>,
        data: &impl Serialize,
    ) -> Result<Self, ApiFailure> {
        Self::with(StatusCode::CREATED, revision, message, data)
    }

    /// Something was done that has nothing to show.
    pub(crate) fn done(revision: Revision, message: impl Into<String>) -> Self {
        let status = StatusCode::OK;
        let envelope = Envelope::<()>::success(status.as_u16(), message, None);
        // Numbers and strings are always JSON.
        Self { status, body: serde_json::to_vec(&envelope).unwrap_or_default(), revision }
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    fn with(
        status: StatusCode,
        revision: Revision,
        message: impl Into<String>,
        data: &impl Serialize,
    ) -> Result<Self, ApiFailure> {
        let body = serde_json::to_vec(&Envelope::success(status.as_u16(), message, Some(data)));
        let body = body.map_err(|error| {
            ApiFailure::internal(format!("the answer cannot be written as JSON: {error}"))
        })?;
        Ok(Self { status, body, revision })
    }
}

/// The response to a request of the given name.
pub(crate) fn respond(result: Result<Answer, ApiFailure>, request: Uuid) -> Response {
    match result {
        Ok(Answer { status, body, revision }) => {
            let mut response = json(status, body);
            if let Ok(value) = HeaderValue::from_str(&revision.to_string()) {
                response.headers_mut().insert(REVISION_HEADER, value);
            }
            response
        }
        Err(failure) => refuse(failure, request),
    }
}

fn refuse(failure: ApiFailure, request_id: Uuid) -> Response {
    let ApiFailure { code, message, hint } = failure;
    let status = StatusCode::from_u16(code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let failure = Failure { status: status.as_u16(), code, message, hint, request_id: Some(request_id) };
    // A value made of strings and numbers is always JSON.
    let body = serde_json::to_vec(&Envelope::<()>::failure(failure)).unwrap_or_default();
    let mut response = json(status, body);
    let headers = response.headers_mut();
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(header::RETRY_AFTER, RETRY_AFTER);
    }
    if code == Code::Unauthorized {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"pangolin\""));
    }
    response
}

fn json(status: StatusCode, body: Vec<u8>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    // Answers hold secrets, and age.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
