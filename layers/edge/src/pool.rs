//! The connections to one target.
//!
//! HTTP/1.1 connections wait here between requests; HTTP/2 connections are shared by requests. A pool belongs to
//! its target, not to a snapshot.

use std::{
    fmt,
    future::poll_fn,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use http::{Request, Response};
use hyper::{body::Incoming, client::conn::TrySendError};
use pangolin_core::{NodeId, observation::TargetHealth, plan::RouteTarget};
use parking_lot::Mutex;
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    balance::Standing,
    body::UpstreamBody,
    counters::{Counters, bump},
    dial::{DialError, Dialed, Via},
    record::Record,
    upstream::{Connector, Protocol, Sender1, Sender2, is_excluded},
};

/// Connections to one target at once, beyond which requests are turned away: a target that hangs must not take the
/// edge's memory.
const OPEN_MAX: usize = 1024;
/// Unused HTTP/1.1 connections kept.
const IDLE_MAX: usize = 128;
/// How long they are kept: common servers close after 5 s, and a connection closed by us fails no request.
const IDLE_TIME: Duration = Duration::from_secs(4);
/// How long an HTTP/2 connection without requests is kept.
const IDLE_TIME_HTTP2: Duration = Duration::from_secs(60);
/// A relayed connection takes no new request after this, so that traffic returns to a local tunnel that is back.
const RELAY_AGE: Duration = Duration::from_secs(10);
/// Requests on one HTTP/2 connection before another is opened; servers commonly allow 100 or more.
const STREAMS_MAX: usize = 100;
/// HTTP/2 connections to one target.
const SHARED_MAX: usize = 8;
/// A connection whose response has been read to its end is ready again within a turn of the scheduler.
const ALMOST_READY: Duration = Duration::from_millis(5);

/// What all users of one connection to a target share.
pub(crate) struct Link {
    pub(crate) via: Via,
    /// The way is lost, say the failure detectors: whoever can go elsewhere does so.
    pub(crate) lost: CancellationToken,
    born: Instant,
    requests: Arc<AtomicU64>,
    open: Arc<AtomicUsize>,
}

impl Link {
    /// Takes new requests.
    fn is_fresh(&self, now: Instant) -> bool {
        !self.lost.is_cancelled()
            && (self.via == Via::Local || now.saturating_duration_since(self.born) < RELAY_AGE)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Relaxed);
    }
}

struct Idle {
    sender: Sender1,
    link: Arc<Link>,
    since: Instant,
}

/// An HTTP/2 connection that requests share.
pub(crate) struct Shared {
    sender: Sender2,
    link: Arc<Link>,
    running: AtomicUsize,
    used: Mutex<Instant>,
}

/// Why there is no connection.
#[derive(Debug)]
pub(crate) enum AcquireError {
    Busy,
    Dial(DialError),
}

/// The connections to one target, and what is known of it.
pub(crate) struct TargetPool {
    pub(crate) target: RouteTarget,
    counters: Arc<Counters>,
    record: Mutex<Record>,
    /// The record has marks that a success removes.
    marked: AtomicBool,
    /// When it last answered over a connection that is no request's.
    answered: Mutex<Option<Instant>>,
    /// Some node has a live tunnel to its site, as far as is known.
    reachable: AtomicBool,
    /// Requests and connections under way.
    running: Arc<AtomicUsize>,
    closed: AtomicBool,
    open: Arc<AtomicUsize>,
    idle: Mutex<Vec<Idle>>,
    shared: Mutex<Vec<Arc<Shared>>>,
    links: Mutex<Vec<Weak<Link>>>,
    /// Held while an HTTP/2 connection is opened, so that a burst of requests opens one.
    opening: tokio::sync::Mutex<()>,
    outage: Mutex<Option<Outage>>,
    /// The way lost last: dials that are under way start anew, since they may be waiting on it.
    lost: watch::Sender<Via>,
}

/// For so long after an answer a target is trusted to accept connections.
const LATELY: Duration = Duration::from_secs(10);

/// No way to the target was found.
#[derive(Clone, Copy)]
struct Outage {
    since: Instant,
    seen: Instant,
}

/// An outage seen last so long ago is another one.
const OUTAGE_MEMORY: Duration = Duration::from_secs(60);

