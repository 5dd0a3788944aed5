//! The requests that connectors make: sign-in and the opening of the control socket.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body::Body;
use http_body_util::{BodyExt as _, Empty, Full, Limited, combinators::BoxBody};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use pangolin_core::{
    NodeId, SiteId, TargetId,
    observation::{Attachment, TargetHealth},
    record::Digest,
};
use serde::{Deserialize, Serialize};
use tokio::{sync::watch, time::timeout};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{handshake::derive_accept_key, protocol::Role},
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};
use zeroize::Zeroizing;

use super::{
    Clock, ProvisionError, Provisioned, SiteControl,
    attached::{Attached, Order},
    over_tls::{Carriers, carry, limits as datagram_limits},
    socket::{Socket, limits},
    token::Tokens,
};

/// Where a connector gets its session token.
pub const TOKEN_PATH: &str = "/api/v1/auth/newt/get-token";
/// Where a connector that brings a provisioning key gets credentials.
pub const PROVISION_PATH: &str = "/api/v1/auth/newt/register";
/// Where a connector asks whether it should update itself. It should not.
pub const VERSION_PATH: &str = "/api/v1/auth/newt/version";
/// Where a connector opens its control socket.
pub const SOCKET_PATH: &str = "/api/v1/ws";
/// Where a connector of this product opens a WebSocket for WireGuard's datagrams, if its network lets no UDP out.
pub const DATAGRAMS_PATH: &str = "/api/v1/tunnel/datagrams";

/// Longest body of a request. Its two fields have 63 characters.
const BODY_MAX: usize = 4 << 10;
/// How long a connector may take to send that.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the connection may take to become a WebSocket after the answer is given.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the sockets may take to close when the node drains.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);

/// Body of an answer.
pub type AnswerBody = BoxBody<Bytes, Infallible>;

/// The control channel of the sites at this node.
pub struct ControlService {
    port: Arc<dyn SiteControl>,
    tokens: Tokens,
    now: Clock,
    attached: Arc<Attached>,
    carriers: Carriers,
    sockets: TaskTracker,
    stop: CancellationToken,
    _stop_on_drop: DropGuard,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Credentials {
    newt_id: String,
    secret: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Token {
    token: String,
    server_version: &'static str,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ProvisionRequest {
    provisioning_key: String,
    #[serde(default)]
    name: Option<String>,
}

/// New credentials, as Newt reads them.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct NewCredentials<'a> {
    newt_id: &'a str,
    secret: &'a str,
}

/// What every answer of this API looks like.
#[derive(Serialize)]
struct Envelope<'a, T> {
    data: Option<T>,
    success: bool,
    error: bool,
    message: &'a str,
    status: u16,
}

impl ControlService {
    /// A service that asks `port`. `token_key` must be the same on all nodes, so that each accepts the others' tokens.
    #[must_use]
    pub fn new(port: Arc<dyn SiteControl>, token_key: [u8; 32], now: Clock) -> Self {
        let stop = CancellationToken::new();
        Self {
            port,
            tokens: Tokens::new(&token_key),
            now,
            attached: Attached::new(),
            carriers: Carriers::default(),
            sockets: TaskTracker::new(),
            _stop_on_drop: stop.clone().drop_guard(),
            stop,
        }
    }

    /// Takes other keys for tokens: the first one makes them, all are accepted.
    pub fn set_token_keys(&self, keys: &[Zeroizing<[u8; 32]>]) {
        self.tokens.set(keys);
    }

    /// Whether requests for this path belong here.
    #[must_use]
    pub fn serves(path: &str) -> bool {
        matches!(path, TOKEN_PATH | PROVISION_PATH | VERSION_PATH | SOCKET_PATH | DATAGRAMS_PATH)
    }

