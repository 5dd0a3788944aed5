//! `GET /metrics`: what this node counts, for Prometheus.
//!
//! It has a listener of its own, which is off unless `metrics.listen` says where. It answers to nobody outside without a
//! token: the configuration is refused that would let it. docs/metrics.md is the table of names.

mod collect;
mod page;

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use collect::{Look, PeerSeen, Traffic, TunnelSeen, site_name};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use pangolin_core::{NodeId, Timestamp};
use pangolin_dns::DnsServer;
use pangolin_edge::Edge;
use pangolin_peer::Peers;
use pangolin_raft::Cluster;
use pangolin_tunnel::TunnelLayer;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};
use zeroize::Zeroizing;

use crate::{clock, keys::Keys, local::status::in_contact};

/// Where it is.
const PATH: &str = "/metrics";
/// Most connections at a time: a few scrapers.
const CONNECTIONS_MAX: usize = 16;
/// Longest that a client may take to send the head of its request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after a connection could not be accepted, so that the reason can pass.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Shortest token: 128 bits in base64url.
const TOKEN_MIN: usize = 22;
/// Longest token.
const TOKEN_MAX: usize = 512;

/// Why there are no metrics.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// The port is taken.
    #[error("cannot listen on {address} for metrics: {source}; change metrics.listen")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// The token cannot be used.
    #[error("metrics.token_file: {0}")]
    Token(String),
}

/// Where metrics are served, and to whom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetricsConfig {
    /// Where; none = nowhere.
    pub listen: Vec<SocketAddr>,
    /// File with the token that scrapers show; needed where others than this host and its private network come in.
    pub token_file: Option<PathBuf>,
}

impl MetricsConfig {
    /// Refuses to be open to the world.
    ///
    /// # Errors
    /// Why.
    pub fn check(&self) -> Result<(), String> {
        let open = self.listen.iter().find(|address| !is_private(address.ip()));
        match open {
            Some(address) if self.token_file.is_none() => Err(format!(
                "{address} is neither a loopback nor a private address: name a file with a token in metrics.token_file"
            )),
            _ => Ok(()),
        }
    }
}

/// Whether only this host, or a network without a way in from outside, reaches an address.
fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

/// The bound listeners.
pub struct BoundMetrics {
    listeners: Vec<TcpListener>,
    token: Option<Token>,
}

struct Token(Zeroizing<String>);

impl Token {
    fn load(path: &Path) -> Result<Self, MetricsError> {
        let text = std::fs::read_to_string(path).map(Zeroizing::new);
        let text = text.map_err(|error| MetricsError::Token(format!("{}: {error}", path.display())))?;
        let token = text.trim();
        let plain = token.bytes().all(|byte| byte.is_ascii_graphic());
        if !(TOKEN_MIN..=TOKEN_MAX).contains(&token.len()) || !plain {
            return Err(MetricsError::Token(format!(
                "{} holds no token of {TOKEN_MIN} to {TOKEN_MAX} characters: `openssl rand -base64 32` makes one",
                path.display()
            )));
        }
        Ok(Self(Zeroizing::new(token.to_owned())))
    }

    /// Whether a request shows it. How long that takes tells nothing but the length.
    fn is_shown(&self, authorization: Option<&header::HeaderValue>) -> bool {
        let shown = authorization.and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
        let own = self.0.as_bytes();
        shown.is_some_and(|shown| {
            shown.len() == own.len() && shown.iter().zip(own).fold(0, |all, (a, b)| all | (a ^ b)) == 0
        })
    }
}

/// What is looked at for a scrape.
#[derive(Clone)]
pub struct Sources {
    /// This node.
    pub node: NodeId,
    /// State and Raft.
    pub cluster: Cluster,
    /// The other nodes.
    pub peers: Peers,
    /// When this run began.
    pub started: Timestamp,
    /// Told once there are layers; a witness has none.
    pub layers: Arc<OnceLock<LayerSources>>,
}

