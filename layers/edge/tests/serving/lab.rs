//! An edge with targets of its own and a dialer whose ways can be cut.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Empty, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    client::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use pangolin_core::{
    CertificateId, HostName, NodeId, ResourceId, Revision, SiteId, TargetId,
    plan::{EdgePlan, PlannedCertificate, Route, RouteTarget},
    record::{Method, Sealed},
};
use pangolin_edge::{
    BodyError, BoundEdge, BoxedDatagrams, Datagrams, DialError, Dialed, Dialer, Edge, EdgeBody, EdgeConfig,
    EdgeError, EdgeProblem, Limits, LocalService, Via,
};
use rustls::{
    DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::Notify,
    task::JoinHandle,
};
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

pub(crate) const CONTROL: &str = "control.test.example";
/// Longest wait for anything in a test.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) type Body = UnsyncBoxBody<Bytes, BodyError>;
pub(crate) type Tls = TlsStream<TcpStream>;

pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

pub(crate) fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// Fails the test rather than hang.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("in time")
}

// --- targets ---------------------------------------------------------------------------------------------------

/// A target: says what it was asked, and does as some paths say.
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    /// Requests that reached it.
    pub(crate) hits: Arc<AtomicU64>,
    /// Lets requests for `/wait` go on.
    pub(crate) go: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Drop for Target {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speaks {
    Http1,
    H2c,
    Tls,
}

impl Target {
    pub(crate) async fn start(name: &'static str, speaks: Speaks) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (hits, go) = (Arc::new(AtomicU64::new(0)), Arc::new(Notify::new()));
        let tls = (speaks == Speaks::Tls).then(target_tls);
        let task = {
            let (hits, go) = (Arc::clone(&hits), Arc::clone(&go));
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let (hits, go, tls) = (Arc::clone(&hits), Arc::clone(&go), tls.clone());
                    let service = service_fn(move |request| {
                        hits.fetch_add(1, Relaxed);
                        respond(name, request, Arc::clone(&go))
                    });
                    tokio::spawn(async move {
                        if let Some(tls) = tls {
                            let Ok(stream) = tls.accept(stream).await else { return };
                            let server = hyper::server::conn::http1::Builder::new();
                            let _ = server.serve_connection(TokioIo::new(stream), service).await;
                        } else if speaks == Speaks::H2c {
                            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                            let _ = server.serve_connection(TokioIo::new(stream), service).await;
                        } else {
                            let server = hyper::server::conn::http1::Builder::new();
                            let _ =
                                server.serve_connection(TokioIo::new(stream), service).with_upgrades().await;
                        }
                    });
                }
            })
        };
        Self { address, hits, go, task }
    }

    pub(crate) fn hits(&self) -> u64 {
        self.hits.load(Relaxed)
    }
}

fn target_tls() -> tokio_rustls::TlsAcceptor {
    let made = rcgen::generate_simple_self_signed(["target.internal".to_owned()]).expect("a certificate");
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
    let config = rustls::ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("a configuration");
    Arc::new(config).into()
}

async fn respond(
    name: &'static str,
    mut request: Request<Incoming>,
    go: Arc<Notify>,
) -> Result<Response<Body>, BodyError> {
    if request.headers().contains_key("upgrade") {
        let mut response = Response::new(empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        for field in ["upgrade", "connection"] {
            response.headers_mut().insert(field, request.headers()[field].clone());
        }
        if let Some(key) = request.headers().get("sec-websocket-key") {
            let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.as_bytes());
            response.headers_mut().insert("sec-websocket-accept", accept.parse().expect("a value"));
        }
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let Ok(upgraded) = upgrade.await else { return };
            let role = tokio_tungstenite::tungstenite::protocol::Role::Server;
            let socket =
                tokio_tungstenite::WebSocketStream::from_raw_socket(TokioIo::new(upgraded), role, None);
            let (write, read) = futures_util::StreamExt::split(socket.await);
            let _ = futures_util::StreamExt::forward(read, write).await;
        });
        return Ok(response);
    }
    match request.uri().path() {
        "/echo" => {
            let mut response = Response::new(request.into_body().map_err(Into::into).boxed_unsync());
            response.headers_mut().insert("x-target", name.parse().expect("a value"));
            Ok(response)
        }
        "/trailers" => {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().expect("a value"));
            let frames =
                [Frame::data(Bytes::from("data")), Frame::trailers(trailers)].map(Ok::<_, BodyError>);
            let body = StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync();
            Ok(Response::builder().header("trailer", "grpc-status").body(body)?)
        }
        "/wait" => {
            go.notified().await;
            Ok(Response::new(full(name)))
        }
        "/die" => Err("closing without a word".into()),
        _ => {
            let mut text = format!("{name}\n{} {}\n", request.method(), request.uri());
            for (field, value) in request.headers() {
                text.push_str(&format!("{field}: {}\n", String::from_utf8_lossy(value.as_bytes())));
            }
            let body = request.into_body().collect().await?.to_bytes();
            text.push_str(&format!("body {}\n", body.len()));
            Ok(Response::builder()
                .header("keep-alive", "timeout=5")
                .header("x-target", name)
                .body(full(text))?)
        }
    }
}

