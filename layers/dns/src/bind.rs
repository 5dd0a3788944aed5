//! Takes the addresses: errors here are the operator's to solve, so they say which address, which protocol and what
//! to do.

use std::{io, net::SocketAddr, time::Duration};

use socket2::{Domain, Socket, Type};

use crate::{DnsConfig, DnsError, Protocol};

/// Attempts to find a port that is free for both protocols when the system chooses it.
const PORT_ATTEMPTS: usize = 32;
/// Datagrams that may wait in the kernel, in bytes; the system may grant less.
const UDP_BUFFER: usize = 4 << 20;
/// Longest wait in a receive call: threads are woken for shutdown, this is the net below.
const RECEIVE_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest wait for room in a send queue; what does not go out then is lost, as datagrams may be.
const SEND_TIMEOUT: Duration = Duration::from_millis(500);
/// Connections that may wait to be accepted.
const TCP_BACKLOG: i32 = 512;

/// The sockets of one address.
pub(crate) struct Listening {
    pub(crate) address: SocketAddr,
    pub(crate) udp: Vec<Socket>,
    pub(crate) tcp: std::net::TcpListener,
}

/// Takes every address of the config.
pub(crate) fn bind_all(config: &DnsConfig) -> Result<Vec<Listening>, DnsError> {
    config.listen.iter().map(|address| bind(*address, config.udp_threads)).collect()
}

fn bind(address: SocketAddr, udp_threads: usize) -> Result<Listening, DnsError> {
    let mut attempt = 1;
    loop {
        match bind_once(address, udp_threads) {
            Err(DnsError::Bind { source, .. })
                if address.port() == 0
                    && source.kind() == io::ErrorKind::AddrInUse
                    && attempt < PORT_ATTEMPTS =>
            {
                attempt += 1;
            }
            result => return result,
        }
    }
}

fn bind_once(address: SocketAddr, udp_threads: usize) -> Result<Listening, DnsError> {
    // TCP first: its port belongs to one listener alone, while UDP sockets share theirs among threads and would share
    // it with a second server of the same user as well.
    let error = |address, protocol| move |source| bind_error(address, protocol, source);
    let tcp = tcp(address).map_err(error(address, Protocol::Tcp))?;
    let address = tcp.local_addr().map_err(error(address, Protocol::Tcp))?;
    let udp = (0..udp_threads).map(|_| udp(address)).collect::<io::Result<Vec<_>>>();
    Ok(Listening { address, udp: udp.map_err(error(address, Protocol::Udp))?, tcp })
}

fn tcp(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Connections of an earlier run that linger do not stand in the way; a live listener does.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(TCP_BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn udp(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_port(true)?;
    // The default serves as well, with more loss in a burst.
    let _ = socket.set_recv_buffer_size(UDP_BUFFER);
    let _ = socket.set_send_buffer_size(UDP_BUFFER);
    socket.set_read_timeout(Some(RECEIVE_TIMEOUT))?;
    socket.set_write_timeout(Some(SEND_TIMEOUT))?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn bind_error(address: SocketAddr, protocol: Protocol, source: io::Error) -> DnsError {
    let hint = match source.kind() {
        io::ErrorKind::AddrInUse if address.port() == 53 => {
            "; another DNS server has it (see `ss -lnp 'sport = :53'`). systemd-resolved holds 127.0.0.53 and thereby \
             stands in the way of 0.0.0.0 and [::]: name the node's own addresses instead"
        }
        io::ErrorKind::AddrInUse => "; another program has it (see `ss -lntup`)",
        io::ErrorKind::PermissionDenied if address.port() < 1024 => {
            "; ports below 1024 need CAP_NET_BIND_SERVICE (systemd: AmbientCapabilities=CAP_NET_BIND_SERVICE)"
        }
        io::ErrorKind::AddrNotAvailable => "; no interface of this host has the address (see `ip address`)",
        _ => "",
    };
    DnsError::Bind { address, protocol, hint: hint.to_owned(), source }
}
