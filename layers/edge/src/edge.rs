//! The edge as a whole: bound, started, brought in line with plans, stopped.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use http::{HeaderValue, Response};
use pangolin_core::{
    NodeId, Revision, SiteId, TargetId, observation::TargetHealth, plan::EdgePlan, traffic::PortKind,
};
use parking_lot::Mutex;
use rustls::{ServerConfig, server::NoServerSessionStorage};
use socket2::Socket;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use zeroize::Zeroizing;

use crate::{
    balance::Standing,
    body::EdgeBody,
    certificates::{OpenKey, Opened, Resolver},
    config::{EdgeConfig, Limits},
    counters::{Counters, EdgeCounters},
    dial::{BoxedIo, Dialer, LocalService, Via},
    error::{EdgeError, EdgeProblem},
    headers,
    limits::Admission,
    listen::{self, Scheme},
    ports::OpenPorts,
    snapshot::{Pools, Snapshot},
    tickets::Tickets,
    upstream::{Connector, Protocol, UpstreamTls},
};

/// How often unused connections to targets are looked through.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// For tasks to notice that everything is to be closed now.
const CLOSE_GRACE: Duration = Duration::from_secs(1);

/// What every connection and every request of an edge shares.
pub(crate) struct World {
    pub(crate) snapshot: Arc<ArcSwap<Snapshot>>,
    pub(crate) connector: Connector,
    pub(crate) local: Arc<dyn LocalService>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) limits: Limits,
    pub(crate) node_name: String,
    node_header: HeaderValue,
    pub(crate) tls: Arc<ServerConfig>,
    tickets: Arc<Tickets>,
    pools: Mutex<Pools>,
    open_ports: Mutex<OpenPorts>,
    /// Cancelled when clients are let in.
    pub(crate) serving: CancellationToken,
    opened: Mutex<Opened>,
    /// No new connections and requests; those that run may end.
    pub(crate) stop: CancellationToken,
    /// Everything ends.
    pub(crate) close: CancellationToken,
    /// Client connections and their HTTP/2 streams.
    pub(crate) connections: TaskTracker,
    /// Connections that have changed their protocol.
    pub(crate) upgraded: TaskTracker,
}

impl World {
    /// Puts the node's name and the request's id on a response, and counts it.
    pub(crate) fn sign(&self, mut response: Response<EdgeBody>, id: &HeaderValue) -> Response<EdgeBody> {
        self.counters.answered(response.status());
        let fields = response.headers_mut();
        fields.insert(headers::NODE, self.node_header.clone());
        fields.insert(headers::REQUEST_ID, id.clone());
        response
    }
}

/// An edge that has its addresses; nobody is let in yet.
#[derive(Debug)]
pub struct BoundEdge {
    config: EdgeConfig,
    node_header: HeaderValue,
    https: Vec<(SocketAddr, Socket)>,
    http: Vec<(SocketAddr, Socket)>,
    tls: ServerConfig,
    tickets: Arc<Tickets>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    upstream_tls: UpstreamTls,
}

/// Where an edge listens: ports are real even if 0 was configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalAddresses {
    /// For HTTPS.
    pub https: Vec<SocketAddr>,
    /// For plain HTTP.
    pub http: Vec<SocketAddr>,
}

impl BoundEdge {
    /// Binds all sockets.
    ///
    /// # Errors
    /// An address cannot be listened on; the error says which one, why, and what to do.
    pub fn bind(config: EdgeConfig) -> Result<Self, EdgeError> {
        let node_header = HeaderValue::from_str(&config.node_name)
            .ok()
            .filter(|_| config.node_name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)))
            .ok_or_else(|| EdgeError::NodeName { name: config.node_name.clone() })?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let snapshot = Arc::new(ArcSwap::from_pointee(Snapshot::default()));
        let tickets = Arc::new(Tickets::new()?);
        let mut tls = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Resolver(Arc::clone(&snapshot))));
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        tls.session_storage = Arc::new(NoServerSessionStorage {});
        tls.ticketer = Arc::clone(&tickets) as _;
        Ok(Self {
            https: bind_all(&config.https)?,
            http: bind_all(&config.http)?,
            config,
            node_header,
            tls,
            tickets,
            snapshot,
            upstream_tls: UpstreamTls::new(&provider)?,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addrs(&self) -> LocalAddresses {
        let addresses = |all: &[(SocketAddr, Socket)]| all.iter().map(|(address, _)| *address).collect();
        LocalAddresses { https: addresses(&self.https), http: addresses(&self.http) }
    }

    /// Makes the edge. It serves as soon as the task runs, and refuses clients before: until a plan is applied, every
    /// name is unknown.
    #[must_use]
    pub fn start(self, dialer: Arc<dyn Dialer>, local: Arc<dyn LocalService>) -> (Edge, EdgeTask) {
        let limits = self.config.limits;
        let world = Arc::new(World {
            snapshot: self.snapshot,
            connector: Connector::new(dialer, self.upstream_tls, TaskTracker::new()),
            local,
            counters: Arc::default(),
            admission: Admission::new(limits.connections, limits.connections_per_address),
            limits,
            node_name: self.config.node_name,
            node_header: self.node_header,
            tls: Arc::new(self.tls),
            tickets: self.tickets,
            pools: Mutex::default(),
            open_ports: OpenPorts::new(self.https.iter().map(|(address, _)| *address)),
            serving: CancellationToken::new(),
            opened: Mutex::default(),
            stop: CancellationToken::new(),
            close: CancellationToken::new(),
            connections: TaskTracker::new(),
            upgraded: TaskTracker::new(),
        });
        let task = EdgeTask { world: Arc::clone(&world), https: self.https, http: self.http };
        (Edge(world), task)
    }
}

fn bind_all(addresses: &[SocketAddr]) -> Result<Vec<(SocketAddr, Socket)>, EdgeError> {
    addresses
        .iter()
        .map(|&address| {
            let socket = listen::bind(address)?;
            let bound = socket.local_addr().map_err(|source| EdgeError::Listen { address, source })?;
            Ok((bound.as_socket().unwrap_or(address), socket))
        })
        .collect()
}

/// How a target stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TargetState {
    /// All in all.
    pub standing: Standing,
    /// What its checks say, or said a moment ago.
    pub health: TargetHealth,
    /// For how long it gets nothing, because connections to it failed.
    pub ejected_for: Option<Duration>,
    /// Requests and connections under way.
    pub running: usize,
}