impl TargetPool {
    pub(crate) fn new(target: RouteTarget, counters: Arc<Counters>) -> Self {
        Self {
            target,
            counters,
            record: Mutex::default(),
            marked: AtomicBool::new(false),
            answered: Mutex::default(),
            reachable: AtomicBool::new(true),
            running: Arc::default(),
            closed: AtomicBool::new(false),
            open: Arc::default(),
            idle: Mutex::default(),
            shared: Mutex::default(),
            links: Mutex::default(),
            opening: tokio::sync::Mutex::default(),
            outage: Mutex::default(),
            lost: watch::Sender::new(Via::Local),
        }
    }

    /// How well it stands now.
    pub(crate) fn standing(&self) -> Standing {
        let (record, now) = (self.record.lock(), Instant::now());
        Standing::of(self.reachable.load(Relaxed), record.health(now), record.is_ejected(now))
    }

    /// For how long it gets no traffic because connections to it failed.
    pub(crate) fn ejected_for(&self) -> Option<Duration> {
        self.record.lock().ejected_for(Instant::now())
    }

    /// What its checks say.
    pub(crate) fn health(&self) -> TargetHealth {
        self.record.lock().health(Instant::now())
    }

    pub(crate) fn set_health(&self, health: TargetHealth) {
        self.record.lock().tell(Instant::now(), health);
    }

    pub(crate) fn set_reachable(&self, reachable: bool) {
        self.reachable.store(reachable, Relaxed);
    }

    /// The target itself failed, not the way to it.
    pub(crate) fn note_failure(&self) {
        self.record.lock().failed(Instant::now());
        self.marked.store(true, Relaxed);
    }

    /// The target answered.
    pub(crate) fn note_success(&self) {
        if self.marked.load(Relaxed) {
            let mut record = self.record.lock();
            record.succeeded(Instant::now());
            self.marked.store(record.is_marked(), Relaxed);
        }
    }

    /// The target sent something over a connection that is no request's.
    pub(crate) fn note_answer(&self) {
        *self.answered.lock() = Some(Instant::now());
        self.note_success();
    }

    /// It did so a moment ago.
    pub(crate) fn answered_lately(&self) -> bool {
        self.answered.lock().is_some_and(|at| at.elapsed() < LATELY)
    }

    /// Told which way is lost, for those that can take another one.
    pub(crate) fn lost(&self) -> watch::Receiver<Via> {
        self.lost.subscribe()
    }

    /// Requests and connections under way.
    pub(crate) fn load(&self) -> usize {
        self.running.load(Relaxed)
    }

    /// Counts a request or connection for as long as what is given lives.
    pub(crate) fn begin(&self) -> Running {
        self.running.fetch_add(1, Relaxed);
        Running(Arc::clone(&self.running))
    }

    /// A connection for one request. `fresh`: one that has not been used before.
    pub(crate) async fn acquire(
        self: &Arc<Self>,
        connector: &Connector,
        protocol: Protocol,
        exclude: &[NodeId],
        fresh: bool,
    ) -> Result<Lease, AcquireError> {
        match protocol {
            Protocol::Http1 => {
                if !fresh && let Some(lease) = self.reuse(exclude, connector.own_node()).await {
                    return Ok(lease);
                }
                let (io, link) = self.connect(connector, protocol, exclude).await?;
                let sender = connector.http1(io, Arc::clone(&link)).await.map_err(|e| failed(&link, &e))?;
                Ok(self.lease(Sender::Http1(sender), link, false))
            }
            Protocol::Http2 => self.acquire_shared(connector, exclude, fresh).await,
        }
    }

    fn lease(self: &Arc<Self>, sender: Sender, link: Arc<Link>, reused: bool) -> Lease {
        Lease { sender, link, pool: Arc::clone(self), _running: self.begin(), reused }
    }

    async fn connect(
        &self,
        connector: &Connector,
        protocol: Protocol,
        exclude: &[NodeId],
    ) -> Result<(crate::dial::BoxedIo, Arc<Link>), AcquireError> {
        if self.open.load(Relaxed) >= OPEN_MAX {
            return Err(AcquireError::Busy);
        }
        let mut lost = self.lost.subscribe();
        let dialed = tokio::select! {
            biased;
            dialed = connector.open(&self.target, protocol, exclude) => dialed,
            Ok(()) = lost.changed() => Err(DialError::at(*lost.borrow(), "the way was lost meanwhile")),
        };
        let Dialed { io, via } = dialed.map_err(AcquireError::Dial)?;
        *self.outage.lock() = None;
        self.open.fetch_add(1, Relaxed);
        let link = Arc::new(Link {
            via,
            lost: CancellationToken::new(),
            born: Instant::now(),
            requests: self.counters.path(self.target.site, via),
            open: Arc::clone(&self.open),
        });
        self.links.lock().push(Arc::downgrade(&link));
        Ok((io, link))
    }

