//! The kernel's TCP for a site without privileges: an interface in a network namespace of its own.
//!
//! The kernel retransmits what is lost selectively and at once, and takes 64 KiB from a stream in one system call, which
//! the in-process stack does not.

mod namespace;
mod sessions;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::{TcpListener, TcpStream, UdpSocket},
    sync::{mpsc, watch},
    task::{AbortHandle, JoinSet},
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

pub use self::namespace::{NAMESPACE_ARGUMENT, serve_namespace};
pub(crate) use self::sessions::PortDatagrams;
use self::{namespace::Namespace, sessions::Sessions};
use super::{FlowKind, SiteFlow};
use crate::{
    error::TunnelError,
    probe::PROBE_PORT,
    stream::{TunnelDatagrams, TunnelStream},
    wireguard::tun::{FromTun, ToTun, ends},
};

/// Flows that wait to be taken; behind them, connections wait in the kernel.
const ACCEPT_QUEUE: usize = 256;
/// Probes that wait to be handled.
const PROBE_QUEUE: usize = 1024;
/// How often idle UDP sessions are looked for, and ports tried again that could not be opened.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);
/// Pause after an error of a socket, so that a lasting one does not spin.
const ERROR_PAUSE: Duration = Duration::from_millis(200);
/// A connection whose other end acknowledges nothing for so long is dead.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Idle connections are asked that often whether the other end is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(25);
/// Longest datagram there is.
const DATAGRAM_MAX: usize = 65_535;

/// Ports on which flows are accepted: TCP, UDP.
type Ports = (BTreeSet<u16>, BTreeSet<u16>);

struct Shared {
    namespace: Arc<Namespace>,
    mtu: u16,
    ports: watch::Sender<Ports>,
    accepted: mpsc::Sender<SiteFlow>,
    probe_socket: UdpSocket,
    probes: mpsc::Sender<(SocketAddrV4, Bytes)>,
    sessions: Sessions,
    closed: CancellationToken,
}

/// A handle to the interface and its namespace.
#[derive(Clone)]
pub(super) struct Interface(Arc<Shared>);

/// What [`Interface::open`] gives: the handle, the interface's two ways, and the receiving ends of its queues.
pub(super) struct Opened {
    pub interface: Interface,
    pub packets: (ToTun, FromTun),
    pub accepted: mpsc::Receiver<SiteFlow>,
    pub probes: mpsc::Receiver<(SocketAddrV4, Bytes)>,
}

impl Interface {
    /// Makes namespace and interface with the help of `program`, which calls [`serve_namespace`].
    pub(super) async fn open(program: &Path, address: Ipv4Addr, mtu: u16) -> io::Result<Opened> {
        let program: PathBuf = program.to_owned();
        let made = tokio::task::spawn_blocking(move || {
            let (namespace, device) = Namespace::open(&program, address, mtu)?;
            let probe_socket = namespace.bind_udp(PROBE_PORT)?;
            Ok::<_, io::Error>((namespace, device, probe_socket))
        });
        let (namespace, device, probe_socket) = made.await.map_err(io::Error::other)??;
        let (accepted, accepted_queue) = mpsc::channel(ACCEPT_QUEUE);
        let (probes, probe_queue) = mpsc::channel(PROBE_QUEUE);
        let shared = Shared {
            namespace: Arc::new(namespace),
            mtu,
            ports: watch::Sender::default(),
            accepted,
            probe_socket: UdpSocket::from_std(probe_socket)?,
            probes,
            sessions: Sessions::new(),
            closed: CancellationToken::new(),
        };
        Ok(Opened {
            interface: Self(Arc::new(shared)),
            packets: ends(device, mtu)?,
            accepted: accepted_queue,
            probes: probe_queue,
        })
    }

    /// Sets the ports on which flows are accepted, which takes effect a moment later. Flows that exist are not touched.
    pub(super) fn listen(&self, tcp: BTreeSet<u16>, udp: BTreeSet<u16>) {
        self.0.ports.send_if_modified(|ports| {
            let wanted = (tcp, udp);
            let changed = *ports != wanted;
            *ports = wanted;
            changed
        });
    }

    /// Sends a probe. One that is lost is made up for by the next.
    pub(super) fn send_probe(&self, to: SocketAddrV4, payload: &[u8]) {
        let _ = SockRef::from(&self.0.probe_socket).send_to(payload, &SocketAddr::V4(to).into());
    }

    pub(super) async fn closed(&self) {
        self.0.closed.cancelled().await;
    }

