//! One client connection: TLS, then HTTP, within its limits of time.

use std::{
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, Version, header};
use hyper::{
    body::Incoming,
    rt::Executor,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::server::Acceptor;
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    time::{sleep, timeout_at},
};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};
use tokio_util::task::TaskTracker;

use crate::{
    body::{EdgeBody, RunningRequest},
    connection::{Activity, Verdict, Watched},
    counters::bump,
    edge::World,
    headers::{self, ClientFields},
    hello::Hello,
    limits::Permit,
    page::{self, Page},
    plain,
    ports::{Ahead, Arrival, carry},
    proxy,
    request::{Host, host_of},
    snapshot::Port,
};

/// A fatal TLS alert `unrecognized_name` (RFC 6066 §3), before any answer to the ClientHello.
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];
/// HTTP/2 clients are asked this often whether they live.
const PING_INTERVAL: Duration = Duration::from_secs(20);
/// … and are given up when they do not answer.
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// Bytes a client may send ahead per HTTP/2 stream and connection: what an upload at 100 Mbit/s over 20 ms needs,
/// and what one connection may cost in memory.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1 << 20;
/// Buffer of an HTTP/1 connection.
const BUFFER: usize = 64 * 1024;

/// A client connection with HTTP on it.
struct Client {
    world: Arc<World>,
    peer: SocketAddr,
    fields: ClientFields,
    /// The server name of the TLS handshake.
    name: Box<str>,
    activity: Arc<Activity>,
    permit: Arc<Permit>,
}

/// Serves one connection to an HTTPS address.
pub(crate) async fn serve_tls(world: Arc<World>, stream: TcpStream, peer: SocketAddr, permit: Permit) {
    let accepted = Instant::now();
    let stream = match arrive(&world, stream, peer).await {
        Arrived::Decrypted(stream) => stream,
        Arrived::ForTarget { port, place, arrival } => {
            // It may last for days, which is no reason to hold up the end of the edge.
            world.upgraded.clone().spawn(async move {
                let _places = (place, permit);
                carry(&world, &port, arrival).await;
            });
            return;
        }
        Arrived::Refused => {
            bump(&world.counters.refused_connections);
            return;
        }
        Arrived::Failed => {
            bump(&world.counters.failed_handshakes);
            return;
        }
    };
    let session = stream.get_ref().1;
    let h2 = session.alpn_protocol() == Some(b"h2");
    let name = session.server_name().unwrap_or_default().into();
    let activity = Arc::new(Activity::new(accepted));
    let client = Arc::new(Client {
        peer,
        fields: ClientFields::new(peer),
        name,
        activity: Arc::clone(&activity),
        permit: Arc::new(permit),
        world: Arc::clone(&world),
    });
    let io = TokioIo::new(Watched::new(stream, Arc::clone(&activity)));
    let service = service_fn(move |request| {
        let client = Arc::clone(&client);
        async move { Ok::<_, std::convert::Infallible>(client.answer(request).await) }
    });
    if h2 {
        let mut builder = http2::Builder::new(Tracked(world.connections.clone()));
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(world.limits.streams_per_connection)
            .max_header_list_size(u32::try_from(world.limits.header_bytes).unwrap_or(u32::MAX))
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT);
        let connection = builder.serve_connection(io, service);
        run(&world, connection, http2::Connection::graceful_shutdown, &activity, false).await;
    } else {
        let connection = http1_builder(&world).serve_connection(io, service).with_upgrades();
        run(&world, connection, http1::UpgradeableConnection::graceful_shutdown, &activity, true).await;
    }
}

/// Serves one connection to a plain HTTP address.
pub(crate) async fn serve_plain(world: Arc<World>, stream: TcpStream, https_port: u16, permit: Permit) {
    let _permit = permit;
    let activity = Arc::new(Activity::new(Instant::now()));
    let io = TokioIo::new(Watched::new(stream, Arc::clone(&activity)));
    let service = service_fn(|request: Request<Incoming>| {
        let running = RunningRequest::begin(&activity);
        let response = plain::answer(&request, https_port, world.limits.header_count);
        let response = world.sign(response, &request_id());
        std::future::ready(Ok::<_, std::convert::Infallible>(
            response.map(|body| body.while_running(running)),
        ))
    });
    let connection = http1_builder(&world).serve_connection(io, service);
    run(&world, connection, http1::Connection::graceful_shutdown, &activity, true).await;
}

fn http1_builder(world: &World) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        // The connection's own clock tells a slow head from an idle connection; hyper's does not.
        .header_read_timeout(None)
        .max_header_size(world.limits.header_bytes)
        // No `pipeline_flush`: with unread bytes in its buffer hyper would close before it has sent the answer.
        .max_buf_size(world.limits.header_bytes.max(BUFFER));
    if world.limits.header_count != 100 {
        // hyper's own limit is 100 and costs nothing; any other costs an allocation per request.
        builder.max_headers(world.limits.header_count);
    }
    builder
}

/// What became of a connection to an HTTPS address.
enum Arrived {
    Decrypted(Box<TlsStream<Ahead<TcpStream>>>),
    /// Its server name says that it goes to a target as it is.
    ForTarget {
        port: Arc<Port>,
        place: Permit,
        arrival: Arrival,
    },
    /// It would, but may not, or there are too many.
    Refused,
    Failed,
}

