//! The callers' side: bind, start, ask.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use pangolin_core::{id::NodeId, observation::Seen, plan::PeerPlan, time::Timestamp};
use tokio::{
    net::TcpListener,
    runtime::Handle,
    sync::watch,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    bulk::PeerStream,
    control::next_beat,
    error::PeerError,
    frame::MESSAGE_MAX,
    identity::NodeIdentity,
    join::JoinDoor,
    link::Link,
    listener,
    service::{Handler, Service},
    shared::Shared,
    tls::Credentials,
};

/// How long connections and handlers may take to end when the node stops. They are cancelled: this only lets
/// their tasks be polled once more.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// The peers' port, taken and not used yet.
#[derive(Debug)]
pub struct BoundPeers {
    listener: TcpListener,
    address: SocketAddr,
}

impl BoundPeers {
    /// Takes the port. Port 0 is any free one.
    ///
    /// # Errors
    /// The address is taken, or not one of this host.
    pub async fn bind(address: SocketAddr) -> Result<Self, PeerError> {
        let bound = async {
            let listener = TcpListener::bind(address).await?;
            let address = listener.local_addr()?;
            Ok(Self { listener, address })
        };
        bound.await.map_err(|source| PeerError::Bind { address, source })
    }

    /// The address with the port that was taken.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Gives the node its identity. Nothing moves until the task runs; plan, handlers and door may be set before
    /// or after. An identity that cannot be used is reported by [`PeersTask::run`].
    ///
    /// Requests and probes are served where the task runs; byte streams, which carry traffic, on `traffic`.
    #[must_use]
    pub fn start(self, identity: NodeIdentity, traffic: &Handle) -> (Peers, PeersTask) {
        let (credentials, broken) = match Credentials::new(&identity) {
            Ok(credentials) => (Some(credentials), None),
            Err(error) => (None, Some(error)),
        };
        let shared = Arc::new(Shared::new(self.address, identity.node, credentials, traffic.clone()));
        (Peers { shared: shared.clone() }, PeersTask { listener: self.listener, shared, broken })
    }
}

/// The loops: accepting, dialling, probing.
pub struct PeersTask {
    listener: TcpListener,
    shared: Arc<Shared>,
    broken: Option<PeerError>,
}

impl PeersTask {
    /// Serves until `shutdown`. All connections are closed when it returns or is dropped.
    ///
    /// # Errors
    /// The identity cannot be used.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), PeerError> {
        let Self { listener, shared, broken } = self;
        let _stop = shared.stop.clone().drop_guard();
        if let Some(error) = broken {
            return Err(error);
        }
        let links = async {
            loop {
                for link in shared.links() {
                    if link.begin() {
                        shared.tasks.spawn(link.clone().run_control(shared.clone()));
                        shared.tasks.spawn_on(link.run_bulk(shared.clone()), &shared.traffic);
                    }
                }
                shared.links_changed.notified().await;
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = listener::accept(listener, shared.clone()) => {}
            () = links => {}
        }
        shared.stop.cancel();
        shared.tasks.close();
        if timeout(STOP_TIMEOUT, shared.tasks.wait()).await.is_err() {
            tracing::warn!("connections to peers have not ended within {STOP_TIMEOUT:?}");
        }
        Ok(())
    }
}

/// The other nodes, as this one reaches them. Cheap to clone.
#[derive(Clone)]
pub struct Peers {
    shared: Arc<Shared>,
}