    /// Answers a request for one of the paths that it [`serves`](Self::serves). An opened control socket lives on in a
    /// task of this service.
    pub async fn handle<B>(&self, request: Request<B>) -> Response<AnswerBody>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + std::marker::Sync>>,
    {
        let version = request.version();
        let mut response = match (request.method(), request.uri().path()) {
            (&Method::GET, SOCKET_PATH) => return self.open_socket(request),
            (&Method::GET, DATAGRAMS_PATH) => return self.open_datagrams(request),
            (&Method::POST, TOKEN_PATH) => match received(request).await {
                Ok(body) => self.token(&body),
                Err(refusal) => *refusal,
            },
            (&Method::POST, PROVISION_PATH) => match received(request).await {
                Ok(body) => self.provision(&body).await,
                Err(refusal) => *refusal,
            },
            (&Method::POST, VERSION_PATH) => empty(StatusCode::NO_CONTENT),
            (_, TOKEN_PATH | PROVISION_PATH | VERSION_PATH) => not_allowed("POST"),
            (_, SOCKET_PATH | DATAGRAMS_PATH) => not_allowed("GET"),
            _ => refusal(StatusCode::NOT_FOUND, "there is nothing here"),
        };
        // A Newt keeps the connection for its next sign-in. If the node is dead by then, that costs it 30 s.
        if version <= Version::HTTP_11 {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    /// The sites whose control socket is at this node. Whoever borrows them must not call this service meanwhile: a socket
    /// that opens keeps others out until it has told of itself here.
    #[must_use]
    pub fn attached(&self) -> watch::Receiver<BTreeSet<SiteId>> {
        self.attached.sites()
    }

    /// What the connectors attached here say of their own sites' targets.
    #[must_use]
    pub fn target_health(&self) -> watch::Receiver<BTreeMap<TargetId, TargetHealth>> {
        self.attached.health()
    }

    /// What is known of the tunnels of the sites attached here.
    #[must_use]
    pub fn attachments(&self) -> watch::Receiver<BTreeMap<SiteId, Attachment>> {
        self.attached.attachments()
    }

    /// The sites whose connectors have said here that they end, and when; none that has come back here. Those older than
    /// [`super::FAREWELL_LIFETIME`] are of no interest any more.
    #[must_use]
    pub fn farewells(&self) -> watch::Receiver<BTreeMap<SiteId, Instant>> {
        self.attached.farewells()
    }

    /// Has a single-homed connector of `site` that is attached here move its tunnel to `node` at once, ahead of the
    /// plan. `node` must have the peer installed already. Nothing happens to multi-homed connectors, nor to one whose
    /// tunnel is known to end there. Returns whether there is a socket to say it through.
    pub fn move_to(&self, site: SiteId, node: NodeId) -> bool {
        self.attached.order(site, Order::MoveTo(node))
    }

    /// Refuses new sockets and closes the present ones, so that the connectors go to another node; their tunnels stay.
    pub async fn close(&self) {
        self.attached.drain();
        self.sockets.close();
        if timeout(DRAIN_TIMEOUT, self.sockets.wait()).await.is_err() {
            self.stop.cancel();
        }
    }

    /// Newt takes any 2xx, writes the credentials to its file and forgets the key.
    async fn provision(&self, body: &[u8]) -> Response<AnswerBody> {
        let ProvisionRequest { provisioning_key, name } = match serde_json::from_slice(body) {
            Ok(request) => request,
            Err(error) => {
                let message = format!("not {{\"provisioningKey\", \"name\"}}: {error}");
                return refusal(StatusCode::BAD_REQUEST, &message);
            }
        };
        let name = name.filter(|name| !name.trim().is_empty());
        match self.port.provision(provisioning_key, name).await {
            Ok(Provisioned { connector_id, secret }) => {
                let data = NewCredentials { newt_id: &connector_id, secret: &secret };
                let message = "Site created successfully";
                let envelope =
                    Envelope { data: Some(data), success: true, error: false, message, status: 201 };
                let mut response = json(&envelope);
                *response.status_mut() = StatusCode::CREATED;
                response
            }
            Err(error) => {
                let status = match &error {
                    ProvisionError::Key => StatusCode::UNAUTHORIZED,
                    ProvisionError::Site { later: false, .. } => StatusCode::BAD_REQUEST,
                    ProvisionError::Site { later: true, .. } => StatusCode::SERVICE_UNAVAILABLE,
                };
                refusal(status, &error.to_string())
            }
        }
    }

    fn token(&self, body: &[u8]) -> Response<AnswerBody> {
        let credentials: Credentials = match serde_json::from_slice(body) {
            Ok(credentials) => credentials,
            Err(error) => {
                let message = format!("not {{\"newtId\", \"secret\"}}: {error}");
                return refusal(StatusCode::BAD_REQUEST, &message);
            }
        };
        let signed_in = self
            .port
            .sign_in(&credentials.newt_id, &credentials.secret)
            .and_then(|site| self.port.credential(site).map(|credential| (site, credential)));
        let Some((site, credential)) = signed_in else {
            return refusal(
                StatusCode::BAD_REQUEST,
                "the id or the secret is incorrect, or the site is disabled",
            );
        };
        let token = self.tokens.issue(site, credential, (self.now)());
        json(&Envelope {
            data: Some(Token { token, server_version: env!("CARGO_PKG_VERSION") }),
            success: true,
            error: false,
            message: "Token created successfully",
            status: 200,
        })
    }

    fn open_socket<B: Send + 'static>(&self, request: Request<B>) -> Response<AnswerBody> {
        let Opening { accept, signed_in } = match self.opening(&request) {
            Ok(opening) => opening,
            Err(refusal) => return *refusal,
        };
        let seat = match self.attached.admit(signed_in.0) {
            Ok(seat) => seat,
            Err(error) => return refusal(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()),
        };
        let (port, now, stop) = (Arc::clone(&self.port), self.now, self.stop.clone());
        self.sockets.spawn(async move {
            let Some(upgraded) = upgraded(request).await else { return };
            let ws = WebSocketStream::from_raw_socket(upgraded, Role::Server, Some(limits())).await;
            let socket = Socket::new(port, now, signed_in, seat, ws);
            stop.run_until_cancelled(Box::pin(socket.run())).await;
        });
        switching(&accept)
    }

    fn open_datagrams<B: Send + 'static>(&self, request: Request<B>) -> Response<AnswerBody> {
        let Opening { accept, signed_in: (site, _) } = match self.opening(&request) {
            Ok(opening) => opening,
            Err(refusal) => return *refusal,
        };
        let Some(wireguard) = self.port.wireguard() else {
            return refusal(
                StatusCode::SERVICE_UNAVAILABLE,
                "this node carries no tunnels; try another node",
            );
        };
        let Some(carrier) = self.carriers.admit() else {
            return refusal(StatusCode::SERVICE_UNAVAILABLE, "this node carries as much over TLS as it may");
        };
        let stop = self.stop.clone();
        self.sockets.spawn(async move {
            let _carrier = carrier;
            let Some(upgraded) = upgraded(request).await else { return };
            let limits = Some(datagram_limits());
            let ws = WebSocketStream::from_raw_socket(upgraded, Role::Server, limits).await;
            tracing::info!(%site, "datagrams of a site come over TLS");
            let ended = stop.run_until_cancelled(Box::pin(carry(ws, wireguard))).await;
            let reason = ended.and_then(Result::err);
            tracing::info!(%site, reason, "datagrams of a site do not come over TLS any more");
        });
        switching(&accept)
    }

