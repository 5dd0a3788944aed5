//! The network between simulated nodes: it delays, holds, loses and cuts, in each direction by itself.
//!
//! It behaves as `peer` does over TCP: a lost packet is sent again and so arrives late; a connection on which nothing
//! arrives for half a second is given up, and what is under way on it is lost; a node that is known not to answer is
//! refused at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use pangolin_core::{NodeId, Report, Timestamp};
use pangolin_peer::{BoxFuture, PeerError, Service};
use pangolin_raft::{Clock, Duplex, Endpoint, Transport};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream},
    sync::oneshot,
    time::{sleep, timeout},
};

use super::dice::Dice;

/// A connection on which nothing arrives for so long is given up.
const GIVEN_UP: Duration = Duration::from_millis(500);
/// How often a message that cannot pass looks again.
const LOOK: Duration = Duration::from_millis(20);
/// The first repeat of a lost packet (RFC 6298 with the minimum that Linux uses).
const REPEAT: Duration = Duration::from_millis(200);
/// Bytes of a stream under way.
const WINDOW: usize = 64 * 1024;

/// Directions in which nothing passes: (from, to).
pub(crate) type Links = BTreeSet<(NodeId, NodeId)>;

/// One life of a node: from a start to the crash or stop that ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Life {
    /// The node.
    pub(crate) node: NodeId,
    /// Counts its starts.
    pub(crate) number: u64,
}

/// The network; clones share it.
#[derive(Clone)]
pub(crate) struct Net(Arc<Mutex<State>>);

struct State {
    dice: Dice,
    /// Who cannot be heard by whom: (from, to).
    cut: Links,
    /// What goes from one to the other waits until it is released.
    held: Links,
    /// Longest way of a message, in milliseconds.
    delay: u64,
    /// Packets of a hundred that are lost.
    loss: u64,
    lives: BTreeMap<NodeId, u64>,
    alive: BTreeSet<NodeId>,
    endpoints: BTreeMap<(NodeId, u8), Endpoint>,
    suspects: BTreeSet<(NodeId, NodeId)>,
    clocks: BTreeMap<NodeId, Clock>,
    /// How far a node's clock is off, in milliseconds, as it has told another: (by whom it is known, whose).
    told: BTreeMap<(NodeId, NodeId), i64>,
    reports: BTreeMap<NodeId, tokio::sync::mpsc::UnboundedSender<(NodeId, Report)>>,
}

impl Net {
    /// A network without faults.
    #[must_use]
    pub(crate) fn new(dice: Dice) -> Self {
        Self(Arc::new(Mutex::new(State {
            dice,
            cut: BTreeSet::new(),
            held: BTreeSet::new(),
            delay: HEALTHY_DELAY,
            loss: 0,
            lives: BTreeMap::new(),
            alive: BTreeSet::new(),
            endpoints: BTreeMap::new(),
            suspects: BTreeSet::new(),
            clocks: BTreeMap::new(),
            told: BTreeMap::new(),
            reports: BTreeMap::new(),
        })))
    }

    /// A node begins a life.
    #[must_use]
    pub(crate) fn attach(
        &self,
        node: NodeId,
        clock: Clock,
        reports: tokio::sync::mpsc::UnboundedSender<(NodeId, Report)>,
    ) -> Life {
        let mut state = self.0.lock();
        let number = state.lives.entry(node).or_default();
        *number += 1;
        let number = *number;
        state.alive.insert(node);
        state.endpoints.retain(|(owner, _), _| *owner != node);
        state.suspects.retain(|(by, _)| *by != node);
        state.told.retain(|(by, _), _| *by != node);
        state.clocks.insert(node, clock);
        state.reports.insert(node, reports);
        Life { node, number }
    }

    /// The node's life ends: nothing of it reaches anyone any more.
    pub(crate) fn detach(&self, node: NodeId) {
        let mut state = self.0.lock();
        state.alive.remove(&node);
        state.endpoints.retain(|(owner, _), _| *owner != node);
        state.reports.remove(&node);
    }

    /// The way to the others in one life of a node.
    #[must_use]
    pub(crate) fn transport(&self, life: Life) -> NodeNet {
        NodeNet { net: self.clone(), life }
    }

    /// Cuts what goes from one node to another.
    pub(crate) fn cut(&self, links: impl IntoIterator<Item = (NodeId, NodeId)>) {
        self.0.lock().cut.extend(links);
    }

    /// Mends it.
    pub(crate) fn mend(&self, links: impl IntoIterator<Item = (NodeId, NodeId)>) {
        let mut state = self.0.lock();
        for link in links {
            state.cut.remove(&link);
        }
    }