/// A handle on a running edge.
#[derive(Clone)]
pub struct Edge(Arc<World>);

impl Edge {
    /// Brings the edge in line with a plan. A revision before the current one is ignored; the same one again is
    /// fine and tries once more what did not work. `open` decrypts a certificate's private key (PKCS #8, DER).
    /// Connections and requests go on; what cannot be brought into effect is returned and stays as it was.
    pub fn apply(&self, revision: Revision, plan: &EdgePlan, open: &OpenKey<'_>) -> Vec<EdgeProblem> {
        let mut opened = self.0.opened.lock();
        if revision < self.0.snapshot.load().revision {
            return Vec::new();
        }
        let problems = opened.update(&plan.certificates, open);
        let mut pools = self.0.pools.lock();
        pools.update(plan, &self.0.counters);
        let mut ports = self.0.open_ports.lock();
        let gates = ports.gates(plan);
        self.0.snapshot.store(Arc::new(Snapshot::build(revision, plan, &pools, gates, opened.index())));
        ports.bring_in_line(&self.0);
        problems
    }

    /// Takes what is known of the targets' health; those not named are unknown.
    pub fn set_target_health(&self, health: BTreeMap<TargetId, TargetHealth>) {
        self.0.pools.lock().set_health(health);
    }

    /// Takes the sites to which no node has a live tunnel: their targets get nothing while there are others.
    pub fn set_unreachable(&self, sites: BTreeSet<SiteId>) {
        self.0.pools.lock().set_unreachable(sites);
    }

    /// How a target stands, as this edge sees it; none if nothing that it serves leads there.
    #[must_use]
    pub fn target_state(&self, target: TargetId) -> Option<TargetState> {
        let pools = self.0.pools.lock();
        let pool = pools.get(target)?;
        Some(TargetState {
            standing: pool.standing(),
            health: pool.health(),
            ejected_for: pool.ejected_for(),
            running: pool.load(),
        })
    }

    /// Speaks TLS with a target as requests do, for who checks it.
    ///
    /// # Errors
    /// Why not, for people.
    pub async fn secure(&self, host: &str, io: BoxedIo) -> Result<BoxedIo, String> {
        self.0.connector.secure(host, Protocol::Http1, io).await
    }

    /// The ports that cannot be opened, and why. They are tried again every second.
    #[must_use]
    pub fn port_problems(&self) -> watch::Receiver<BTreeMap<PortKind, String>> {
        self.0.open_ports.lock().problems()
    }

    /// A node has become suspect: unused connections relayed by it are dropped, and requests that wait on one for a
    /// response are sent elsewhere if that is safe. Others go on until their stream ends.
    pub fn forget_via(&self, node: NodeId) {
        for pool in self.0.pools.lock().all() {
            pool.forget(Via::Relay(node));
        }
    }

    /// This node's own tunnel to a site has died: as [`Edge::forget_via`].
    pub fn forget_local(&self, site: SiteId) {
        for pool in self.0.pools.lock().all().filter(|pool| pool.target.site == site) {
            pool.forget(Via::Local);
        }
    }

    /// This node has a tunnel of its own to a site (again): connections through other nodes that wait for requests are
    /// given up, so that new requests take the short way. What runs on them goes on.
    pub fn prefer_local(&self, site: SiteId) {
        for pool in self.0.pools.lock().all().filter(|pool| pool.target.site == site) {
            pool.retire_relayed();
        }
    }

