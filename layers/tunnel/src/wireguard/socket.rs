//! The UDP socket under a userspace WireGuard device.
//!
//! It is bound before the device is made, so that a port in use is a clear error at start, and with a large receive
//! buffer: without it, bursts are lost, which costs TCP inside the tunnel most of its throughput (measured: five
//! times). A receive error is survived: it must not end the device for a passing trouble of the network.

use std::{
    io,
    net::{Ipv6Addr, SocketAddr},
    time::Duration,
};

use gotatun::{
    packet::{Packet, PacketBufPool},
    udp::{
        UdpRecv, UdpTransportFactory, UdpTransportFactoryParams,
        socket::{SockOpt, UdpSocket},
    },
};
use nix::sys::socket::{setsockopt, sockopt};

use super::send::Sender;

/// Receive and send buffer asked for. Without privileges the system grants at most `net.core.rmem_max`.
const BUFFER: usize = 7 << 20;

/// Pause after a receive error, so that a lasting one does not spin.
const ERROR_PAUSE: Duration = Duration::from_millis(200);

/// Binds to this address.
pub(crate) fn bind(address: SocketAddr) -> io::Result<Bound> {
    bind_with(address, address.is_ipv6().then_some(true))
}

/// Binds to any address and a port the system chooses, for IPv4 and, where there is any, IPv6.
pub(crate) fn bind_any() -> io::Result<Bound> {
    bind_with((Ipv6Addr::UNSPECIFIED, 0).into(), Some(false))
        .or_else(|_| bind_with((std::net::Ipv4Addr::UNSPECIFIED, 0).into(), None))
}

fn bind_with(address: SocketAddr, only_v6: Option<bool>) -> io::Result<Bound> {
    let options =
        SockOpt { fwmark: None, recv_buffer_size: Some(BUFFER), send_buffer_size: Some(BUFFER), only_v6 };
    let socket = UdpSocket::bind(address, options)?;
    // The forced form passes the system's limit, with privileges. What is missing costs speed only.
    let _ = setsockopt(socket.socket(), sockopt::RcvBufForce, &BUFFER);
    let _ = setsockopt(socket.socket(), sockopt::SndBufForce, &BUFFER);
    if let Err(error) = socket.enable_udp_gro() {
        tracing::debug!(%error, "no UDP receive offload");
    }
    Ok(Bound(Some(socket)))
}

/// A bound socket that waits for its device.
pub(crate) struct Bound(Option<UdpSocket>);

impl Bound {
    /// The address it is bound to.
    pub(crate) fn local_address(&self) -> io::Result<SocketAddr> {
        self.0.as_ref().ok_or(io::ErrorKind::NotConnected)?.local_addr()
    }
}

impl UdpTransportFactory for Bound {
    type Send = Sender;
    type Recv = Steady;

    async fn bind(&mut self, _: &UdpTransportFactoryParams) -> io::Result<(Sender, Steady)> {
        let socket = self.0.take().ok_or_else(|| io::Error::other("the socket is already in use"))?;
        Ok((Sender::new(socket.clone()), Steady(socket)))
    }
}

/// The receiving side, which outlives errors.
pub(crate) struct Steady(UdpSocket);

impl UdpRecv for Steady {
    type RecvManyBuf = <UdpSocket as UdpRecv>::RecvManyBuf;

    async fn recv_from(&mut self, pool: &mut PacketBufPool) -> io::Result<(Packet, SocketAddr)> {
        loop {
            match self.0.recv_from(pool).await {
                Ok(received) => return Ok(received),
                Err(error) => pause(&error).await,
            }
        }
    }

    async fn recv_many_from(
        &mut self,
        buffer: &mut Self::RecvManyBuf,
        pool: &mut PacketBufPool,
        packets: &mut Vec<(Packet, SocketAddr)>,
    ) -> io::Result<()> {
        if let Err(error) = self.0.recv_many_from(buffer, pool, packets).await {
            pause(&error).await;
        }
        Ok(())
    }
}

async fn pause(error: &io::Error) {
    tracing::warn!(%error, "cannot receive WireGuard datagrams, trying again");
    tokio::time::sleep(ERROR_PAUSE).await;
}