    /// Lets what goes from one node to another wait.
    pub(crate) fn hold(&self, links: impl IntoIterator<Item = (NodeId, NodeId)>) {
        self.0.lock().held.extend(links);
    }

    /// Lets it pass.
    pub(crate) fn release(&self, links: impl IntoIterator<Item = (NodeId, NodeId)>) {
        let mut state = self.0.lock();
        for link in links {
            state.held.remove(&link);
        }
    }

    /// Sets the longest way of a message.
    pub(crate) fn set_delay(&self, ms: u64) {
        self.0.lock().delay = ms;
    }

    /// Sets how many packets of a hundred are lost.
    pub(crate) fn set_loss(&self, of_hundred: u64) {
        self.0.lock().loss = of_hundred;
    }

    /// Ends all faults.
    pub(crate) fn heal(&self) {
        let mut state = self.0.lock();
        state.cut.clear();
        state.held.clear();
        state.delay = HEALTHY_DELAY;
        state.loss = 0;
    }

    /// Asks a node whether it is there.
    pub(crate) async fn probe(&self, from: Life, to: NodeId) -> bool {
        let way = async {
            let Some(there) = self.life_of(to) else { return false };
            self.travel(from, there).await && self.travel(there, from).await
        };
        let answers = timeout(GIVEN_UP, way).await.unwrap_or(false);
        if answers {
            // The answer says what time it is there.
            let mut state = self.0.lock();
            let told = state.clocks.get(&to).map(|clock| i64_of(clock.now()) - i64_of(wall()));
            state.told.extend(told.map(|off| ((from.node, to), off)));
        }
        answers
    }

    /// Notes whether a node answers the probes of another.
    pub(crate) fn suspect(&self, by: NodeId, node: NodeId, suspect: bool) {
        let mut state = self.0.lock();
        if suspect {
            state.suspects.insert((by, node));
        } else {
            state.suspects.remove(&(by, node));
        }
    }

    /// Tells a node what another has seen; it may never arrive.
    pub(crate) async fn report(&self, from: Life, to: NodeId, report: Report) {
        let Some(there) = self.life_of(to) else { return };
        if self.travel(from, there).await {
            let inbox = self.0.lock().reports.get(&to).cloned();
            // Whoever stops reads nothing any more.
            if let Some(inbox) = inbox {
                let _ = inbox.send((from.node, report));
            }
        }
    }

    fn life_of(&self, node: NodeId) -> Option<Life> {
        let state = self.0.lock();
        let number = *state.lives.get(&node)?;
        state.alive.contains(&node).then_some(Life { node, number })
    }

    fn is_alive(&self, life: Life) -> bool {
        self.life_of(life.node) == Some(life)
    }

    fn delay(&self) -> Duration {
        let mut state = self.0.lock();
        let most = state.delay;
        let mut delay = Duration::from_millis(1 + state.dice.below(most));
        let mut repeat = REPEAT;
        let loss = state.loss;
        while repeat < Duration::from_secs(4) && state.dice.percent(loss) {
            delay += repeat;
            repeat *= 2;
        }
        delay
    }

    /// The way of one message; false if it does not arrive.
    async fn travel(&self, from: Life, to: Life) -> bool {
        sleep(self.delay()).await;
        let mut waited = Duration::ZERO;
        loop {
            if !self.is_alive(from) || !self.is_alive(to) {
                return false;
            }
            let (held, cut) = {
                let state = self.0.lock();
                let link = (from.node, to.node);
                (state.held.contains(&link), state.cut.contains(&link))
            };
            if cut {
                waited += LOOK;
            } else if !held {
                return true;
            }
            if waited >= GIVEN_UP {
                return false;
            }
            sleep(LOOK).await;
        }
    }

    async fn carry(
        self,
        from: Life,
        to: Life,
        service: Service,
        body: Bytes,
    ) -> Option<Result<Bytes, String>> {
        if !self.travel(from, to).await {
            return None;
        }
        let endpoint = self.0.lock().endpoints.get(&(to.node, service as u8)).cloned()?;
        let answer = endpoint.answer(from.node, body).await;
        self.travel(to, from).await.then_some(answer)
    }

    /// Moves what one side writes to the other; false if the stream broke.
    async fn pump(
        &self,
        (from, to): (Life, Life),
        mut out: tokio::io::ReadHalf<DuplexStream>,
        mut into: tokio::io::WriteHalf<DuplexStream>,
    ) -> bool {
        let mut piece = vec![0; WINDOW / 4];
        loop {
            let Ok(length) = out.read(&mut piece).await else { return false };
            if !self.travel(from, to).await {
                return false;
            }
            if length == 0 {
                // The end arrives like any byte.
                return into.shutdown().await.is_ok();
            }
            if into.write_all(&piece[..length]).await.is_err() {
                return false;
            }
        }
    }