    /// Gives the keys of TLS session tickets, newest first, so that clients resume on any node that has the same
    /// ones. Until then the edge uses a key of its own. The giver rotates them.
    pub fn set_ticket_keys(&self, keys: &[Zeroizing<[u8; 32]>]) {
        self.0.tickets.set(keys);
    }

    /// What the edge serves.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.0.snapshot.load().revision
    }

    /// What the edge has done since it started.
    #[must_use]
    pub fn counters(&self) -> EdgeCounters {
        self.0.counters.read(self.0.admission.open() as u64)
    }
}

/// The edge at work.
pub struct EdgeTask {
    world: Arc<World>,
    https: Vec<(SocketAddr, Socket)>,
    http: Vec<(SocketAddr, Socket)>,
}

impl EdgeTask {
    /// Lets clients in, who then wait for [`Self::run`]; that does it as well.
    ///
    /// # Errors
    /// Another program listens there after all.
    pub fn listen(&self) -> Result<(), EdgeError> {
        let mut all = self.https.iter().chain(&self.http);
        all.try_for_each(|(address, socket)| listen::listen(*address, socket))?;
        self.world.serving.cancel();
        Ok(())
    }

    /// Serves until `shutdown`, then accepts nothing more, lets requests end within the grace, and closes the rest.
    /// When it returns, all sockets are closed. Connections that changed their protocol do not hold it up.
    ///
    /// # Errors
    /// A listener ended by itself.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), EdgeError> {
        self.listen()?;
        let Self { world, https, http } = self;
        // Dropping this future closes everything as well.
        let _stop = world.stop.clone().drop_guard();
        let _close = world.close.clone().drop_guard();
        let mut listeners = spawn_listeners(&world, https, http);
        let ended = tokio::select! {
            () = shutdown.cancelled() => Ok(()),
            () = sweep(&world) => Ok(()),
            ended = first_end(&mut listeners) => Err(ended),
        };
        world.stop.cancel();
        while listeners.join_next().await.is_some() {}
        world.connections.close();
        if timeout(world.limits.shutdown_grace, world.connections.wait()).await.is_err() {
            tracing::warn!(
                connections = world.connections.len(),
                "requests did not end within the grace; their connections are closed"
            );
        }
        world.close.cancel();
        for pool in world.pools.lock().all() {
            pool.close();
        }
        world.upgraded.close();
        let rest = async { tokio::join!(world.connections.wait(), world.upgraded.wait()) };
        let _ = timeout(CLOSE_GRACE, rest).await;
        ended
    }
}

type Listeners = JoinSet<(SocketAddr, std::io::Result<()>)>;

fn spawn_listeners(
    world: &Arc<World>,
    https: Vec<(SocketAddr, Socket)>,
    http: Vec<(SocketAddr, Socket)>,
) -> Listeners {
    let https_addresses: Vec<_> = https.iter().map(|(address, _)| *address).collect();
    let https = https.into_iter().map(|(address, listener)| (address, listener, Scheme::Https));
    let http = http.into_iter().map(|(address, listener)| {
        (address, listener, Scheme::Http { https_port: https_port(address, &https_addresses) })
    });
    let mut listeners = JoinSet::new();
    for (address, listener, scheme) in https.chain(http) {
        let world = Arc::clone(world);
        listeners.spawn(async move { (address, listen::accept(world, listener, scheme).await) });
    }
    listeners
}

/// Where HTTPS is served for those who come to `http`: on the same address, else on the first one, else on 443.
fn https_port(http: SocketAddr, https: &[SocketAddr]) -> u16 {
    https.iter().find(|address| address.ip() == http.ip()).or(https.first()).map_or(443, SocketAddr::port)
}

async fn first_end(listeners: &mut Listeners) -> EdgeError {
    match listeners.join_next().await {
        Some(Ok((address, Err(source)))) => EdgeError::Listen { address, source },
        Some(Ok((address, Ok(())))) => EdgeError::ListenerEnded { address, reason: "stopped".into() },
        Some(Err(error)) => EdgeError::ListenerEnded {
            address: SocketAddr::from(([0, 0, 0, 0], 0)),
            reason: error.to_string(),
        },
        // No listeners at all are fine: an edge that only serves nothing.
        None => std::future::pending().await,
    }
}

async fn sweep(world: &Arc<World>) {
    let mut tick = interval(SWEEP_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let now = Instant::now();
        let pools: Vec<_> = world.pools.lock().all().cloned().collect();
        for pool in pools {
            pool.sweep(now);
        }
        world.tickets.rotate(now);
        let mut ports = world.open_ports.lock();
        if ports.has_problems() {
            ports.bring_in_line(world);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_go_to_the_https_port_of_the_same_address() {
        let address = |s: &str| s.parse::<SocketAddr>().expect("an address");
        let https = [address("127.0.0.1:8443"), address("127.0.0.2:9443")];
        assert_eq!(https_port(address("127.0.0.2:80"), &https), 9443);
        assert_eq!(https_port(address("127.0.0.3:80"), &https), 8443);
        assert_eq!(https_port(address("127.0.0.3:80"), &[]), 443);
    }
}