// --- ways ------------------------------------------------------------------------------------------------------

/// A target whose way answers nothing at all.
pub(crate) const SILENT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// One way to a target; it can be cut, which resets what runs on it.
#[derive(Clone)]
pub(crate) struct Way {
    via: Via,
    to: SocketAddr,
    cut: CancellationToken,
}

#[derive(Default)]
pub(crate) struct TestDialer {
    ways: std::sync::Mutex<BTreeMap<u16, Vec<Way>>>,
    pub(crate) dials: AtomicU64,
}

impl TestDialer {
    /// Replaces the ways to the target with this tunnel port.
    pub(crate) fn set(&self, port: u16, ways: &[(Via, SocketAddr)]) -> Vec<CancellationToken> {
        let ways: Vec<_> =
            ways.iter().map(|(via, to)| Way { via: *via, to: *to, cut: CancellationToken::new() }).collect();
        let cuts = ways.iter().map(|way| way.cut.clone()).collect();
        self.ways.lock().expect("a lock").insert(port, ways);
        cuts
    }

    fn way(&self, target: &RouteTarget, exclude: &[NodeId]) -> Option<Way> {
        let own = self.own_node();
        let excluded = |via| match via {
            Via::Local => own.is_some_and(|own| exclude.contains(&own)),
            Via::Relay(node) => exclude.contains(&node),
        };
        let ways = self.ways.lock().expect("a lock");
        ways.get(&target.port)?.iter().find(|way| !excluded(way.via)).cloned()
    }
}

impl Dialer for TestDialer {
    fn dial(&self, target: &RouteTarget, exclude: &[NodeId]) -> BoxFuture<'_, Result<Dialed, DialError>> {
        self.dials.fetch_add(1, Relaxed);
        let way = self.way(target, exclude);
        Box::pin(async move {
            let Some(Way { via, to, cut }) = way else {
                return Err(DialError::no_path("no tunnel is alive"));
            };
            if cut.is_cancelled() {
                return Err(DialError::at(via, "cut"));
            }
            if to == SILENT {
                std::future::pending::<()>().await;
            }
            let mut stream = TcpStream::connect(to).await.map_err(|error| match error.kind() {
                std::io::ErrorKind::ConnectionRefused => DialError::refused(via, error.to_string()),
                _ => DialError::at(via, error.to_string()),
            })?;
            let (near, mut far) = tokio::io::duplex(64 * 1024);
            tokio::spawn(async move {
                tokio::select! {
                    _ = copy_bidirectional(&mut far, &mut stream) => {}
                    () = cut.cancelled() => {}
                }
            });
            Ok(Dialed { io: Box::new(near), via })
        })
    }

    fn dial_datagrams(
        &self,
        target: &RouteTarget,
        exclude: &[NodeId],
    ) -> BoxFuture<'_, Result<(BoxedDatagrams, Via), DialError>> {
        let way = self.way(target, exclude);
        Box::pin(async move {
            let Way { via, to, cut } = way.ok_or_else(|| DialError::no_path("no tunnel is alive"))?;
            if cut.is_cancelled() {
                return Err(DialError::at(via, "cut"));
            }
            let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
            socket.connect(to).await.expect("connected");
            Ok((Box::new(Session(socket)) as BoxedDatagrams, via))
        })
    }

    fn own_node(&self) -> Option<NodeId> {
        Some(NodeId(1))
    }
}

struct Session(UdpSocket);

impl Datagrams for Session {
    fn send<'a>(&'a self, datagram: &'a [u8]) -> BoxFuture<'a, std::io::Result<()>> {
        Box::pin(async move { self.0.send(datagram).await.map(drop) })
    }

    fn receive<'a>(&'a self, buffer: &'a mut [u8]) -> BoxFuture<'a, std::io::Result<usize>> {
        Box::pin(self.0.recv(buffer))
    }
}

