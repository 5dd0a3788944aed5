//! The link to one peer: dials both lanes, dials again, and says whether the peer looks alive.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use pangolin_core::{id::NodeId, plan::PlannedPeer, record::Digest};
use tokio::{
    net::TcpStream,
    sync::{Notify, watch},
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::sync::CancellationToken;

use crate::{
    bulk::{self, BulkClient, PeerStream},
    control::{ControlClient, ControlConnection, broken},
    error::PeerError,
    hello::{
        Hello, Lane, NO_MEMBER, OLDEST, Program, SUPERSEDED, VERSION, decode_answer, read_text, write_text,
    },
    identity::spki_digest_of_certificate,
    service::Service,
    shared::Shared,
    socket,
    tls::server_name,
};

/// How often a peer that says nothing is probed. More often would cost an idle node more than anything else it does.
pub const PROBE_INTERVAL: Duration = Duration::from_millis(200);

/// A peer that has said nothing for this long, and a round-trip time on top, is suspect. With one probe interval on top
/// of that, it is noticed within half a second.
pub const SUSPECT_AFTER: Duration = Duration::from_millis(300);

/// How long TLS and the hello may take once the connection is there.
const HELLO_TIMEOUT: Duration = Duration::from_secs(2);

/// The first and the longest wait before a peer is dialled again. The longest bounds how long a peer that is
/// back goes unnoticed.
const BACKOFF_FIRST: Duration = Duration::from_millis(20);
const BACKOFF_LAST: Duration = Duration::from_millis(500);

/// A connection that lasted this long was a good one: the next wait is short again.
const GOOD_CONNECTION: Duration = Duration::from_secs(2);

/// How long a caller waits for a first connection.
const FIRST_CONNECTION: Duration = Duration::from_secs(1);

/// Why a cancelled link does not work.
const NO_LONGER: &str = "this node no longer talks to it";

/// Where a lane stands.
#[derive(Clone)]
enum Stand<C> {
    /// Nothing is known yet.
    Connecting,
    /// It works.
    Up(C),
    /// It does not, and this is why.
    Down(Arc<str>),
}

impl<C> Stand<C> {
    fn reason(&self) -> String {
        match self {
            Self::Down(reason) => reason.to_string(),
            _ => "the connection was closed".to_owned(),
        }
    }
}

pub(crate) struct Link {
    pub(crate) node: NodeId,
    peer: PlannedPeer,
    cancel: CancellationToken,
    started: AtomicBool,
    control: watch::Sender<Stand<ControlClient>>,
    bulk: watch::Sender<Stand<BulkClient>>,
    /// The peer has just been here: dial now.
    here: Notify,
    /// Smoothed round-trip time in nanoseconds, 0 before the first.
    rtt: AtomicU64,
}

impl Link {
    pub(crate) fn new(node: NodeId, peer: &PlannedPeer) -> Self {
        Self {
            node,
            peer: peer.clone(),
            cancel: CancellationToken::new(),
            started: AtomicBool::new(false),
            control: watch::Sender::new(Stand::Connecting),
            bulk: watch::Sender::new(Stand::Connecting),
            here: Notify::new(),
            rtt: AtomicU64::new(0),
        }
    }

    pub(crate) fn is_for(&self, peer: &PlannedPeer) -> bool {
        (self.peer.address, self.peer.spki) == (peer.address, peer.spki)
    }

    pub(crate) fn cancel(&self) {
        self.cancel.cancel();
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    pub(crate) fn is_suspect(&self) -> bool {
        matches!(*self.control.borrow(), Stand::Down(_))
    }

    /// Whether the last attempt to connect ended with the peer saying that this node is no member.
    pub(crate) fn disowns(&self) -> bool {
        matches!(&*self.control.borrow(), Stand::Down(reason) if reason.contains(NO_MEMBER))
    }

    /// Why this node is of no more use, if the peer has said that a new history has begun without it.
    pub(crate) fn supersedes(&self) -> Option<String> {
        match &*self.control.borrow() {
            Stand::Down(reason) if reason.contains(SUPERSEDED) => {
                Some(format!("node {} says: {reason}", self.node))
            }
            _ => None,
        }
    }

    pub(crate) fn rtt(&self) -> Option<Duration> {
        let nanos = self.rtt.load(Ordering::Relaxed);
        (nanos > 0).then(|| Duration::from_nanos(nanos))
    }

    /// The peer has connected to this node, so it is worth dialling it.
    pub(crate) fn peer_is_here(&self) {
        if self.is_suspect() {
            self.here.notify_one();
        }
    }

    pub(crate) async fn request(
        &self,
        service: Service,
        body: Bytes,
        limit: Duration,
    ) -> Result<Bytes, PeerError> {
        let asked = Instant::now();
        let first = asked + limit.min(FIRST_CONNECTION);
        if service.is_bulk() {
            let client = self.client(&self.bulk, first).await?;
            return client.request(service, body, limit.saturating_sub(asked.elapsed())).await;
        }
        let client = self.client(&self.control, first).await?;
        client.request(service, body, asked, limit, || self.control.borrow().reason()).await
    }

    pub(crate) async fn open(&self, service: Service) -> Result<PeerStream, PeerError> {
        let client = self.client(&self.bulk, Instant::now() + FIRST_CONNECTION).await?;
        client.open(service).await
    }

    /// A lane's client. Waits only while nothing is known of the lane.
    async fn client<C: Clone>(
        &self,
        lane: &watch::Sender<Stand<C>>,
        deadline: Instant,
    ) -> Result<C, PeerError> {
        let unreachable = |reason: String| PeerError::Unreachable { node: self.node, reason };
        let mut changes = lane.subscribe();
        let known = changes.wait_for(|stand| !matches!(stand, Stand::Connecting));
        match timeout_at(deadline, known).await {
            Ok(Ok(stand)) => match &*stand {
                Stand::Up(client) => Ok(client.clone()),
                other => Err(unreachable(other.reason())),
            },
            _ => Err(unreachable("it is not connected yet".to_owned())),
        }
    }

    /// Whether the link still has to be started; true once.
    pub(crate) fn begin(&self) -> bool {
        !self.started.swap(true, Ordering::Relaxed)
    }

    /// Keeps the control lane connected until the link is cancelled.
    pub(crate) async fn run_control(self: Arc<Self>, shared: Arc<Shared>) {
        tokio::select! {
            () = self.cancel.cancelled() => {}
            () = shared.stop.cancelled() => {}
            () = self.keep_control(&shared) => {}
        }
        self.control.send_replace(Stand::Down(NO_LONGER.into()));
    }

    /// Keeps the bulk lane connected until the link is cancelled.
    pub(crate) async fn run_bulk(self: Arc<Self>, shared: Arc<Shared>) {
        tokio::select! {
            () = self.cancel.cancelled() => {}
            () = shared.stop.cancelled() => {}
            () = self.keep_bulk(&shared) => {}
        }
        self.bulk.send_replace(Stand::Down(NO_LONGER.into()));
    }

    async fn keep_control(&self, shared: &Shared) {
        let mut wait = BACKOFF_FIRST;
        loop {
            match self.dial(shared, Lane::Control).await {
                Ok(stream) => {
                    let (client, mut connection) = ControlConnection::new(self.node);
                    self.control.send_replace(Stand::Up(client));
                    shared.mark(self, true);
                    tracing::info!(node = %self.node, address = %self.peer.address, "connected to the node");
                    let began = Instant::now();
                    let reason = connection.run(stream, &self.rtt, shared.beat).await;
                    self.suspect(shared, reason);
                    if began.elapsed() > GOOD_CONNECTION {
                        wait = BACKOFF_FIRST;
                    }
                }
                Err(reason) => self.suspect(shared, reason),
            }
            tokio::select! {
                () = sleep(wait) => {}
                () = self.here.notified() => {}
            }
            wait = (wait * 2).min(BACKOFF_LAST);
        }
    }

    /// From now on requests fail at once, and what is under way as soon as the connection is dropped.
    fn suspect(&self, shared: &Shared, reason: String) {
        let before = self.control.send_replace(Stand::Down(reason.as_str().into()));
        shared.mark(self, false);
        match before {
            Stand::Down(old) if *old == *reason => {}
            Stand::Down(_) => tracing::info!(node = %self.node, %reason, "the node stays suspect"),
            _ => {
                tracing::warn!(node = %self.node, address = %self.peer.address, %reason, "the node is suspect")
            }
        }
    }

    /// Keeps the bulk lane connected while the control lane is. When the peer becomes suspect the lane is
    /// dropped, which resets its streams.
    async fn keep_bulk(&self, shared: &Shared) {
        let mut control = self.control.subscribe();
        loop {
            if control.wait_for(|stand| matches!(stand, Stand::Up(_))).await.is_err() {
                return;
            }
            control.mark_unchanged();
            self.bulk.send_replace(Stand::Connecting);
            tokio::select! {
                _ = control.changed() => {}
                () = self.dial_bulk(shared) => {}
            }
            self.bulk.send_replace(Stand::Down(self.control.borrow().reason().into()));
        }
    }

    async fn dial_bulk(&self, shared: &Shared) {
        let mut wait = BACKOFF_FIRST;
        loop {
            let reason = match self.dial(shared, Lane::Bulk).await {
                Ok(stream) => {
                    let (client, requests) = BulkClient::new(self.node);
                    self.bulk.send_replace(Stand::Up(client));
                    let began = Instant::now();
                    let reason = Box::pin(bulk::run_client(stream, requests)).await;
                    if began.elapsed() > GOOD_CONNECTION {
                        wait = BACKOFF_FIRST;
                    }
                    reason
                }
                Err(reason) => reason,
            };
            tracing::debug!(node = %self.node, %reason, "the bulk lane is down");
            self.bulk.send_replace(Stand::Down(reason.into()));
            sleep(wait).await;
            wait = (wait * 2).min(BACKOFF_LAST);
        }
    }

    /// Connects, proves both sides' identities, and agrees on the rest.
    async fn dial(&self, shared: &Shared, lane: Lane) -> Result<TlsStream<TcpStream>, String> {
        let stream = socket::connect(self.peer.address, shared.address).await.map_err(|e| broken(&e))?;
        match timeout(HELLO_TIMEOUT, self.greet(shared, lane, stream)).await {
            Ok(result) => result,
            Err(_) => Err(format!("it has not completed the handshake within {HELLO_TIMEOUT:?}")),
        }
    }

    async fn greet(
        &self,
        shared: &Shared,
        lane: Lane,
        stream: TcpStream,
    ) -> Result<TlsStream<TcpStream>, String> {
        let own = shared.credentials().ok_or("this node has no identity")?;
        let from = shared.me().ok_or("this node has no identity")?;
        let name = server_name(&crate::hello::Party { node: self.node, ..from })?;
        let connector = TlsConnector::from(own.client.clone());
        let mut stream = connector.connect(name, stream).await.map_err(|e| broken(&e))?;
        check_key(&stream, &self.peer.spki)?;
        let program = Program::own();
        let hello = Hello { newest: VERSION, oldest: OLDEST, from, to: self.node, lane, program };
        write_text(&mut stream, &hello.encode()).await.map_err(|e| broken(&e))?;
        let answer = read_text(&mut stream).await.map_err(|e| broken(&e))?;
        match decode_answer(&answer) {
            Some(Ok(welcome)) if (OLDEST..=VERSION).contains(&welcome.version) => {
                shared.note_clock(self.node, welcome.program.clock);
                shared.check_program(welcome.program, self.node)?;
                Ok(stream)
            }
            Some(Ok(welcome)) => {
                Err(format!("it wants to speak version {}, which nobody offered", welcome.version))
            }
            Some(Err(reason)) => Err(format!("it refuses this node: {reason}")),
            None => Err("its answer to the hello is malformed".to_owned()),
        }
    }
}

/// The name in a certificate says which node it is; the key says that it is still the one that was admitted.
fn check_key(stream: &TlsStream<TcpStream>, admitted: &Digest) -> Result<(), String> {
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let certificate = certificates.first().ok_or("it has shown no certificate")?;
    if spki_digest_of_certificate(certificate).map_err(|e| e.to_string())? != *admitted {
        return Err("its certificate is not the one that it was admitted with".to_owned());
    }
    Ok(())
}