    async fn reuse(self: &Arc<Self>, exclude: &[NodeId], own: Option<NodeId>) -> Option<Lease> {
        let mut idle = self.take_idle(exclude, own)?;
        if !idle.sender.is_ready() {
            let ready = timeout(ALMOST_READY, poll_fn(|cx| idle.sender.poll_ready(cx))).await;
            if !matches!(ready, Ok(Ok(()))) {
                return None;
            }
        }
        Some(self.lease(Sender::Http1(idle.sender), idle.link, true))
    }

    /// The connection used last that is ready, else one that is about to be.
    fn take_idle(&self, exclude: &[NodeId], own: Option<NodeId>) -> Option<Idle> {
        let now = Instant::now();
        let mut idle = self.idle.lock();
        let mut almost = None;
        let mut index = idle.len();
        while index > 0 {
            index -= 1;
            let candidate = &idle[index];
            if candidate.sender.is_closed()
                || now.saturating_duration_since(candidate.since) > IDLE_TIME
                || !candidate.link.is_fresh(now)
            {
                idle.remove(index);
                almost = almost.map(|at: usize| at - 1);
            } else if is_excluded(candidate.link.via, exclude, own) {
            } else if candidate.sender.is_ready() {
                return Some(idle.remove(index));
            } else {
                almost = almost.or(Some(index));
            }
        }
        almost.map(|index| idle.remove(index))
    }

    async fn acquire_shared(
        self: &Arc<Self>,
        connector: &Connector,
        exclude: &[NodeId],
        fresh: bool,
    ) -> Result<Lease, AcquireError> {
        let own = connector.own_node();
        if !fresh && let Some(lease) = self.reuse_shared(exclude, own, STREAMS_MAX) {
            return Ok(lease);
        }
        let _opening = self.opening.lock().await;
        // Another request may have opened one meanwhile.
        let many = self.shared.lock().len() >= SHARED_MAX;
        let streams = if many { usize::MAX } else { STREAMS_MAX };
        if (!fresh || many)
            && let Some(lease) = self.reuse_shared(exclude, own, streams)
        {
            return Ok(lease);
        }
        let (io, link) = self.connect(connector, Protocol::Http2, exclude).await?;
        let sender = connector.http2(io, Arc::clone(&link)).await.map_err(|e| failed(&link, &e))?;
        let shared = Arc::new(Shared {
            sender: sender.clone(),
            link: Arc::clone(&link),
            running: AtomicUsize::new(1),
            used: Mutex::new(Instant::now()),
        });
        if !self.closed.load(Relaxed) {
            self.shared.lock().push(Arc::clone(&shared));
        }
        Ok(self.lease(Sender::Http2(sender, Stream(shared)), link, false))
    }

    fn reuse_shared(
        self: &Arc<Self>,
        exclude: &[NodeId],
        own: Option<NodeId>,
        streams: usize,
    ) -> Option<Lease> {
        let now = Instant::now();
        let mut all = self.shared.lock();
        all.retain(|shared| !shared.sender.is_closed() && shared.link.is_fresh(now));
        let best = all
            .iter()
            .filter(|shared| !is_excluded(shared.link.via, exclude, own))
            .min_by_key(|shared| shared.running.load(Relaxed))?;
        let running = best.running.load(Relaxed);
        if running >= streams {
            return None;
        }
        best.running.fetch_add(1, Relaxed);
        let sender = Sender::Http2(best.sender.clone(), Stream(Arc::clone(best)));
        Some(self.lease(sender, Arc::clone(&best.link), true))
    }

    fn put_idle(&self, sender: Sender1, link: Arc<Link>) {
        let now = Instant::now();
        if self.closed.load(Relaxed) || sender.is_closed() || !link.is_fresh(now) {
            return;
        }
        let mut idle = self.idle.lock();
        if idle.len() >= IDLE_MAX {
            idle.remove(0);
        }
        idle.push(Idle { sender, link, since: now });
    }