// --- the edge --------------------------------------------------------------------------------------------------

struct Local;

impl LocalService for Local {
    fn call(&self, request: Request<Incoming>, peer: SocketAddr) -> BoxFuture<'static, Response<EdgeBody>> {
        let host = request.headers().get("host").cloned();
        let forwarded = request.headers().contains_key("x-forwarded-for");
        let text = format!("local {} {host:?} {} {forwarded}", request.uri().path(), peer.ip());
        Box::pin(async move { Response::new(EdgeBody::full(text)) })
    }
}

pub(crate) struct Made {
    pub(crate) chain: Vec<u8>,
    key: Vec<u8>,
}

impl Made {
    /// Speaks TLS with this certificate.
    pub(crate) fn acceptor(&self) -> tokio_rustls::TlsAcceptor {
        let key = rustls::pki_types::PrivateKeyDer::try_from(self.key.clone()).expect("a key");
        let config = rustls::ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![CertificateDer::from(self.chain.clone())], key)
            .expect("a certificate");
        Arc::new(config).into()
    }
}

pub(crate) fn make(names: &[&str]) -> Made {
    let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
    let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
    Made { chain: made.cert.der().to_vec(), key: made.signing_key.serialize_der() }
}

pub(crate) struct Lab {
    pub(crate) edge: Edge,
    pub(crate) https: SocketAddr,
    pub(crate) http: SocketAddr,
    pub(crate) dialer: Arc<TestDialer>,
    pub(crate) plan: EdgePlan,
    pub(crate) revision: u64,
    pub(crate) shutdown: CancellationToken,
    pub(crate) task: JoinHandle<Result<(), EdgeError>>,
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One target of a resource: its ways.
pub(crate) type Ways<'a> = &'a [(Via, SocketAddr)];

impl Lab {
    pub(crate) fn start() -> Self {
        Self::with(Limits::default())
    }

    pub(crate) fn with(limits: Limits) -> Self {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let config = EdgeConfig { https: vec![any], http: vec![any], limits, node_name: "n1".into() };
        let bound = BoundEdge::bind(config).expect("an edge");
        let addresses = bound.local_addrs();
        let dialer = Arc::new(TestDialer::default());
        let (edge, task) = bound.start(Arc::clone(&dialer) as _, Arc::new(Local));
        let shutdown = CancellationToken::new();
        task.listen().expect("clients are let in");
        let task = tokio::spawn(task.run(shutdown.clone()));
        let mut lab = Self {
            edge,
            https: addresses.https[0],
            http: addresses.http[0],
            dialer,
            plan: EdgePlan { control_host: Some(name(CONTROL)), ..EdgePlan::default() },
            revision: 0,
            shutdown,
            task,
        };
        lab.certificate(1, 1, &["*.test.example"]);
        lab.certificate(2, 1, &["own.example"]);
        lab.apply();
        lab
    }

    pub(crate) fn apply(&mut self) -> Vec<EdgeProblem> {
        self.revision += 1;
        self.apply_at(self.revision)
    }

    pub(crate) fn apply_at(&self, index: u64) -> Vec<EdgeProblem> {
        self.edge.apply(Revision { lineage: 1, index }, &self.plan, &|certificate| {
            Ok(Zeroizing::new(certificate.key.content.clone()))
        })
    }

    pub(crate) fn certificate(&mut self, id: u64, generation: u64, names: &[&str]) -> Vec<u8> {
        let made = make(names);
        self.plan.certificates.retain(|certificate| certificate.id != CertificateId(id));
        self.plan.certificates.push(PlannedCertificate {
            id: CertificateId(id),
            generation,
            names: names.iter().map(|n| name(n)).collect(),
            chain: vec![made.chain.clone()],
            key: Sealed { kek: 1, wrapped_key: Vec::new(), content: made.key },
        });
        made.chain
    }

