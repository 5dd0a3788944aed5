//! The in-process network stack: TCP, UDP and ping on one tunnel address, for ends without privileges.
//!
//! Packets are told apart by their flow in a hash map, and each TCP flow is a small smoltcp interface of its own with
//! one socket, so that a packet costs the same however many flows there are. UDP and ping need no stack at all.
//!
//! Packets go out through one bounded queue. Nothing that handles an arriving packet ever waits for that queue: the
//! WireGuard device holds a peer's lock while it delivers, and needs the same lock to drain the queue. A flow that
//! finds it full is polled again by its driver when there is room.
//!
//! smoltcp sends with a retransmission timeout of at least one second and no selective retransmission, so the sending
//! side stalls on lossy links. Receiving does not suffer. That is the price of needing no privileges on this end.

mod dial;
mod port;
mod tcp;
mod udp;

use std::{
    collections::{BTreeSet, HashMap},
    net::{Ipv4Addr, SocketAddrV4},
    sync::{Arc, atomic::AtomicU16},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use parking_lot::{Mutex, RwLock};
use smoltcp::time::Instant as StackInstant;
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub(crate) use self::{tcp::FlowStream, udp::UdpFlow};
use crate::{
    packet::{self, Class, FlowKey, Segment},
    probe::PROBE_PORT,
};

/// Most TCP connections at once; further ones are reset. A flow holds up to [`tcp::BUFFER`] twice.
pub(crate) const MAX_TCP_FLOWS: usize = 4096;
/// Most UDP sessions at once; datagrams of further ones are dropped.
pub(crate) const MAX_UDP_SESSIONS: usize = 4096;
/// A UDP session ends after this long without a datagram in either direction.
pub(crate) const UDP_IDLE: Duration = Duration::from_secs(90);
/// Packets on their way out: about 1.3 MB at the usual MTU.
const OUT_QUEUE: usize = 1024;
/// Flows that wait to be accepted; further ones are refused.
const ACCEPT_QUEUE: usize = 256;
/// Probes that wait to be handled.
const PROBE_QUEUE: usize = 1024;
/// How often idle UDP sessions are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

/// A flow that the other end opened.
pub(crate) enum Accepted {
    Tcp(FlowKey, FlowStream),
    Udp(FlowKey, UdpFlow),
}

/// The receiving ends of a stack's queues; each has one owner.
pub(crate) struct Queues {
    /// Packets for the WireGuard device.
    pub out: mpsc::Receiver<BytesMut>,
    /// Flows opened by the other end.
    pub accepted: mpsc::Receiver<Accepted>,
    /// Datagrams on [`PROBE_PORT`].
    pub probes: mpsc::Receiver<(SocketAddrV4, Bytes)>,
}

/// Ports on which flows are accepted.
#[derive(Default)]
struct Ports {
    tcp: BTreeSet<u16>,
    udp: BTreeSet<u16>,
}

struct Shared {
    address: Ipv4Addr,
    mtu: u16,
    start: Instant,
    out: mpsc::Sender<BytesMut>,
    accept: mpsc::Sender<Accepted>,
    probes: mpsc::Sender<(SocketAddrV4, Bytes)>,
    ports: RwLock<Ports>,
    /// Counts the flows opened from here; its start is random.
    dialed: AtomicU16,
    tcp: Mutex<HashMap<FlowKey, Arc<tcp::TcpFlow>>>,
    udp: Mutex<HashMap<FlowKey, udp::Session>>,
    drivers: TaskTracker,
    closed: CancellationToken,
}

/// A handle to the stack.
#[derive(Clone)]
pub(crate) struct Stack(Arc<Shared>);

impl Stack {
    pub(crate) fn new(address: Ipv4Addr, mtu: u16) -> (Self, Queues) {
        let (out, out_queue) = mpsc::channel(OUT_QUEUE);
        let (accept, accepted) = mpsc::channel(ACCEPT_QUEUE);
        let (probes, probe_queue) = mpsc::channel(PROBE_QUEUE);
        let shared = Shared {
            address,
            mtu,
            start: Instant::now(),
            out,
            accept,
            probes,
            ports: RwLock::default(),
            dialed: AtomicU16::new(rand::random()),
            tcp: Mutex::default(),
            udp: Mutex::default(),
            drivers: TaskTracker::new(),
            closed: CancellationToken::new(),
        };
        (Self(Arc::new(shared)), Queues { out: out_queue, accepted, probes: probe_queue })
    }

    /// Sets the ports on which flows are accepted. Flows that exist are not touched.
    pub(crate) fn listen(&self, tcp: BTreeSet<u16>, udp: BTreeSet<u16>) {
        *self.0.ports.write() = Ports { tcp, udp };
    }

    /// Handles a packet that came through the tunnel. Never waits.
    pub(crate) fn input(&self, bytes: &[u8]) {
        if self.0.closed.is_cancelled() {
            return;
        }
        match packet::classify(self.0.address, bytes) {
            Class::Tcp(segment) => self.tcp_input(&segment, bytes),
            Class::Udp { key, payload } if key.local.port() == PROBE_PORT => {
                // A full queue loses probes; the next one comes in a moment.
                let _ = self.0.probes.try_send((key.remote, Bytes::copy_from_slice(payload)));
            }
            Class::Udp { key, payload } => self.udp_input(key, payload),
            Class::Echo { from, ident, sequence, data } => {
                self.send(packet::echo_reply(self.0.address, from, ident, sequence, data));
            }
            Class::Other => {}
        }
    }

    fn tcp_input(&self, segment: &Segment, bytes: &[u8]) {
        let flow = self.0.tcp.lock().get(&segment.key).cloned();
        let flow = flow.filter(|flow| !(segment.opens && flow.yields())).or_else(|| self.open(segment));
        match flow {
            Some(flow) => flow.input(bytes),
            None => {
                if let Some(reset) = packet::reset_for(segment) {
                    self.send(reset);
                }
            }
        }
    }

    /// The flow that a segment opens, if it may.
    fn open(&self, segment: &Segment) -> Option<Arc<tcp::TcpFlow>> {
        if !segment.opens || !self.0.ports.read().tcp.contains(&segment.key.local.port()) {
            return None;
        }
        let Ok(slot) = self.0.accept.try_reserve() else {
            tracing::warn!(from = %segment.key.remote, "connection refused: too many wait to be accepted");
            return None;
        };
        let stream = tcp::TcpFlow::accept(self, segment.key)?;
        let flow = stream.flow();
        slot.send(Accepted::Tcp(segment.key, stream));
        Some(flow)
    }

    /// Sends a datagram; false if the queue is full.
    pub(crate) fn send_udp(&self, from_port: u16, to: SocketAddrV4, payload: &[u8]) -> bool {
        self.send(packet::udp(SocketAddrV4::new(self.0.address, from_port), to, payload))
    }

    fn send(&self, packet: BytesMut) -> bool {
        self.0.out.try_send(packet).is_ok()
    }

    /// The stack's clock: monotonic, unlike smoltcp's own.
    fn now(&self) -> StackInstant {
        StackInstant::from_micros(i64::try_from(self.0.start.elapsed().as_micros()).unwrap_or(i64::MAX))
    }

    /// Waits until the stack is closed.
    pub(crate) async fn closed(&self) {
        self.0.closed.cancelled().await;
    }

    /// Ends idle sessions until shut down, then all flows.
    pub(crate) async fn run(&self, shutdown: &CancellationToken) {
        let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
        sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                _ = sweep.tick() => self.sweep(Instant::now()),
            }
        }
    }

    /// Ends all flows; their streams report an abort. The stack takes no more packets.
    pub(crate) async fn close(&self) {
        self.0.closed.cancel();
        let flows: Vec<_> = self.0.tcp.lock().drain().map(|(_, flow)| flow).collect();
        for flow in flows {
            flow.abort();
        }
        self.0.udp.lock().clear();
        self.0.drivers.close();
        self.0.drivers.wait().await;
    }
}

#[cfg(test)]
mod tests;