/// What carries traffic.
pub struct LayerSources {
    /// DNS.
    pub dns: DnsServer,
    /// The edge.
    pub edge: Edge,
    /// Tunnels.
    pub tunnel: TunnelLayer,
    /// The keyring.
    pub keys: Keys,
}

impl BoundMetrics {
    /// Listens, and reads the token.
    ///
    /// # Errors
    /// A port is taken, or the token cannot be used.
    pub async fn bind(config: &MetricsConfig) -> Result<Self, MetricsError> {
        let mut listeners = Vec::new();
        for address in &config.listen {
            let bound = TcpListener::bind(address).await;
            listeners.push(bound.map_err(|source| MetricsError::Bind { address: *address, source })?);
        }
        let token = config.token_file.as_deref().map(Token::load).transpose()?;
        Ok(Self { listeners, token })
    }

    /// Answers scrapes until told to end.
    ///
    /// # Errors
    /// None: connections that cannot be accepted are tried again.
    pub async fn run(
        self,
        sources: Sources,
        shutdown: CancellationToken,
    ) -> Result<(), std::convert::Infallible> {
        let (token, places) = (Arc::new(self.token), Arc::new(Semaphore::new(CONNECTIONS_MAX)));
        let connections = TaskTracker::new();
        let accept = |listener: TcpListener| {
            let (token, places, sources) = (token.clone(), places.clone(), sources.clone());
            let connections = connections.clone();
            async move {
                loop {
                    match listener.accept().await {
                        Ok((stream, _)) => {
                            // Who comes when all places are taken asks again.
                            if let Ok(place) = places.clone().try_acquire_owned() {
                                let (token, sources) = (token.clone(), sources.clone());
                                connections.spawn(async move {
                                    serve(stream, token, sources).await;
                                    drop(place);
                                });
                            }
                        }
                        Err(error) => {
                            warn!(%error, "cannot accept a connection for metrics");
                            tokio::time::sleep(ACCEPT_PAUSE).await;
                        }
                    }
                }
            }
        };
        let all = futures_util::future::join_all(self.listeners.into_iter().map(accept));
        tokio::select! {
            () = shutdown.cancelled() => {}
            _ = async { let _: Vec<()> = all.await; std::future::pending::<()>().await } => {}
        }
        Ok(())
    }
}

