//! What dialing and accepting give: byte streams and datagrams, whatever carries them.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UdpSocket},
};

use crate::{
    packet::UDP_OVERHEAD,
    site::PortDatagrams,
    stack::{FlowStream, UdpFlow},
    wireguard::OpenPort,
};

/// A TCP connection through a tunnel.
///
/// Dropping it closes it after what was written has been delivered; if there is data unread, it is reset.
pub struct TunnelStream(Carrier);

enum Carrier {
    Kernel(TcpStream),
    Stack(FlowStream),
}

impl TunnelStream {
    pub(crate) fn kernel(stream: TcpStream) -> Self {
        Self(Carrier::Kernel(stream))
    }

    pub(crate) fn stack(stream: FlowStream) -> Self {
        Self(Carrier::Stack(stream))
    }

    /// Resets the connection: the other end learns that it failed, rather than that it ended.
    pub fn reset(self) {
        match self.0 {
            // A failure leaves an ordinary close.
            Carrier::Kernel(stream) => drop(stream.set_zero_linger()),
            Carrier::Stack(stream) => stream.reset(),
        }
    }
}

impl AsyncRead for TunnelStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            Carrier::Kernel(stream) => Pin::new(stream).poll_read(context, buffer),
            Carrier::Stack(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for TunnelStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().0 {
            Carrier::Kernel(stream) => Pin::new(stream).poll_write(context, bytes),
            Carrier::Stack(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            Carrier::Kernel(stream) => Pin::new(stream).poll_flush(context),
            Carrier::Stack(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            Carrier::Kernel(stream) => Pin::new(stream).poll_shutdown(context),
            Carrier::Stack(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

/// UDP datagrams between two ends of a tunnel. Dropping it ends the session.
pub struct TunnelDatagrams {
    carrier: DatagramCarrier,
    limit: usize,
}

enum DatagramCarrier {
    /// The port is closed to answers before the socket is.
    Kernel {
        _open: Option<OpenPort>,
        socket: UdpSocket,
    },
    Stack(UdpFlow),
    Port(PortDatagrams),
}

impl TunnelDatagrams {
    /// A socket of the kernel, and its port in the gate if there is one.
    pub(crate) fn kernel(socket: UdpSocket, open: Option<OpenPort>, mtu: u16) -> Self {
        Self {
            carrier: DatagramCarrier::Kernel { _open: open, socket },
            limit: usize::from(mtu) - UDP_OVERHEAD,
        }
    }

    pub(crate) fn stack(flow: UdpFlow, mtu: u16) -> Self {
        Self { carrier: DatagramCarrier::Stack(flow), limit: usize::from(mtu) - UDP_OVERHEAD }
    }

    pub(crate) fn port(datagrams: PortDatagrams, mtu: u16) -> Self {
        Self { carrier: DatagramCarrier::Port(datagrams), limit: usize::from(mtu) - UDP_OVERHEAD }
    }

    /// The longest datagram that fits the tunnel, in bytes.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Sends a datagram. Like any network, it may lose it.
    ///
    /// # Errors
    /// `InvalidInput` for a datagram longer than [`TunnelDatagrams::limit`] (tunnels do not fragment), or what the
    /// system says.
    pub async fn send(&self, datagram: &[u8]) -> io::Result<()> {
        if datagram.len() > self.limit {
            let text = format!("a datagram of {} bytes exceeds the tunnel's {}", datagram.len(), self.limit);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        match &self.carrier {
            DatagramCarrier::Kernel { socket, .. } => socket.send(datagram).await.map(drop),
            DatagramCarrier::Stack(flow) => flow.send(datagram),
            DatagramCarrier::Port(session) => session.send(datagram).await,
        }
    }

    /// Waits for the next datagram and writes it to `buffer`, cut to its length. A datagram may be empty.
    ///
    /// # Errors
    /// `TimedOut` when the session has ended after 90 idle seconds (not one that a node dialed through an interface), or
    /// what the system says.
    pub async fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match &self.carrier {
            DatagramCarrier::Kernel { socket, .. } => socket.recv(buffer).await,
            DatagramCarrier::Stack(flow) => flow.recv(buffer).await,
            DatagramCarrier::Port(session) => session.recv(buffer).await,
        }
    }
}
