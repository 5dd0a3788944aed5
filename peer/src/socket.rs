//! TCP sockets between nodes.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::{TcpSocket, TcpStream},
    time::timeout,
};

/// How long a connection may take to be made. Peers are a few round trips away; a SYN that was lost is sent
/// again by the next attempt.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// When an idle connection is tried, how often, and when unacknowledged bytes end it: probes notice a dead peer
/// long before, this is for the side that is probed.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(5);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(2);
const UNACKNOWLEDGED: Duration = Duration::from_secs(10);

/// Bytes that the kernel takes ahead of the network: more would only stand in the way of probes.
const NOT_SENT_LOW_WATER: u32 = 128 * 1024;

pub(crate) async fn connect(to: SocketAddr, own: SocketAddr) -> io::Result<TcpStream> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(from) = source(to.ip(), own.ip()) {
        socket.bind(SocketAddr::new(from, 0))?;
    }
    let stream = timeout(CONNECT_TIMEOUT, socket.connect(to))
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no answer to the connection attempt"))??;
    tune(&stream)?;
    Ok(stream)
}

/// Several nodes on one host have loopback addresses of their own and are told apart by them; elsewhere the
/// routing table knows best.
fn source(to: IpAddr, own: IpAddr) -> Option<IpAddr> {
    (to.is_loopback() && own.is_loopback() && to.is_ipv4() == own.is_ipv4()).then_some(own)
}

pub(crate) fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_AFTER).with_interval(KEEPALIVE_EVERY);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
    socket.set_tcp_notsent_lowat(NOT_SENT_LOW_WATER)
}

/// Moves a socket to the runtime that this is called on, so that its wake-ups come to where it is used.
pub(crate) fn adopt(stream: &mut TcpStream) -> io::Result<()> {
    let own = TcpStream::from_std(SockRef::from(&*stream).try_clone()?.into())?;
    *stream = own;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_addresses_are_their_own_source() {
        let ip = |s: &str| s.parse::<IpAddr>().unwrap();
        assert_eq!(source(ip("127.0.0.2"), ip("127.0.0.3")), Some(ip("127.0.0.3")));
        assert_eq!(source(ip("10.0.0.2"), ip("127.0.0.3")), None);
        assert_eq!(source(ip("127.0.0.2"), ip("0.0.0.0")), None);
        assert_eq!(source(ip("::1"), ip("127.0.0.3")), None);
    }
}