impl Peers {
    /// This node.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.shared.node
    }

    /// Takes the membership: who may connect, with which key, and where they are. Connections of whoever is no
    /// longer in it are closed before this returns (their tasks end right after). A joiner sets the plan that it
    /// was given with its admission; after that it follows from the state.
    pub fn set_plan(&self, plan: PeerPlan) {
        self.shared.set_plan(plan);
    }

    /// Takes a renewed certificate for connections made from now on; those that exist stay.
    ///
    /// # Errors
    /// The certificate and key cannot be used.
    pub fn renew(&self, identity: &NodeIdentity) -> Result<(), PeerError> {
        self.shared.set_credentials(Credentials::new(identity)?);
        Ok(())
    }

    /// Says who answers the requests and streams of a service. Before that, requests fail with
    /// [`PeerError::NotTaken`], and streams are reset.
    pub fn serve(&self, service: Service, handler: Arc<dyn Handler>) {
        self.shared.set_handler(service, handler);
    }

    /// Says who answers joiners. Before that they are refused with a message.
    pub fn admit(&self, door: Arc<dyn JoinDoor>) {
        self.shared.set_door(door);
    }

    /// Waits for the next moment that is a whole number of periods away from when this part came to life. Probes keep
    /// this time; what else is done regularly at such moments costs the process no further wake-up.
    pub async fn beat(&self, period: Duration) {
        sleep_until(next_beat(self.shared.beat, Instant::now(), period)).await;
    }

    /// Asks another node. Fails at once when the node is suspect, waits for the connection (up to a second) when
    /// the node is new.
    ///
    /// # Errors
    /// See [`PeerError`]; [`PeerError::not_delivered`] tells whether the request can safely be sent elsewhere.
    pub async fn request(
        &self,
        to: NodeId,
        service: Service,
        body: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, PeerError> {
        if body.len() > MESSAGE_MAX {
            return Err(PeerError::TooLarge { size: body.len(), limit: MESSAGE_MAX });
        }
        self.link(to)?.request(service, body, timeout).await
    }

    /// Opens a byte stream to another node. It does not wait for the other side: when nobody there takes it, the
    /// stream is reset.
    ///
    /// # Errors
    /// The node is unknown or cannot be reached, or has too many streams open.
    pub async fn open(&self, to: NodeId, service: Service) -> Result<PeerStream, PeerError> {
        self.link(to)?.open(service).await
    }

    /// How the peers look from here. A node that was never tried is not in it.
    #[must_use]
    pub fn seen(&self) -> watch::Receiver<BTreeMap<NodeId, Seen>> {
        self.shared.seen.subscribe()
    }

    /// Whether a node does not answer, or is not in the plan. This node is never suspect, and a new one only
    /// once it has been tried.
    #[must_use]
    pub fn is_suspect(&self, node: NodeId) -> bool {
        node != self.shared.node && self.shared.link(node).is_none_or(|link| link.is_suspect())
    }

    /// Whether this node has been removed, as far as the others say: at least half of them refuse it as no member,
    /// and nobody takes it for one. The refusals are authentic: a peer shows its certificate before it refuses.
    #[must_use]
    pub fn is_disowned(&self) -> bool {
        let links = self.shared.links();
        let refusing = links.iter().filter(|link| link.disowns()).count();
        refusing > 0 && refusing * 2 >= links.len() && links.iter().all(|link| link.is_suspect())
    }

    /// Why this node is of no more use, if a new history has begun without it (a forced recovery of another node). One
    /// peer's word is enough: it has shown its certificate, and nobody goes back to an abandoned history.
    #[must_use]
    pub fn superseded(&self) -> Option<String> {
        self.shared.links().iter().find_map(|link| link.supersedes())
    }

    /// Smoothed round-trip time of the probes; none before the first answer.
    #[must_use]
    pub fn rtt(&self, node: NodeId) -> Option<Duration> {
        self.shared.link(node)?.rtt()
    }

    /// Notes what another node's wall clock says now.
    pub fn note_clock(&self, node: NodeId, clock: Timestamp) {
        self.shared.note_clock(node, clock);
    }

    /// What another node's wall clock says now, by what it last told (when it was connected to, and since by its
    /// reports) and the time that has passed; none if it never did.
    #[must_use]
    pub fn clock_of(&self, node: NodeId) -> Option<Timestamp> {
        self.shared.clock_of(node)
    }

    fn link(&self, node: NodeId) -> Result<Arc<Link>, PeerError> {
        if node == self.shared.node {
            return Err(PeerError::ThisNode(node));
        }
        self.shared.link(node).ok_or(PeerError::UnknownNode(node))
    }
}