    /// Connects both ends of a stream until it has ended in both directions, or has broken.
    async fn connect(self, here: Life, there: Life, near: DuplexStream, far: DuplexStream) {
        let (near_out, near_in) = tokio::io::split(near);
        let (far_out, far_in) = tokio::io::split(far);
        let to = async { self.pump((here, there), near_out, far_in).await.then_some(()).ok_or(()) };
        let fro = async { self.pump((there, here), far_out, near_in).await.then_some(()).ok_or(()) };
        // What breaks in one direction is broken in both: dropping the ends tells both sides.
        let _ = tokio::try_join!(to, fro);
    }
}

/// What the clock of a host says that is not off.
fn wall() -> Timestamp {
    let now = super::world::wall_clock().unwrap_or_default();
    Timestamp(u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
}

fn i64_of(time: Timestamp) -> i64 {
    i64::try_from(time.0).unwrap_or(i64::MAX)
}

/// Longest way of a message when all is well, in milliseconds.
pub(crate) const HEALTHY_DELAY: u64 = 4;

/// The way of one life of a node to the others.
#[derive(Clone)]
pub(crate) struct NodeNet {
    net: Net,
    life: Life,
}

impl NodeNet {
    fn unreachable(node: NodeId, reason: &str) -> PeerError {
        PeerError::Unreachable { node, reason: reason.into() }
    }
}

impl Transport for NodeNet {
    fn request(
        &self,
        to: NodeId,
        service: Service,
        body: Bytes,
        within: Duration,
    ) -> BoxFuture<'_, Result<Bytes, PeerError>> {
        Box::pin(async move {
            if !self.net.is_alive(self.life) {
                return Err(Self::unreachable(to, "this node is off"));
            }
            if self.is_suspect(to) {
                return Err(Self::unreachable(to, "it does not answer"));
            }
            let Some(there) = self.net.life_of(to) else {
                return Err(Self::unreachable(to, "it refuses connections"));
            };
            let (reply, answer) = oneshot::channel();
            // The other side goes on with what it was asked when the asker has lost patience.
            let carry = self.net.clone().carry(self.life, there, service, body);
            tokio::spawn(async move {
                if let Some(answer) = carry.await {
                    let _ = reply.send(answer);
                }
            });
            match timeout(within, answer).await {
                Ok(Ok(Ok(answer))) => Ok(answer),
                Ok(Ok(Err(message))) => Err(PeerError::Refused { node: to, message }),
                Ok(Err(_)) => Err(PeerError::Lost { node: to, reason: "the connection broke".into() }),
                Err(_) => Err(PeerError::Timeout { node: to, after: within, sent: true }),
            }
        })
    }

    fn open(&self, to: NodeId, service: Service) -> BoxFuture<'_, Result<Box<dyn Duplex>, PeerError>> {
        Box::pin(async move {
            let lost = |reason| Self::unreachable(to, reason);
            let there = self.net.life_of(to).ok_or_else(|| lost("it refuses connections"))?;
            if self.is_suspect(to) || !self.net.travel(self.life, there).await {
                return Err(lost("it does not answer"));
            }
            let endpoint = self.net.0.lock().endpoints.get(&(to, service as u8)).cloned();
            let endpoint = endpoint.ok_or_else(|| lost("nobody takes the stream"))?;
            let (near, near_end) = tokio::io::duplex(WINDOW);
            let (mut far, far_end) = tokio::io::duplex(WINDOW);
            tokio::spawn(self.net.clone().connect(self.life, there, near_end, far_end));
            let from = self.life.node;
            tokio::spawn(async move { endpoint.take(from, &mut far).await });
            Ok(Box::new(near) as Box<dyn Duplex>)
        })
    }

    fn serve(&self, service: Service, endpoint: Endpoint) {
        if self.net.is_alive(self.life) {
            self.net.0.lock().endpoints.insert((self.life.node, service as u8), endpoint);
        }
    }

    fn is_suspect(&self, node: NodeId) -> bool {
        self.net.0.lock().suspects.contains(&(self.life.node, node))
    }

    fn clock_of(&self, node: NodeId) -> Option<Timestamp> {
        let off = self.net.0.lock().told.get(&(self.life.node, node)).copied()?;
        Some(Timestamp(u64::try_from(i64_of(wall()) + off).unwrap_or_default()))
    }
}
