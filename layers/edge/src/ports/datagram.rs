//! The socket of a UDP port, which answers from the address that a datagram came to: where it is bound to every address
//! of the host, the system would choose another one, which clients and their firewalls do not know.

use std::{
    io::{self, IoSlice, IoSliceMut},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
    os::fd::AsRawFd as _,
};

use nix::{
    libc,
    sys::socket::{
        ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, SockaddrIn6, SockaddrStorage, recvmsg,
        sendmsg, setsockopt, sockopt,
    },
};
use tokio::{io::Interest, net::UdpSocket};

/// Between whom a datagram went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Ends {
    /// Who sent it.
    pub(super) client: SocketAddr,
    /// Where it came to; none = the system did not say.
    local: Option<Local>,
}

impl Ends {
    /// The address of this host that a datagram to this port came to; no address if the system did not say.
    pub(super) fn server(&self, port: u16) -> SocketAddr {
        let unknown = match self.client.ip() {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        SocketAddr::new(self.local.map_or(unknown, |local| local.address), port)
    }
}

/// An address of this host, and the interface that it was reached through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Local {
    address: IpAddr,
    /// Counts for link-local addresses, which every interface has.
    interface: u32,
}

/// A socket that knows where datagrams came to (RFC 3542 §6).
pub(super) struct PortSocket(UdpSocket);

impl PortSocket {
    /// Has the system say it.
    pub(super) fn new(socket: UdpSocket) -> io::Result<Self> {
        if socket.local_addr()?.is_ipv4() {
            setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
        } else {
            setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
        }
        Ok(Self(socket))
    }

    /// The next datagram: its length, and whose it is.
    pub(super) async fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, Ends)> {
        let fd = self.0.as_raw_fd();
        let read = || {
            let mut room = nix::cmsg_space!(libc::in6_pktinfo, libc::in_pktinfo);
            let mut parts = [IoSliceMut::new(buffer)];
            let got = recvmsg::<SockaddrStorage>(fd, &mut parts, Some(&mut room), MsgFlags::empty())?;
            let client = got.address.as_ref().and_then(socket_address);
            let client = client.ok_or_else(|| io::Error::other("a datagram of nobody"))?;
            Ok((got.bytes, Ends { client, local: got.cmsgs()?.find_map(|said| local(&said)) }))
        };
        self.0.async_io(Interest::READABLE, read).await
    }

    /// Sends one back.
    pub(super) async fn answer(&self, datagram: &[u8], ends: Ends) -> io::Result<()> {
        let fd = self.0.as_raw_fd();
        let parts = [IoSlice::new(datagram)];
        let client = SockaddrStorage::from(ends.client);
        let send = |said: &[ControlMessage<'_>]| {
            let sent = sendmsg(fd, &parts, said, MsgFlags::empty(), Some(&client));
            sent.map(drop).map_err(io::Error::from)
        };
        let write = || match ends.local {
            Some(Local { address: IpAddr::V4(address), .. }) => {
                let from = libc::in_addr { s_addr: u32::from_ne_bytes(address.octets()) };
                // By the usual route, whichever way it came.
                let info = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: from, ipi_addr: from };
                send(&[ControlMessage::Ipv4PacketInfo(&info)])
            }
            Some(Local { address: IpAddr::V6(address), interface }) => {
                let interface = if address.is_unicast_link_local() { interface } else { 0 };
                let from = libc::in6_addr { s6_addr: address.octets() };
                let info = libc::in6_pktinfo { ipi6_addr: from, ipi6_ifindex: interface };
                send(&[ControlMessage::Ipv6PacketInfo(&info)])
            }
            None => send(&[]),
        };
        self.0.async_io(Interest::WRITABLE, write).await
    }
}

fn socket_address(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = |address: &SockaddrIn| SocketAddrV4::from(*address).into();
    let v6 = |address: &SockaddrIn6| SocketAddrV6::from(*address).into();
    address.as_sockaddr_in().map(v4).or_else(|| address.as_sockaddr_in6().map(v6))
}

fn local(said: &ControlMessageOwned) -> Option<Local> {
    match said {
        // The address that answers are to come from: of a broadcast, the receiving interface's own.
        ControlMessageOwned::Ipv4PacketInfo(info) => {
            let address = IpAddr::from(info.ipi_spec_dst.s_addr.to_ne_bytes());
            Some(Local { address, interface: u32::try_from(info.ipi_ifindex).unwrap_or_default() })
        }
        ControlMessageOwned::Ipv6PacketInfo(info) => {
            let address = IpAddr::from(info.ipi6_addr.s6_addr);
            // Nobody sends from a group.
            (!address.is_multicast()).then_some(Local { address, interface: info.ipi6_ifindex })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    /// Far longer than anything here takes.
    const PATIENCE: Duration = Duration::from_secs(15);

    async fn bound(address: &str) -> UdpSocket {
        UdpSocket::bind(address).await.expect("a port")
    }

    #[tokio::test]
    #[expect(clippy::print_stdout, reason = "a test that is skipped in part says so")]
    async fn answers_leave_from_the_address_that_the_datagram_came_to() {
        // where the port is bound, where clients are, and what they ask
        let cases = [
            ("0.0.0.0:0", "127.0.0.1:0", &["127.0.0.1", "127.0.0.2", "127.0.0.77"][..]),
            ("127.0.0.3:0", "127.0.0.1:0", &["127.0.0.3"]),
            ("[::]:0", "[::1]:0", &["::1"]),
        ];
        for (at, from, asked) in cases {
            if at.starts_with('[') && UdpSocket::bind("[::1]:0").await.is_err() {
                println!("skipped: there is no IPv6 here");
                continue;
            }
            let port = bound(at).await;
            let number = port.local_addr().expect("an address").port();
            let port = PortSocket::new(port).expect("the system says it");
            let client = bound(from).await;
            let mut seen = Vec::new();
            for address in asked {
                let to = SocketAddr::new(address.parse().expect("an address"), number);
                client.send_to(b"ping", to).await.expect("sent");
                let mut buffer = [0; 100];
                let received = timeout(PATIENCE, port.receive(&mut buffer)).await;
                let (length, ends) = received.expect("it comes").expect("a datagram");
                assert_eq!(&buffer[..length], b"ping");
                assert_eq!(ends.client, client.local_addr().expect("an address"));
                port.answer(b"pong", ends).await.expect("sent");
                let answered = timeout(PATIENCE, client.recv_from(&mut buffer)).await;
                let (length, source) = answered.expect("it comes").expect("a datagram");
                assert_eq!((&buffer[..length], source), (&b"pong"[..], to));
                seen.push(ends);
            }
            seen.dedup();
            assert_eq!(seen.len(), asked.len(), "each is a flow of its own");
        }
    }
}
