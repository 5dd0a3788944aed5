//! Opening flows to the other end.

use std::{io, net::SocketAddrV4, sync::atomic::Ordering};

use super::{FlowStream, Stack, UdpFlow, tcp::TcpFlow};
use crate::packet::FlowKey;

/// The dynamic ports of RFC 6335.
const FIRST_PORT: u16 = 49152;
const PORTS: u16 = u16::MAX - FIRST_PORT + 1;
/// Ports tried for a flow. They are taken in turn, so that one is used again as late as possible, and those in use
/// are few and scattered: at most a quarter of them.
const TRIES: usize = 64;

impl Stack {
    /// Opens a TCP connection. `WouldBlock` = there is no room for another flow.
    pub(crate) async fn connect(&self, remote: SocketAddrV4) -> io::Result<FlowStream> {
        let stream = self.with_port(remote, |key| TcpFlow::connect(self, key))?;
        stream.established().await?;
        Ok(stream)
    }

    /// Opens a UDP session. `WouldBlock` = there is no room for another one.
    pub(crate) fn connect_udp(&self, remote: SocketAddrV4) -> io::Result<UdpFlow> {
        self.with_port(remote, |key| self.udp_session(key))
    }

    fn with_port<T>(&self, remote: SocketAddrV4, open: impl Fn(FlowKey) -> Option<T>) -> io::Result<T> {
        if self.0.closed.is_cancelled() {
            return Err(io::ErrorKind::NotConnected.into());
        }
        (0..TRIES)
            .find_map(|_| {
                let port = FIRST_PORT + self.0.dialed.fetch_add(1, Ordering::Relaxed) % PORTS;
                open(FlowKey { local: SocketAddrV4::new(self.0.address, port), remote })
            })
            .ok_or_else(|| io::ErrorKind::WouldBlock.into())
    }
}
