use std::{
    net::{SocketAddr, SocketAddrV4, TcpListener, UdpSocket},
    time::Duration,
};

use bytes::BytesMut;
use gotatun::{
    packet::{Packet, PacketBufPool},
    tun::{IpRecv, IpSend},
};
use smoltcp::{
    phy::ChecksumCapabilities,
    wire::{
        Icmpv4Packet, Icmpv4Repr, IpAddress, IpProtocol, Ipv4Packet, Ipv4Repr, TcpControl, TcpPacket,
        TcpRepr, TcpSeqNumber,
    },
};

use super::*;
use crate::{
    packet::udp,
    wireguard::{
        namespace::inside_namespace,
        tun::{FromTun, ToTun, ends, make},
    },
};

const OWN: Ipv4Addr = Ipv4Addr::new(100, 90, 0, 1);
const SITE: Ipv4Addr = Ipv4Addr::new(100, 90, 1, 9);
const NAME: &str = "pgf-1";
const SOON: Duration = Duration::from_secs(10);

#[test]
fn rules_are_written_for_plain_names_only() {
    for name in ["pangolin0", "wg-pangolin.1", "pg_1"] {
        assert!(is_plain(name), "{name}");
    }
    for name in ["", "a b", "a\"b", "a;b", "a{b", "tün", "a\nb"] {
        assert!(!is_plain(name), "{name}");
        assert!(Fence::raise(name, OWN).is_err(), "{name}");
    }
}

/// What the site sends, as it comes out of an interface.
struct Site {
    to: ToTun,
    from: FromTun,
    pool: PacketBufPool,
}

impl Site {
    async fn send(&mut self, packet: BytesMut) {
        self.to.send(Packet::from_bytes(packet).try_into_ip().unwrap()).await.unwrap();
    }

    /// What arrives before the answer to a ping: all that was sent before has been dealt with by then.
    async fn settled(&mut self, seq_no: u16) -> Vec<Vec<u8>> {
        let repr = Icmpv4Repr::EchoRequest { ident: 7, seq_no, data: b"settled?" };
        let mut ping = headed(OWN, IpProtocol::Icmp, repr.buffer_len());
        repr.emit(&mut Icmpv4Packet::new_unchecked(&mut ping[20..]), &ChecksumCapabilities::default());
        self.send(ping).await;
        let mut before = Vec::new();
        loop {
            let arrived = tokio::time::timeout(SOON, self.from.recv(&mut self.pool)).await.expect("no pong");
            for packet in arrived.unwrap() {
                let packet = packet.into_bytes().to_vec();
                if packet[0] >> 4 == 4
                    && packet[9] == 1
                    && packet[20] == 0
                    && packet[26..28] == seq_no.to_be_bytes()
                {
                    return before;
                }
                // The host announces itself by IPv6 until it is told not to.
                if packet[0] >> 4 == 4 {
                    before.push(packet);
                }
            }
        }
    }
}

fn headed(to: Ipv4Addr, next_header: IpProtocol, payload_len: usize) -> BytesMut {
    let mut bytes = BytesMut::zeroed(20 + payload_len);
    let header = Ipv4Repr { src_addr: SITE, dst_addr: to, next_header, payload_len, hop_limit: 64 };
    header.emit(&mut Ipv4Packet::new_unchecked(&mut bytes[..]), &ChecksumCapabilities::default());
    bytes
}

fn opening(to: SocketAddrV4) -> BytesMut {
    let repr = TcpRepr {
        src_port: 5000,
        dst_port: to.port(),
        control: TcpControl::Syn,
        seq_number: TcpSeqNumber(1000),
        ack_number: None,
        window_len: 1000,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None, None, None],
        timestamp: None,
        payload: &[],
    };
    let mut bytes = headed(*to.ip(), IpProtocol::Tcp, repr.buffer_len());
    repr.emit(
        &mut TcpPacket::new_unchecked(&mut bytes[20..]),
        &IpAddress::Ipv4(SITE),
        &IpAddress::Ipv4(*to.ip()),
        &ChecksumCapabilities::default(),
    );
    bytes
}

/// The rules judge packets by the interface that they come from, whatever is behind it: here nothing but this test.
#[tokio::test]
async fn a_fence_lets_in_what_was_asked_for_and_nothing_else() {
    if !inside_namespace("wireguard::fence::tests::a_fence_lets_in_what_was_asked_for_and_nothing_else") {
        return;
    }
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
    let device = make(NAME, OWN, Ipv4Addr::new(255, 255, 0, 0), 1280).unwrap();
    let (to, from) = ends(device, 1280).unwrap();
    let mut site = Site { to, from, pool: PacketBufPool::new(16) };
    let fence = match Fence::raise(NAME, OWN) {
        Ok(fence) => fence,
        Err(error) => return skipped(&error),
    };

    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    let probes = UdpSocket::bind((OWN, PROBE_PORT)).unwrap();
    for blocking in [&socket, &probes] {
        blocking.set_nonblocking(true).unwrap();
    }
    listener.set_nonblocking(true).unwrap();
    let here = SocketAddrV4::new(SITE, 5000);
    let at = |address: io::Result<SocketAddr>| SocketAddrV4::new(OWN, address.unwrap().port());
    let (tcp, other) = (at(listener.local_addr()), at(socket.local_addr()));
    let neighbour = Ipv4Addr::new(100, 90, 1, 10);

    site.send(opening(tcp)).await;
    site.send(udp(here, other, b"let me in")).await;
    site.send(opening(SocketAddrV4::new(neighbour, 7))).await;
    site.send(udp(here, SocketAddrV4::new(neighbour, 7), b"pass me on")).await;
    assert_eq!(site.settled(1).await, Vec::<Vec<u8>>::new(), "there are answers, or something was forwarded");
    assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    assert_eq!(socket.recv(&mut [0; 64]).unwrap_err().kind(), io::ErrorKind::WouldBlock);

    site.send(udp(here, SocketAddrV4::new(OWN, PROBE_PORT), b"probe")).await;
    assert_eq!(site.settled(2).await, Vec::<Vec<u8>>::new());
    assert_eq!(probes.recv(&mut [0; 64]).unwrap(), 5);

    // A datagram that the node sends opens the way for its answer.
    socket.send_to(b"question", here).unwrap();
    assert_eq!(site.settled(3).await.len(), 1, "the question");
    site.send(udp(here, other, b"answer")).await;
    assert_eq!(site.settled(4).await, Vec::<Vec<u8>>::new());
    assert_eq!(socket.recv(&mut [0; 64]).unwrap(), 6);

    // Raised again, as by a node that was killed, and lowered: then everything is as the host has it.
    drop(Fence::raise(NAME, OWN).unwrap());
    fence.lower().unwrap();
    site.send(opening(tcp)).await;
    assert_eq!(site.settled(5).await.len(), 1, "the listener answers");
}

#[expect(clippy::print_stdout, reason = "a test says what it skips")]
fn skipped(error: &io::Error) {
    println!("skipped: no rules of nftables can be had here ({error})");
}
