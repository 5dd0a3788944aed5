//! A small HTTP client for the API: over TLS with a bearer key, or over a node's local socket.
//!
//! Every request is a connection of its own: callers ask rarely, and a connection that was left open may lead to a
//! node that is no more. A host with several addresses is tried at each of them, so that one name for all nodes is
//! enough to get past a dead one. The client sends back the last revision it was given, and thereby reads its own
//! writes on every node.

mod connect;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use pangolin_core::Revision;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::time::Instant;
use uuid::Uuid;

use crate::{BASE_PATH, Envelope, Failure, MIN_REVISION_HEADER, REQUEST_ID_HEADER, REVISION_HEADER};
use connect::{Stream, Tls};
pub use connect::{chain, system_roots};

/// Longest that one attempt may take. A node itself gives up on a write after a few seconds.
const ATTEMPT_MAX: Duration = Duration::from_secs(10);
/// Largest answer: a page of a thousand entries stays well below.
const ANSWER_MAX: usize = 16 * 1024 * 1024;
/// First pause before a repeat; it doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// Longest pause before a repeat.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Why there is no answer, or none of the kind that was asked for.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The client cannot be made as asked for.
    #[error("{0}")]
    Setup(String),
    /// There is no connection to a node: nothing was sent.
    #[error("{endpoint} is not reached: {reason}")]
    Unreachable {
        /// Where the request was to go.
        endpoint: String,
        /// What happened there.
        reason: String,
    },
    /// The connection ended, or time was up, before there was an answer: a write may or may not come to pass.
    #[error("{endpoint} did not answer: {reason}")]
    Broken {
        /// Where the request went.
        endpoint: String,
        /// What happened there.
        reason: String,
    },
    /// The API answered with an error.
    #[error(transparent)]
    Refused(#[from] Failure),
    /// Whatever answered, it does not speak this API.
    #[error(
        "{endpoint} answered with status {status} and something that is not an answer of this API: {reason}"
    )]
    Foreign {
        /// Where the request went.
        endpoint: String,
        /// The HTTP status.
        status: u16,
        /// What is wrong with the answer.
        reason: String,
    },
}

impl ClientError {
    /// Whether a repeat, or another node, may well help: nobody answered, or the answer was 503 or 504.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Broken { .. } => true,
            Self::Refused(failure) => failure.code.is_passing() || matches!(failure.status, 502..=504),
            Self::Foreign { status, .. } => matches!(status, 502..=504),
            Self::Setup(_) => false,
        }
    }

    /// What to do, if the API said so.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Refused(failure) => failure.hint.as_deref(),
            _ => None,
        }
    }
}

/// A good answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// What happened, for people.
    pub message: String,
    /// The answer proper, exactly as it was sent.
    pub data: Value,
    /// The revision it shows.
    pub revision: Option<Revision>,
}

impl Answer {
    /// The answer proper, typed.
    ///
    /// # Errors
    /// It is something else.
    pub fn parse<T: DeserializeOwned>(&self, endpoint: &str) -> Result<T, ClientError> {
        serde_json::from_value(self.data.clone()).map_err(|error| ClientError::Foreign {
            endpoint: endpoint.to_owned(),
            status: self.status,
            reason: error.to_string(),
        })
    }
}

#[derive(Clone, Debug)]
enum Road {
    Tls { tls: Tls, key: HeaderValue, at: Option<SocketAddr> },
    Unix(PathBuf),
}

/// A client of the API.
#[derive(Debug)]
pub struct Client {
    road: Road,
    /// How the node is called in the `Host` header, with the port where it is not 443.
    authority: String,
    endpoint: String,
    deadline: Duration,
    seen: std::sync::Mutex<Option<Revision>>,
}