    /// Accepts flows and probes until shut down.
    pub(super) async fn run(&self, shutdown: &CancellationToken) -> Result<(), TunnelError> {
        let mut open = OpenPorts::default();
        let mut wanted = self.0.ports.subscribe();
        wanted.mark_changed();
        let mut sweep = interval(SWEEP_INTERVAL);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut buffer = [0; 64];
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                // The sender is held by this handle.
                _ = wanted.changed() => open.align(self).await,
                received = self.0.probe_socket.recv_from(&mut buffer) => match received {
                    Ok((length, SocketAddr::V4(from))) => {
                        // A full queue loses probes; the next one comes in a moment.
                        let _ = self.0.probes.try_send((from, Bytes::copy_from_slice(&buffer[..length])));
                    }
                    Ok(_) => {}
                    Err(error) => pause("probes", &error).await,
                },
                _ = sweep.tick() => {
                    if self.0.namespace.is_gone() {
                        return Err(TunnelError::NamespaceGone);
                    }
                    self.0.sessions.sweep(Instant::now());
                    open.align(self).await;
                }
            }
        }
    }

    /// Takes no more flows, and ends the sessions. Connections are their owners' to end.
    pub(super) fn close(&self) {
        self.0.closed.cancel();
        self.0.sessions.clear();
    }

    async fn accept_tcp(self, port: u16, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, from)) => {
                    prepare(&stream);
                    let kind = FlowKind::Tcp(TunnelStream::kernel(stream));
                    if self.0.accepted.send(SiteFlow { from, port, kind }).await.is_err() {
                        return;
                    }
                }
                Err(error) => pause("connections", &error).await,
            }
        }
    }

    async fn accept_udp(self, port: u16, socket: UdpSocket) {
        let socket = Arc::new(socket);
        let mut buffer = vec![0; DATAGRAM_MAX];
        loop {
            match socket.recv_from(&mut buffer).await {
                Ok((length, from)) => {
                    let Some(session) = self.0.sessions.input(&socket, port, from, &buffer[..length]) else {
                        continue;
                    };
                    let kind = FlowKind::Udp(TunnelDatagrams::port(session, self.0.mtu));
                    // One too many is dropped, as datagrams are.
                    let _ = self.0.accepted.try_send(SiteFlow { from, port, kind });
                }
                Err(error) => pause("datagrams", &error).await,
            }
        }
    }
}

/// The ports that are open. With it, all are closed.
#[derive(Default)]
struct OpenPorts {
    tasks: JoinSet<()>,
    tcp: BTreeMap<u16, AbortHandle>,
    udp: BTreeMap<u16, AbortHandle>,
}

impl OpenPorts {
    /// Opens and closes what is wanted. What cannot be opened is tried again at the next sweep.
    async fn align(&mut self, interface: &Interface) {
        let (tcp, udp) = interface.0.ports.borrow().clone();
        close_others(&mut self.tcp, &tcp);
        close_others(&mut self.udp, &udp);
        while self.tasks.try_join_next().is_some() {}
        let missing: Vec<(bool, u16)> = tcp
            .difference(&self.tcp.keys().copied().collect())
            .map(|port| (true, *port))
            .chain(udp.difference(&self.udp.keys().copied().collect()).map(|port| (false, *port)))
            .collect();
        for (is_tcp, port) in missing {
            let opened = if is_tcp {
                self.open_tcp(interface, port).await
            } else {
                self.open_udp(interface, port).await
            };
            if let Err(error) = opened {
                tracing::warn!(port, tcp = is_tcp, %error, "a port of the tunnels cannot be opened, trying again");
            }
        }
    }

    async fn open_tcp(&mut self, interface: &Interface, port: u16) -> io::Result<()> {
        let namespace = Arc::clone(&interface.0.namespace);
        let listener = tokio::task::spawn_blocking(move || namespace.listen_tcp(port));
        let listener = TcpListener::from_std(listener.await.map_err(io::Error::other)??)?;
        let task = self.tasks.spawn(interface.clone().accept_tcp(port, listener));
        self.tcp.insert(port, task);
        Ok(())
    }

    async fn open_udp(&mut self, interface: &Interface, port: u16) -> io::Result<()> {
        let namespace = Arc::clone(&interface.0.namespace);
        let socket = tokio::task::spawn_blocking(move || namespace.bind_udp(port));
        let socket = UdpSocket::from_std(socket.await.map_err(io::Error::other)??)?;
        let task = self.tasks.spawn(interface.clone().accept_udp(port, socket));
        self.udp.insert(port, task);
        Ok(())
    }
}

fn close_others(open: &mut BTreeMap<u16, AbortHandle>, wanted: &BTreeSet<u16>) {
    open.retain(|port, task| {
        let keep = wanted.contains(port);
        if !keep {
            task.abort();
        }
        keep
    });
}

/// As in the in-process stack: small messages do not wait, and a silent other end is found out.
fn prepare(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    // What the kernel refuses here costs only time.
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_tcp_user_timeout(Some(TIMEOUT));
    let _ = socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEP_ALIVE).with_interval(KEEP_ALIVE));
}

async fn pause(what: &str, error: &io::Error) {
    tracing::warn!(%error, "cannot receive {what} from the tunnels, trying again");
    tokio::time::sleep(ERROR_PAUSE).await;
}
