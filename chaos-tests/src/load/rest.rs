//! A client of the API that keeps its connection, and knows of each request whether it was sent.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use pangolin_core::Revision;
use pangolin_wire::{BASE_PATH, Code, Envelope, MIN_REVISION_HEADER, REQUEST_ID_HEADER, REVISION_HEADER};
use serde_json::Value;
use tokio::time::timeout;
use uuid::Uuid;

use crate::https::Https;

/// Largest answer that is read.
const ANSWER_MAX: usize = 1024 * 1024;

/// How to come to a node's API.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Whom to trust.
    pub https: Https,
    /// The API's host name.
    pub host: String,
    /// The key `ID.SECRET`.
    pub key: String,
}

/// What became of a request.
#[derive(Clone, Debug)]
pub enum Reply {
    /// It was answered.
    Answered {
        /// HTTP status.
        status: u16,
        /// What is wrong, if something is.
        code: Option<Code>,
        /// For people.
        message: String,
        /// The answer proper.
        data: Value,
        /// The revision that it shows.
        revision: Option<Revision>,
    },
    /// It was never sent.
    NotSent(String),
    /// It was sent, at least in part, and nothing came back.
    Lost(String),
}

/// A connection to one node, made when it is needed.
#[derive(Debug)]
pub struct Rest {
    endpoint: Endpoint,
    at: SocketAddr,
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl Rest {
    /// A client of the node at this address.
    #[must_use]
    pub fn new(endpoint: Endpoint, at: SocketAddr) -> Self {
        Self { endpoint, at, sender: None }
    }

    /// Sends a request and waits for the answer, for both at most this long.
    pub async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        request: Uuid,
        min: Option<Revision>,
        patience: Duration,
    ) -> Reply {
        let message = match self.request(method, path, body, request, min) {
            Ok(message) => message,
            Err(error) => return Reply::NotSent(error.to_string()),
        };
        let mut sender = match timeout(patience, self.connected()).await {
            Ok(Ok(sender)) => sender,
            Ok(Err(error)) => return Reply::NotSent(format!("{error:#}")),
            Err(_) => return Reply::NotSent("no connection in time".to_owned()),
        };
        let exchange = async {
            let response = match sender.try_send_request(message).await {
                Ok(response) => response,
                Err(mut error) => {
                    let sent = error.take_message().is_none();
                    let why = error.into_error().to_string();
                    return if sent { Reply::Lost(why) } else { Reply::NotSent(why) };
                }
            };
            read(response).await
        };
        let reply = match timeout(patience, exchange).await {
            Ok(reply) => reply,
            Err(_) => Reply::Lost("no answer in time".to_owned()),
        };
        // A connection of which an answer is outstanding is of no use any more.
        if matches!(reply, Reply::Answered { .. }) {
            self.sender = Some(sender);
        }
        reply
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        request: Uuid,
        min: Option<Revision>,
    ) -> http::Result<Request<Full<Bytes>>> {
        let mut message = Request::builder()
            .method(method)
            .uri(format!("{BASE_PATH}{path}"))
            .header(header::HOST, &self.endpoint.host)
            .header(header::AUTHORIZATION, format!("Bearer {}", self.endpoint.key))
            .header(header::CONTENT_TYPE, "application/json")
            .header(REQUEST_ID_HEADER, request.to_string());
        if let Some(min) = min {
            message = message.header(MIN_REVISION_HEADER, min.to_string());
        }
        message.body(Full::new(body.map(|body| Bytes::from(body.to_string())).unwrap_or_default()))
    }

    async fn connected(&mut self) -> anyhow::Result<SendRequest<Full<Bytes>>> {
        if let Some(mut sender) = self.sender.take()
            && sender.ready().await.is_ok()
        {
            return Ok(sender);
        }
        let stream = self.endpoint.https.connect(self.at, &self.endpoint.host).await?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        // Ends with the sender; what goes wrong on it is told to whoever sends.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(sender)
    }
}

async fn read(response: http::Response<hyper::body::Incoming>) -> Reply {
    let (head, body) = response.into_parts();
    let body = match Limited::new(body, ANSWER_MAX).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => return Reply::Lost(error.to_string()),
    };
    let revision = head.headers.get(REVISION_HEADER).and_then(|value| value.to_str().ok()?.parse().ok());
    match serde_json::from_slice::<Envelope<Value>>(&body) {
        Ok(envelope) => Reply::Answered {
            status: head.status.as_u16(),
            code: envelope.code,
            message: envelope.message,
            data: envelope.data.unwrap_or_default(),
            revision,
        },
        // The edge's own pages: the node was not reached behind it, or is not ready.
        Err(_) if head.status == StatusCode::SERVICE_UNAVAILABLE => {
            Reply::NotSent("the edge answered 503".to_owned())
        }
        Err(error) => Reply::Lost(format!("status {}, and no answer of the API: {error}", head.status)),
    }
}