impl Client {
    /// A client for `https://HOST[:PORT]` that shows the API key `ID.SECRET`. The certificate authorities of the
    /// system are trusted, and those in `extra_ca` (PEM).
    ///
    /// # Errors
    /// The endpoint is no such URL, the key cannot stand in a header, or no authority is known.
    pub fn https(endpoint: &str, key: &str, extra_ca: Option<&[u8]>) -> Result<Self, ClientError> {
        let bad = |why: &str| ClientError::Setup(format!("the endpoint {endpoint:?} {why}"));
        let uri: http::Uri = endpoint.parse().map_err(|e| bad(&format!("is not a URL: {e}")))?;
        if uri.scheme_str() != Some("https") {
            return Err(bad("does not begin with https://: the API is spoken over TLS alone"));
        }
        if uri.query().is_some() || !matches!(uri.path(), "" | "/" | BASE_PATH) {
            return Err(bad("has a path: write https://HOST or https://HOST:PORT"));
        }
        let authority = uri.authority().ok_or_else(|| bad("names no host"))?;
        if authority.as_str().contains('@') {
            return Err(bad("names a user: the API key goes into a file of its own"));
        }
        let mut bearer = HeaderValue::from_str(&format!("Bearer {}", key.trim()))
            .map_err(|_| ClientError::Setup("the API key has characters that no key has".into()))?;
        bearer.set_sensitive(true);
        let tls = Tls::new(authority.host(), authority.port_u16().unwrap_or(443), extra_ca)?;
        Ok(Self {
            authority: authority.to_string(),
            endpoint: format!("https://{authority}"),
            road: Road::Tls { tls, key: bearer, at: None },
            deadline: Duration::ZERO,
            seen: std::sync::Mutex::default(),
        })
    }

    /// A client for a node's local socket, where whoever may open it is an operator.
    #[must_use]
    pub fn unix(socket: impl AsRef<Path>) -> Self {
        let socket = socket.as_ref().to_owned();
        Self {
            authority: "localhost".into(),
            endpoint: socket.display().to_string(),
            road: Road::Unix(socket),
            deadline: Duration::ZERO,
            seen: std::sync::Mutex::default(),
        }
    }

    /// Connects to this address instead of those that DNS gives for the endpoint's host.
    #[must_use]
    pub fn at(mut self, address: SocketAddr) -> Self {
        if let Road::Tls { at, .. } = &mut self.road {
            *at = Some(address);
        }
        self
    }

    /// Repeats what fails in passing, under the same request id, until `deadline` has gone by. A fresh client makes
    /// one attempt; so does one that reaches nobody the first time, because that is most likely a wrong endpoint.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Where requests go, for messages.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The newest revision that an answer has shown.
    #[must_use]
    pub fn revision(&self) -> Option<Revision> {
        *self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Reads `path`, for example `/orgs`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.send(Method::GET, path, None, Uuid::new_v4()).await?.parse(&self.endpoint)
    }