async fn serve(stream: TcpStream, token: Arc<Option<Token>>, sources: Sources) {
    let service = service_fn(|request: Request<hyper::body::Incoming>| {
        let (token, sources) = (token.clone(), sources.clone());
        async move { Ok::<_, std::convert::Infallible>(answer(&request, token.as_ref().as_ref(), &sources).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        debug!(%error, "a connection for metrics ended early");
    }
}

async fn answer<B>(request: &Request<B>, token: Option<&Token>, sources: &Sources) -> Response<Full<Bytes>> {
    if let Some(status) = refusal(request, token) {
        return plain(status, status.canonical_reason().unwrap_or_default().into());
    }
    match sources.scrape().await {
        Ok(text) => {
            let mut response = plain(StatusCode::OK, text.into());
            let media_type = header::HeaderValue::from_static(page::MEDIA_TYPE);
            response.headers_mut().insert(header::CONTENT_TYPE, media_type);
            response
        }
        Err(reason) => {
            warn!(reason, "a scrape could not be answered");
            plain(StatusCode::INTERNAL_SERVER_ERROR, reason.into())
        }
    }
}

/// Why a request is not answered with metrics. Without the token, nothing is told of what is where.
fn refusal<B>(request: &Request<B>, token: Option<&Token>) -> Option<StatusCode> {
    let shown = token.is_none_or(|token| token.is_shown(request.headers().get(header::AUTHORIZATION)));
    match (shown, request.uri().path(), request.method()) {
        (false, ..) => Some(StatusCode::UNAUTHORIZED),
        (_, PATH, &Method::GET | &Method::HEAD) => None,
        (_, PATH, _) => Some(StatusCode::METHOD_NOT_ALLOWED),
        _ => Some(StatusCode::NOT_FOUND),
    }
}

fn plain(status: StatusCode, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response
}

impl Sources {
    async fn scrape(&self) -> Result<Vec<u8>, String> {
        let state = self.cluster.state();
        let raft = self.cluster.status();
        let traffic = match self.layers.get() {
            Some(layers) => Some(layers.look(&state).await),
            None => None,
        };
        let look = {
            let seen = self.peers.seen();
            let seen = seen.borrow();
            let others = state.nodes().values().filter(|node| node.id != self.node);
            let peers = others.map(|node| PeerSeen {
                name: node.spec.name.to_string(),
                up: seen.get(&node.id).is_some_and(|seen| seen.alive),
                rtt: self.peers.rtt(node.id),
            });
            (peers.collect(), in_contact(&raft))
        };
        let (peers, in_contact) = look;
        let (node, started) = (self.node, self.started);
        // Many certificates take their time.
        let text = move || {
            let now = clock::now();
            let look = Look { node, now, started, state: &state, raft, in_contact, peers, traffic };
            collect::text(&look).map_err(|error| error.to_string())
        };
        tokio::task::spawn_blocking(text).await.map_err(|error| error.to_string())?
    }
}

impl LayerSources {
    async fn look(&self, state: &pangolin_core::ClusterState) -> Traffic {
        let mut stats = self.tunnel.stats().await.unwrap_or_default();
        let seen = self.tunnel.seen().borrow().clone();
        let tunnels = seen.iter().map(|(site, seen)| {
            (site_name(state, *site), TunnelSeen { up: seen.alive, stats: stats.remove(site) })
        });
        Traffic {
            dns: self.dns.counters(),
            edge: self.edge.counters(),
            tunnels: tunnels.collect(),
            refused_packets: self.tunnel.refused_packets(),
            keyring_active: self.keys.now().active(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_never_open_to_the_world_without_a_token() {
        let config = |address: &str, token: bool| MetricsConfig {
            listen: vec![address.parse().expect("an address")],
            token_file: token.then(|| "/token".into()),
        };
        for (address, without) in [
            ("127.0.0.1:9465", true),
            ("[::1]:9465", true),
            ("10.1.2.3:9465", true),
            ("192.168.1.1:9465", true),
            ("[fd00::1]:9465", true),
            ("0.0.0.0:9465", false),
            ("[::]:9465", false),
            ("192.0.2.1:9465", false),
            ("[2001:db8::1]:9465", false),
            // Shared address space (RFC 6598): carriers' customers reach it.
            ("100.64.0.1:9465", false),
        ] {
            assert_eq!(config(address, false).check().is_ok(), without, "{address}");
            assert!(config(address, true).check().is_ok(), "{address}");
        }
    }

    #[test]
    fn without_the_token_nothing_is_told() {
        let token = Token(Zeroizing::new("0123456789012345678901".to_owned()));
        let ask = |method: &str, path: &str, shown: Option<&str>, token: Option<&Token>| {
            let mut request = Request::builder().method(method).uri(path);
            if let Some(shown) = shown {
                request = request.header(header::AUTHORIZATION, shown);
            }
            refusal(&request.body(()).expect("a request"), token).map(|status| status.as_u16())
        };
        let right = Some("Bearer 0123456789012345678901");
        for (method, path, shown, wanted) in [
            ("GET", "/metrics", right, None),
            ("GET", "/metrics?x", right, None),
            ("GET", "/metrics", None, Some(401)),
            ("GET", "/metrics", Some("Bearer 0123456789012345678902"), Some(401)),
            ("GET", "/metrics", Some("Bearer 012345678901234567890"), Some(401)),
            ("GET", "/metrics", Some("Basic 0123456789012345678901"), Some(401)),
            ("GET", "/else", None, Some(401)),
            ("GET", "/else", right, Some(404)),
            ("POST", "/metrics", right, Some(405)),
        ] {
            assert_eq!(ask(method, path, shown, Some(&token)), wanted, "{method} {path} {shown:?}");
        }
        assert_eq!(ask("GET", "/metrics", None, None), None);
    }
}