    /// Publishes `host`, with one target per list of ways. Targets have ids and ports `base`, `base + 1`, …
    pub(crate) fn publish(
        &mut self,
        host: &str,
        method: Method,
        base: u16,
        targets: &[Ways<'_>],
    ) -> Vec<Vec<CancellationToken>> {
        let planned = (base..).zip(targets).map(|(port, _)| RouteTarget {
            id: TargetId(u64::from(port)),
            site: SiteId(1),
            method,
            address: Ipv4Addr::LOCALHOST,
            port,
            host: "target.internal".into(),
        });
        let route =
            Route { resource: ResourceId(u64::from(base)), targets: planned.collect(), ..Route::default() };
        self.plan.routes.insert(name(host), route);
        self.apply();
        (base..).zip(targets).map(|(port, ways)| self.dialer.set(port, ways)).collect()
    }

    /// Publishes `host` with one target, reached through the local tunnel.
    pub(crate) fn publish_local(&mut self, host: &str, method: Method, base: u16, target: &Target) {
        self.publish(host, method, base, &[&[(Via::Local, target.address)]]);
    }

    pub(crate) async fn http1(&self, host: &str) -> Client {
        let stream = connect(self.https, host, &[b"http/1.1"]).await.expect("a handshake");
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("HTTP/1");
        tokio::spawn(connection.with_upgrades());
        Client { sender: Sender::Http1(sender), host: host.into() }
    }

    pub(crate) async fn http2(&self, host: &str) -> Client {
        let stream = connect(self.https, host, &[b"h2"]).await.expect("a handshake");
        let (sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("HTTP/2");
        tokio::spawn(connection);
        Client { sender: Sender::Http2(sender), host: host.into() }
    }

    /// One GET on a connection of its own.
    pub(crate) async fn get(&self, host: &str, path: &str) -> Answer {
        self.http1(host).await.get(path).await
    }

    /// Sends bytes as they are and reads until the edge closes.
    pub(crate) async fn raw(&self, host: &str, bytes: &[u8]) -> String {
        let mut stream = connect(self.https, host, &[b"http/1.1"]).await.expect("a handshake");
        stream.write_all(bytes).await.expect("written");
        let mut text = Vec::new();
        // The end may come without close_notify.
        let _ = soon(stream.read_to_end(&mut text)).await;
        String::from_utf8_lossy(&text).into_owned()
    }
}

pub(crate) fn name(host: &str) -> HostName {
    host.parse().expect("a host name")
}

// --- clients ---------------------------------------------------------------------------------------------------

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

pub(crate) fn client_config(protocols: &[&[u8]]) -> rustls::ClientConfig {
    let mut config = rustls::ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anything))
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    config
}

pub(crate) async fn connect(to: SocketAddr, host: &str, protocols: &[&[u8]]) -> std::io::Result<Tls> {
    connect_with(to, host, Arc::new(client_config(protocols))).await
}

pub(crate) async fn connect_with(
    to: SocketAddr,
    host: &str,
    config: Arc<rustls::ClientConfig>,
) -> std::io::Result<Tls> {
    let stream = TcpStream::connect(to).await?;
    let name = ServerName::try_from(host.to_owned()).expect("a name");
    soon(tokio_rustls::TlsConnector::from(config).connect(name, stream)).await
}

enum Sender {
    Http1(http1::SendRequest<Body>),
    Http2(http2::SendRequest<Body>),
}

/// A client connection to the edge.
pub(crate) struct Client {
    sender: Sender,
    host: String,
}

/// A response, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
}

impl Answer {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("text")
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("text"))
    }
}

impl Client {
    pub(crate) fn request(&self, method: &str, path: &str, body: Body) -> Request<Body> {
        let request = Request::builder().method(method);
        match self.sender {
            Sender::Http1(_) => request.uri(path).header("host", &self.host),
            Sender::Http2(_) => request.version(Version::HTTP_2).uri(format!("https://{}{path}", self.host)),
        }
        .body(body)
        .expect("a request")
    }

    pub(crate) async fn send(&mut self, request: Request<Body>) -> hyper::Result<Response<Incoming>> {
        match &mut self.sender {
            Sender::Http1(sender) => {
                sender.ready().await?;
                soon(sender.send_request(request)).await
            }
            Sender::Http2(sender) => soon(sender.send_request(request)).await,
        }
    }

    pub(crate) async fn try_ask(&mut self, request: Request<Body>) -> hyper::Result<Answer> {
        let (head, body) = self.send(request).await?.into_parts();
        let collected = soon(body.collect()).await?;
        let trailers = collected.trailers().cloned();
        Ok(Answer { status: head.status, headers: head.headers, body: collected.to_bytes(), trailers })
    }

    pub(crate) async fn ask(&mut self, request: Request<Body>) -> Answer {
        self.try_ask(request).await.expect("a response")
    }

    pub(crate) async fn get(&mut self, path: &str) -> Answer {
        let request = self.request("GET", path, empty());
        self.ask(request).await
    }
}

/// Waits until something is so.
pub(crate) async fn until(what: &str, so: impl Fn() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(waited.await.is_ok(), "not within {PATIENCE:?}: {what}");
}

#[derive(Debug)]
struct Anything;

impl ServerCertVerifier for Anything {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
