//! Opening connections into sites.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    sync::Arc,
    time::Duration,
};

use pangolin_core::id::SiteId;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};

use super::TunnelLayer;
use crate::{
    error::DialError,
    stack::Stack,
    stream::{TunnelDatagrams, TunnelStream},
    wireguard::Gate,
};

/// How this node gets at addresses inside the tunnels.
pub(super) enum Reach {
    /// Through a network interface.
    Interface {
        name: String,
        /// What stands in front of it, unless WireGuard is in the kernel as well.
        gate: Option<Arc<Gate>>,
    },
    /// Through the in-process stack.
    Stack(Stack),
}

impl TunnelLayer {
    /// Connects to a port of the site's tunnel address, where its connector listens for a target.
    ///
    /// # Errors
    /// At once if the site has no live tunnel to this node; else when the connector refuses, or does not answer within
    /// `timeout`.
    pub async fn dial_tcp(
        &self,
        site: SiteId,
        port: u16,
        timeout: Duration,
    ) -> Result<TunnelStream, DialError> {
        let remote = SocketAddrV4::new(self.live_address(site)?, port);
        let connect = async {
            match &self.0.reach {
                Reach::Interface { name, .. } => connect(name, remote).await.map(TunnelStream::kernel),
                Reach::Stack(stack) => stack.connect(remote).await.map(TunnelStream::stack),
            }
        };
        match tokio::time::timeout(timeout, connect).await {
            Ok(connected) => connected.map_err(|error| dial_error(site, port, error)),
            Err(_) => Err(DialError::TimedOut { site, port }),
        }
    }

    /// Opens a UDP session with a port of the site's tunnel address.
    ///
    /// # Errors
    /// The site has no live tunnel to this node, or there is no room for another session.
    #[expect(
        clippy::unused_async,
        reason = "dialing waits in general; callers need not know where it does not"
    )]
    pub async fn dial_udp(&self, site: SiteId, port: u16) -> Result<TunnelDatagrams, DialError> {
        let remote = SocketAddrV4::new(self.live_address(site)?, port);
        let mtu = self.0.mtu;
        let opened = match &self.0.reach {
            Reach::Interface { name, gate } => connect_udp(name, remote).and_then(|socket| {
                let port = socket.local_addr()?.port();
                let open = gate.as_ref().map(|gate| gate.open(port));
                Ok(TunnelDatagrams::kernel(socket, open, mtu))
            }),
            Reach::Stack(stack) => stack.connect_udp(remote).map(|flow| TunnelDatagrams::stack(flow, mtu)),
        };
        opened.map_err(|error| dial_error(site, port, error))
    }

    fn live_address(&self, site: SiteId) -> Result<Ipv4Addr, DialError> {
        let state = self.0.state.lock();
        let peer = state.sites.get(&site).ok_or(DialError::UnknownSite(site))?;
        if state.liveness.is_alive(site) { Ok(peer.address) } else { Err(DialError::NotConnected(site)) }
    }
}

/// Several nodes on one host have interfaces to the same network, so the socket is bound to this node's. The kernel
/// then takes the interface's own address as source.
async fn connect(interface: &str, remote: SocketAddrV4) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind_device(Some(interface.as_bytes()))?;
    socket.set_nodelay(true)?;
    socket.connect(SocketAddr::V4(remote)).await
}

fn connect_udp(interface: &str, remote: SocketAddrV4) -> io::Result<UdpSocket> {
    let socket = udp_socket(interface)?;
    socket.connect(&SocketAddr::V4(remote).into())?;
    UdpSocket::from_std(socket.into())
}

/// A non-blocking UDP socket that speaks through this interface only.
pub(super) fn udp_socket(interface: &str) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.bind_device(Some(interface.as_bytes()))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn dial_error(site: SiteId, port: u16, source: io::Error) -> DialError {
    match source.kind() {
        io::ErrorKind::ConnectionRefused => DialError::Refused { site, port },
        io::ErrorKind::TimedOut => DialError::TimedOut { site, port },
        io::ErrorKind::WouldBlock | io::ErrorKind::AddrNotAvailable => DialError::Exhausted,
        io::ErrorKind::NotConnected => DialError::Closed,
        _ => DialError::Io { site, port, source },
    }
}