    /// Takes unused connections that have waited for long out.
    pub(crate) fn sweep(&self, now: Instant) {
        self.idle.lock().retain(|idle| {
            now.saturating_duration_since(idle.since) <= IDLE_TIME && !idle.sender.is_closed()
        });
        self.shared.lock().retain(|shared| {
            let busy = shared.running.load(Relaxed) > 0;
            let used = now.saturating_duration_since(*shared.used.lock()) <= IDLE_TIME_HTTP2;
            !shared.sender.is_closed() && (busy || used)
        });
        self.links.lock().retain(|link| link.strong_count() > 0);
    }

    /// Uses no connection over `via` any more; requests waiting on one go elsewhere if they can.
    pub(crate) fn forget(&self, via: Via) {
        self.idle.lock().retain(|idle| idle.link.via != via);
        self.shared.lock().retain(|shared| shared.link.via != via);
        for link in self.links.lock().iter().filter_map(Weak::upgrade).filter(|link| link.via == via) {
            link.lost.cancel();
        }
        self.lost.send_replace(via);
    }

    /// Connections through other nodes take no new requests; those that run go on.
    pub(crate) fn retire_relayed(&self) {
        let local = |via: Via| via == Via::Local;
        self.idle.lock().retain(|idle| local(idle.link.via));
        self.shared.lock().retain(|shared| local(shared.link.via));
    }

    /// The target is gone: nothing waits here any more. Requests that run end by themselves.
    pub(crate) fn close(&self) {
        self.closed.store(true, Relaxed);
        self.idle.lock().clear();
        self.shared.lock().clear();
    }

    /// How long no way to the target has been found, counting this time.
    pub(crate) fn unreachable_for(&self) -> Duration {
        let now = Instant::now();
        let mut outage = self.outage.lock();
        let since = outage
            .filter(|outage| now.saturating_duration_since(outage.seen) < OUTAGE_MEMORY)
            .map_or(now, |outage| outage.since);
        *outage = Some(Outage { since, seen: now });
        now.saturating_duration_since(since)
    }
}

impl fmt::Debug for TargetPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TargetPool").field("target", &self.target).finish_non_exhaustive()
    }
}

fn failed(link: &Link, error: &hyper::Error) -> AcquireError {
    AcquireError::Dial(DialError::refused(link.via, format!("HTTP could not begin: {error}")))
}

enum Sender {
    Http1(Sender1),
    Http2(Sender2, Stream),
}

/// One request or connection under way to a target.
#[derive(Debug)]
pub(crate) struct Running(Arc<AtomicUsize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// One request on a shared connection.
struct Stream(Arc<Shared>);

impl Drop for Stream {
    fn drop(&mut self) {
        *self.0.used.lock() = Instant::now();
        self.0.running.fetch_sub(1, Relaxed);
    }
}

/// A connection lent to one request. Dropped without [`Lease::give_back`], an HTTP/1.1 connection closes.
pub(crate) struct Lease {
    sender: Sender,
    pub(crate) link: Arc<Link>,
    pub(crate) pool: Arc<TargetPool>,
    _running: Running,
    /// It carried requests before, so that its end may just be the target closing an idle connection.
    pub(crate) reused: bool,
}

impl Lease {
    pub(crate) async fn send(
        &mut self,
        request: Request<UpstreamBody>,
    ) -> Result<Response<Incoming>, TrySendError<Request<UpstreamBody>>> {
        bump(&self.link.requests);
        match &mut self.sender {
            Sender::Http1(sender) => sender.try_send_request(request).await,
            Sender::Http2(sender, _) => sender.try_send_request(request).await,
        }
    }

    /// The response has been read to its end.
    pub(crate) fn give_back(self) {
        if let Sender::Http1(sender) = self.sender {
            self.pool.put_idle(sender, self.link);
        }
    }

    /// The connection has failed: others like it, waiting unused, are not trusted either.
    pub(crate) fn broken(self) {
        bump(&self.pool.counters.upstream_errors);
        let via = self.link.via;
        self.pool.idle.lock().retain(|idle| idle.link.via != via);
        if let Sender::Http2(_, Stream(shared)) = &self.sender
            && shared.sender.is_closed()
        {
            self.pool.shared.lock().retain(|other| !Arc::ptr_eq(other, shared));
        }
    }
}
