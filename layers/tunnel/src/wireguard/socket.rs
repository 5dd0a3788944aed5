//! The UDP socket under a userspace WireGuard device.
//!
//! It is bound before the device is made, so that a port in use is a clear error at start, and with a large receive
//! buffer: without it, bursts are lost, which costs TCP inside the tunnel most of its throughput (measured: five
//! times). A receive error is survived: it must not end the device for a passing trouble of the network.

use std::{
    collections::VecDeque,
    io,
    net::{Ipv6Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use gotatun::{
    packet::{Packet, PacketBufPool},
    udp::{
        UdpRecv, UdpTransportFactory, UdpTransportFactoryParams,
        socket::{SockOpt, UdpSocket},
    },
};
use nix::sys::socket::{setsockopt, sockopt};
use parking_lot::Mutex;

use super::send::Sender;

/// Receive and send buffer asked for. Without privileges the system grants at most `net.core.rmem_max`.
const BUFFER: usize = 7 << 20;

/// Type and length of a cookie reply.
const COOKIE_REPLY_TYPE: [u8; 4] = [3, 0, 0, 0];
const COOKIE_REPLY_LENGTH: usize = 64;

/// Most requests for proof that are remembered: a site has few nodes.
const PROOFS_MAX: usize = 16;

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
    Ok(Bound { socket: Some(socket), proofs: Proofs::default() })
}

/// A bound socket that waits for its device.
pub(crate) struct Bound {
    socket: Option<UdpSocket>,
    proofs: Proofs,
}

impl Bound {
    /// The address it is bound to.
    pub(crate) fn local_address(&self) -> io::Result<SocketAddr> {
        self.socket.as_ref().ok_or(io::ErrorKind::NotConnected)?.local_addr()
    }

    /// Who asks for proof of this end's address, from when the device runs.
    pub(crate) fn proofs(&self) -> Proofs {
        self.proofs.clone()
    }
}

/// Requests for proof of this end's address: WireGuard's cookie replies (whitepaper §5.4.7). Whoever sends one is there,
/// and has more handshakes from this address than it wants to answer without.
#[derive(Clone, Debug, Default)]
pub(crate) struct Proofs(Arc<Mutex<VecDeque<(SocketAddr, Instant)>>>);

impl Proofs {
    /// Notes a request, if it is one. Whether it is genuine only the device can tell.
    fn note(&self, datagram: &[u8], from: SocketAddr) {
        if datagram.len() != COOKIE_REPLY_LENGTH || !datagram.starts_with(&COOKIE_REPLY_TYPE) {
            return;
        }
        let mut noted = self.0.lock();
        if noted.len() >= PROOFS_MAX {
            noted.pop_front();
        }
        noted.push_back((from, Instant::now()));
    }

    /// Whether `end` has asked since then.
    pub(crate) fn asked_since(&self, end: SocketAddr, since: Instant) -> bool {
        let end = (end.ip().to_canonical(), end.port());
        self.0.lock().iter().any(|(from, at)| (from.ip().to_canonical(), from.port()) == end && *at >= since)
    }
}

impl UdpTransportFactory for Bound {
    type Send = Sender;
    type Recv = Steady;

    async fn bind(&mut self, _: &UdpTransportFactoryParams) -> io::Result<(Sender, Steady)> {
        let socket = self.socket.take().ok_or_else(|| io::Error::other("the socket is already in use"))?;
        Ok((Sender::new(socket.clone()), Steady { socket, proofs: self.proofs.clone() }))
    }
}

/// The receiving side, which outlives errors.
pub(crate) struct Steady {
    socket: UdpSocket,
    proofs: Proofs,
}

impl UdpRecv for Steady {
    type RecvManyBuf = <UdpSocket as UdpRecv>::RecvManyBuf;

    async fn recv_from(&mut self, pool: &mut PacketBufPool) -> io::Result<(Packet, SocketAddr)> {
        loop {
            match self.socket.recv_from(pool).await {
                Ok((packet, from)) => {
                    self.proofs.note(&packet, from);
                    return Ok((packet, from));
                }
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
        let before = packets.len();
        match self.socket.recv_many_from(buffer, pool, packets).await {
            Ok(()) => packets[before..].iter().for_each(|(packet, from)| self.proofs.note(packet, *from)),
            Err(error) => pause(&error).await,
        }
        Ok(())
    }
}

async fn pause(error: &io::Error) {
    tracing::warn!(%error, "cannot receive WireGuard datagrams, trying again");
    tokio::time::sleep(ERROR_PAUSE).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_asks_for_proof_is_remembered_for_a_while() {
        let (proofs, began) = (Proofs::default(), Instant::now());
        let end = |port| SocketAddr::from(([192, 0, 2, 1], port));
        let mut reply = [0; COOKIE_REPLY_LENGTH];
        reply[0] = 3;
        let cases: [(&[u8], bool); 4] =
            [(&reply[..63], false), (&[4; COOKIE_REPLY_LENGTH], false), (&[], false), (&reply, true)];
        for (datagram, expected) in cases {
            proofs.note(datagram, SocketAddr::from((Ipv6Addr::from(0xffff_c000_0201), 7)));
            assert_eq!(proofs.asked_since(end(7), began), expected, "{datagram:?}");
        }
        assert!(!proofs.asked_since(end(8), began));
        assert!(!proofs.asked_since(end(7), Instant::now() + Duration::from_secs(1)));
        for port in 0..100 {
            proofs.note(&reply, end(1000 + port));
        }
        assert!(!proofs.asked_since(end(7), began) && proofs.asked_since(end(1099), began));
        assert_eq!(proofs.0.lock().len(), PROOFS_MAX);
    }
}