    /// Whether a request may open a WebSocket; else the refusal.
    fn opening<B>(&self, request: &Request<B>) -> Result<Opening, Box<Response<AnswerBody>>> {
        let accept = match websocket_key(request) {
            Ok(key) => derive_accept_key(key.as_bytes()),
            Err(message) => return Err(Box::new(refusal(StatusCode::BAD_REQUEST, message))),
        };
        let query = request.uri().query().unwrap_or_default();
        if parameter(query, "clientType").is_some_and(|kind| kind != "newt") {
            return Err(Box::new(refusal(StatusCode::BAD_REQUEST, "only clientType=newt is served here")));
        }
        let token = parameter(query, "token").unwrap_or_default();
        let signed_in = self.tokens.check(token, (self.now)(), |site| self.port.credential(site));
        let signed_in =
            signed_in.map_err(|error| Box::new(refusal(StatusCode::UNAUTHORIZED, &error.to_string())))?;
        Ok(Opening { accept, signed_in })
    }
}

/// The body of a request, or the refusal.
async fn received<B>(request: Request<B>) -> Result<Bytes, Box<Response<AnswerBody>>>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + std::marker::Sync>>,
{
    let body = Limited::new(request.into_body(), BODY_MAX).collect();
    let (status, message) = match timeout(BODY_TIMEOUT, Box::pin(body)).await {
        Ok(Ok(body)) => return Ok(body.to_bytes()),
        Ok(Err(error)) => (StatusCode::BAD_REQUEST, format!("the body was not received: {error}")),
        Err(_) => (StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time".to_owned()),
    };
    Err(Box::new(refusal(status, &message)))
}

/// A request that may open a WebSocket.
struct Opening {
    /// The key for the answer.
    accept: String,
    /// Who has signed in, with which credential.
    signed_in: (SiteId, Digest),
}

/// The connection behind a request, once the answer to it is out.
async fn upgraded<B: Send + 'static>(request: Request<B>) -> Option<TokioIo<Upgraded>> {
    match timeout(UPGRADE_TIMEOUT, hyper::upgrade::on(request)).await {
        Ok(Ok(upgraded)) => return Some(TokioIo::new(upgraded)),
        Ok(Err(error)) => tracing::debug!(%error, "no WebSocket came of the request"),
        Err(_) => tracing::debug!("the WebSocket was not opened in time"),
    }
    None
}