/// TLS up to its end, unless the server name says that the connection is passed on.
async fn arrive(world: &World, mut stream: TcpStream, peer: SocketAddr) -> Arrived {
    let deadline = tokio::time::Instant::now() + world.limits.handshake_timeout;
    let mut ahead = Bytes::new();
    if world.snapshot.load().passes_tls() {
        let Ok(Some(hello)) = timeout_at(deadline, Hello::read(&mut stream)).await else {
            return Arrived::Failed;
        };
        let port = hello.name.and_then(|name| world.snapshot.load().tls(&name).cloned());
        if let Some(port) = port {
            let Some(place) = port.admit(peer.ip()) else { return Arrived::Refused };
            return Arrived::ForTarget {
                port,
                place,
                arrival: Arrival::with_ahead(stream, peer, hello.bytes),
            };
        }
        ahead = hello.bytes;
    }
    let decrypted = handshake(world, Ahead::new(ahead, stream), deadline).await;
    decrypted.map_or(Arrived::Failed, |stream| Arrived::Decrypted(Box::new(stream)))
}

/// TLS up to its end, for names that have a certificate.
async fn handshake(
    world: &World,
    stream: Ahead<TcpStream>,
    deadline: tokio::time::Instant,
) -> Option<TlsStream<Ahead<TcpStream>>> {
    let hello = LazyConfigAcceptor::new(Acceptor::default(), stream);
    let Ok(Ok(mut start)) = timeout_at(deadline, hello).await else { return None };
    let known = start
        .client_hello()
        .server_name()
        .is_some_and(|name| world.snapshot.load().certificates.find(&name.to_ascii_lowercase()).is_some());
    if !known {
        let _ = timeout_at(deadline, async {
            start.io.write_all(&UNRECOGNIZED_NAME).await?;
            start.io.shutdown().await
        })
        .await;
        return None;
    }
    timeout_at(deadline, start.into_stream(Arc::clone(&world.tls))).await.ok()?.ok()
}

/// Drives a connection to its end: its own, that of its patience, or that of the edge.
async fn run<C: Future>(
    world: &World,
    connection: C,
    shut_down: impl Fn(Pin<&mut C>),
    activity: &Activity,
    is_http1: bool,
) {
    let mut connection = pin!(connection);
    let head = is_http1.then_some(world.limits.header_timeout);
    let mut stopping = false;
    loop {
        let wait = match activity.verdict(world.limits.idle_timeout, head) {
            Verdict::Wait(wait) => wait,
            Verdict::SlowHead => return,
            Verdict::Idle if stopping => return,
            Verdict::Idle => {
                stopping = true;
                shut_down(connection.as_mut());
                world.limits.header_timeout
            }
        };
        tokio::select! {
            _ = connection.as_mut() => return,
            () = world.close.cancelled() => return,
            () = world.stop.cancelled(), if !stopping => {
                stopping = true;
                shut_down(connection.as_mut());
            }
            () = sleep(wait) => {}
        }
    }
}

/// Tasks of HTTP/2 streams end with the edge like those of connections.
#[derive(Clone)]
struct Tracked(TaskTracker);

impl<F> Executor<F> for Tracked
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, task: F) {
        self.0.spawn(task);
    }
}

/// An id that no one else has, for logs on both sides.
fn request_id() -> HeaderValue {
    let id = format!("{:032x}", rand::random::<u128>());
    HeaderValue::from_maybe_shared(bytes::Bytes::from(id)).unwrap_or_else(|_| HeaderValue::from_static("0"))
}

impl Client {
    async fn answer(&self, request: Request<Incoming>) -> Response<EdgeBody> {
        let running = RunningRequest::begin(&self.activity);
        let id = request_id();
        let host = match host_of(&request, self.world.limits.header_count) {
            Ok(host) => host,
            Err(refusal) => {
                return self.world.sign(page::refusal(refusal.status(), &refusal.to_string()), &id);
            }
        };
        let response = match self.respond(request, &host, &id).await {
            Ok(response) => response,
            Err(page) => page::response(page, &self.world.node_name, id.to_str().unwrap_or_default()),
        };
        self.world.sign(response, &id).map(|body| body.while_running(running))
    }

    async fn respond(
        &self,
        request: Request<Incoming>,
        host: &Host,
        id: &HeaderValue,
    ) -> Result<Response<EdgeBody>, Page> {
        let route = {
            let snapshot = self.world.snapshot.load();
            if host.name != *self.name && !snapshot.certificates.shared_by(&self.name, &host.name) {
                return Err(page::MISDIRECTED);
            }
            if snapshot.control_host.as_deref() == Some(&host.name) {
                None
            } else {
                Some(Arc::clone(snapshot.route(&host.name).ok_or(page::NOT_PUBLISHED)?))
            }
        };
        let Some(route) = route else { return Ok(self.local(request, host, id).await) };
        let asker = proxy::Asker { fields: &self.fields, host, request_id: id, permit: &self.permit };
        proxy::forward(&self.world, &route, request, asker).await
    }

    async fn local(
        &self,
        mut request: Request<Incoming>,
        host: &Host,
        id: &HeaderValue,
    ) -> Response<EdgeBody> {
        if plain::is_ping(&request) {
            return plain::pong();
        }
        let fields = request.headers_mut();
        headers::remove_trusted(fields);
        fields.insert(headers::REQUEST_ID, id.clone());
        fields.insert(header::HOST, host.value.clone());
        let mut response = self.world.local.call(request, self.peer).await;
        // hyper sets the version that the client speaks.
        *response.version_mut() = Version::HTTP_11;
        response
    }
}