    /// Creates with `PUT`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn put<B: Serialize + Sync, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T, ClientError> {
        self.send(Method::PUT, path, Some(encode(body)?), Uuid::new_v4()).await?.parse(&self.endpoint)
    }

    /// Updates with `POST`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn post<B: Serialize + Sync, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T, ClientError> {
        self.send(Method::POST, path, Some(encode(body)?), Uuid::new_v4()).await?.parse(&self.endpoint)
    }

    /// Removes.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn delete(&self, path: &str) -> Result<(), ClientError> {
        self.send(Method::DELETE, path, None, Uuid::new_v4()).await.map(|_| ())
    }

    /// Sends a request under the given id, again and again until it gets an answer that stays, or the deadline has
    /// gone by.
    ///
    /// # Errors
    /// See [`ClientError`]; the last one, if there were several.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
        request: Uuid,
    ) -> Result<Answer, ClientError> {
        self.send_within(method, path, body, request, ATTEMPT_MAX).await
    }

    /// As [`Self::send`], for what may take longer than most: one attempt lasts up to `attempt_max`.
    ///
    /// # Errors
    /// See [`ClientError`]; the last one, if there were several.
    pub async fn send_within(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
        request: Uuid,
        attempt_max: Duration,
    ) -> Result<Answer, ClientError> {
        let body = body.map_or_else(Bytes::new, |value| Bytes::from(value.to_string()));
        let end = Instant::now() + self.deadline;
        let mut pause = PAUSE_MIN;
        let mut reached = false;
        loop {
            let error = match self.attempt(&method, path, body.clone(), request, attempt_max).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            reached |= !matches!(error, ClientError::Unreachable { .. });
            if !reached || !error.is_passing() || Instant::now() + pause >= end {
                return Err(error);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn attempt(
        &self,
        method: &Method,
        path: &str,
        body: Bytes,
        request: Uuid,
        attempt_max: Duration,
    ) -> Result<Answer, ClientError> {
        let request = self.request(method, path, body, request)?;
        let exchange = async {
            let (status, revision, body) = self.exchange(request).await?;
            self.read(status, revision, &body)
        };
        tokio::time::timeout(attempt_max, exchange)
            .await
            .unwrap_or_else(|_| Err(self.broken(format!("no answer within {} s", attempt_max.as_secs()))))
    }

    fn request(
        &self,
        method: &Method,
        path: &str,
        body: Bytes,
        request: Uuid,
    ) -> Result<Request<Full<Bytes>>, ClientError> {
        let mut builder = Request::builder()
            .method(method)
            .uri(format!("{BASE_PATH}{path}"))
            .header(header::HOST, &self.authority)
            .header(header::ACCEPT, "application/json")
            .header(REQUEST_ID_HEADER, request.to_string());
        if !body.is_empty() {
            builder = builder.header(header::CONTENT_TYPE, "application/json");
        }
        if let Road::Tls { key, .. } = &self.road {
            builder = builder.header(header::AUTHORIZATION, key);
        }
        if let Some(revision) = self.revision() {
            builder = builder.header(MIN_REVISION_HEADER, revision.to_string());
        }
        builder
            .body(Full::new(body))
            .map_err(|error| ClientError::Setup(format!("the path {path:?} is not acceptable: {error}")))
    }

    async fn exchange(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<(StatusCode, Option<Revision>, Bytes), ClientError> {
        let stream = match &self.road {
            Road::Tls { tls, at, .. } => tls.connect(*at).await,
            Road::Unix(path) => connect::unix(path).await,
        };
        let unreachable = |reason| ClientError::Unreachable { endpoint: self.endpoint.clone(), reason };
        match stream.map_err(unreachable)? {
            Stream::Tls(stream) => self.speak(stream, request).await,
            Stream::Unix(stream) => self.speak(stream, request).await,
        }
    }

    async fn speak<S>(
        &self,
        stream: S,
        request: Request<Full<Bytes>>,
    ) -> Result<(StatusCode, Option<Revision>, Bytes), ClientError>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let broken = |error: hyper::Error| self.broken(chain(&error));
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(broken)?;
            let (head, body) = response.into_parts();
            let revision = head.headers.get(REVISION_HEADER).and_then(|v| v.to_str().ok()?.parse().ok());
            let body = Limited::new(body, ANSWER_MAX).collect().await;
            let body = body.map_err(|error| self.broken(chain(&*error)))?.to_bytes();
            Ok((head.status, revision, body))
        };
        // The connection is driven here and ends with the exchange: no task is left behind.
        tokio::pin!(connection);
        tokio::pin!(exchange);
        tokio::select! {
            biased;
            result = &mut exchange => result,
            ended = &mut connection => match ended {
                Ok(()) => exchange.await,
                Err(error) => Err(broken(error)),
            },
        }
    }

    fn read(
        &self,
        status: StatusCode,
        revision: Option<Revision>,
        body: &[u8],
    ) -> Result<Answer, ClientError> {
        let envelope: Envelope<Value> =
            serde_json::from_slice(body).map_err(|error| ClientError::Foreign {
                endpoint: self.endpoint.clone(),
                status: status.as_u16(),
                reason: error.to_string(),
            })?;
        if let Some(revision) = revision {
            let mut seen = self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            *seen = (*seen).max(Some(revision));
        }
        let Envelope { data, success, message, code, request_id, hint, .. } = envelope;
        let status = status.as_u16();
        if success && status < 400 {
            return Ok(Answer { status, message, data: data.unwrap_or(Value::Null), revision });
        }
        let code = code.unwrap_or(crate::Code::Unknown);
        Err(Failure { status, code, message, hint, request_id }.into())
    }

    fn broken(&self, reason: String) -> ClientError {
        ClientError::Broken { endpoint: self.endpoint.clone(), reason }
    }
}

fn encode<B: Serialize>(body: &B) -> Result<Value, ClientError> {
    serde_json::to_value(body)
        .map_err(|error| ClientError::Setup(format!("the request is not JSON: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_that_is_not_https_is_refused_with_the_reason() {
        for (bad, why) in [
            ("http://a.example", "TLS"),
            ("a.example", "TLS"),
            ("https://a.example/path", "path"),
            ("https://me@a.example", "user"),
            ("https://", "URL"),
        ] {
            let error = Client::https(bad, "id.secret", None).expect_err("refused").to_string();
            assert!(error.contains(why) && error.contains(bad), "{bad}: {error}");
        }
    }

    #[tokio::test]
    async fn a_socket_that_is_not_there_is_named() {
        let client = Client::unix("/nonexistent/pangolin.sock");
        let error = client.get::<crate::Health>("/health").await.expect_err("nothing there");
        assert!(error.is_passing());
        assert!(error.to_string().contains("/nonexistent/pangolin.sock"), "{error}");
    }
}