/// The answer that makes a connection a WebSocket.
fn switching(key: &str) -> Response<AnswerBody> {
    let mut response = empty(StatusCode::SWITCHING_PROTOCOLS);
    let headers = response.headers_mut();
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    if let Ok(accept) = HeaderValue::from_str(key) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    response
}

/// The key of a request to open a WebSocket (RFC 6455, 4.2.1), or what is missing.
fn websocket_key<B>(request: &Request<B>) -> Result<&HeaderValue, &'static str> {
    let headers = request.headers();
    if request.version() != Version::HTTP_11 {
        return Err("a WebSocket is opened with HTTP/1.1");
    }
    if !lists(headers, &header::CONNECTION, "upgrade") || !lists(headers, &header::UPGRADE, "websocket") {
        return Err("this is a WebSocket: Connection: Upgrade and Upgrade: websocket are needed");
    }
    if !lists(headers, &header::SEC_WEBSOCKET_VERSION, "13") {
        return Err("Sec-WebSocket-Version must be 13");
    }
    headers.get(header::SEC_WEBSOCKET_KEY).ok_or("Sec-WebSocket-Key is missing")
}

fn lists(headers: &HeaderMap, name: &header::HeaderName, wanted: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|value| value.trim().eq_ignore_ascii_case(wanted))
}

/// A parameter of a query. Neither a token nor a client type has characters that would be escaped.
fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value)
}

fn empty(status: StatusCode) -> Response<AnswerBody> {
    let mut response = Response::new(Empty::new().boxed());
    *response.status_mut() = status;
    response
}

fn not_allowed(allowed: &'static str) -> Response<AnswerBody> {
    let mut response = refusal(StatusCode::METHOD_NOT_ALLOWED, "the method is not allowed here");
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
    response
}

fn refusal(status: StatusCode, message: &str) -> Response<AnswerBody> {
    let mut response = json(&Envelope::<Token> {
        data: None,
        success: false,
        error: true,
        message,
        status: status.as_u16(),
    });
    *response.status_mut() = status;
    response
}

fn json<T: Serialize>(envelope: &Envelope<'_, T>) -> Response<AnswerBody> {
    // Strings and numbers always have a JSON form.
    let body = serde_json::to_vec(envelope).unwrap_or_default();
    let mut response = Response::new(Full::from(body).boxed());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
