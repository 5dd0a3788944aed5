//! A site that sends into its tunnel what it likes.

use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use bytes::BytesMut;
use gotatun::{
    device::{Device, DeviceBuilder, Peer},
    packet::{Ip, Packet, PacketBufPool},
    tun::{IpRecv, IpSend, MtuWatcher},
    udp::socket::UdpSocketFactory,
    x25519::{PublicKey, StaticSecret},
};
use pangolin_tunnel::{DEFAULT_MTU, SecretKey};
use smoltcp::{
    phy::ChecksumCapabilities,
    wire::{
        Icmpv4Packet, Icmpv4Repr, IpAddress, IpProtocol, Ipv4Packet, Ipv4Repr, TcpControl, TcpPacket,
        TcpRepr, TcpSeqNumber, UdpPacket, UdpRepr,
    },
};
use tokio::sync::mpsc;

use crate::ends::Node;

const HEADER: usize = 20;
/// Patience for an answer that has to come.
const SOON: Duration = Duration::from_secs(10);
/// Packets on their way.
const QUEUE: usize = 64;

/// The site. Its packets go through WireGuard to one node.
pub(crate) struct Hostile {
    pub(crate) address: Ipv4Addr,
    packets: mpsc::Sender<BytesMut>,
    arrived: mpsc::Receiver<Vec<u8>>,
    device: Device<(UdpSocketFactory, Arriving, Leaving)>,
}

impl Hostile {
    /// Starts it with this address and key, and a tunnel to the node.
    pub(crate) async fn start(address: Ipv4Addr, key: &SecretKey, node: &Node) -> Self {
        let (packets, leaving) = mpsc::channel(QUEUE);
        let (arriving, arrived) = mpsc::channel(QUEUE);
        let mut peer =
            Peer::new(PublicKey::from(node.key.public().0)).with_allowed_ip("0.0.0.0/0".parse().unwrap());
        peer.endpoint = Some(node.layer.listen_address());
        let device = DeviceBuilder::new()
            .with_default_udp()
            .with_ip_pair(Arriving(arriving), Leaving(leaving))
            .with_private_key(StaticSecret::from(*key.to_bytes()))
            .with_peer(peer)
            .build()
            .await
            .unwrap();
        Self { address, packets, arrived, device }
    }

    pub(crate) async fn send(&self, packet: BytesMut) {
        self.packets.send(packet).await.unwrap();
    }

    /// Pings the node, and gives what arrives before its answer: what was sent before has been dealt with by then.
    pub(crate) async fn settled(&mut self, node: Ipv4Addr, sequence: u16) -> Vec<Vec<u8>> {
        self.send(ping(self.address, node, sequence)).await;
        let mut before = Vec::new();
        loop {
            let packet = tokio::time::timeout(SOON, self.arrived.recv()).await.expect("no pong").unwrap();
            // An echo reply with our sequence number.
            if packet[9] == 1 && packet[HEADER] == 0 && packet[HEADER + 6..][..2] == sequence.to_be_bytes() {
                return before;
            }
            before.push(packet);
        }
    }

    pub(crate) async fn stop(self) {
        self.device.stop().await;
    }
}

fn headed(from: Ipv4Addr, to: Ipv4Addr, next_header: IpProtocol, payload_len: usize) -> BytesMut {
    let mut bytes = BytesMut::zeroed(HEADER + payload_len);
    let header = Ipv4Repr { src_addr: from, dst_addr: to, next_header, payload_len, hop_limit: 64 };
    header.emit(&mut Ipv4Packet::new_unchecked(&mut bytes[..]), &ChecksumCapabilities::default());
    bytes
}

/// A datagram.
pub(crate) fn datagram(from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> BytesMut {
    let repr = UdpRepr { src_port: from.port(), dst_port: to.port() };
    let mut bytes = headed(*from.ip(), *to.ip(), IpProtocol::Udp, 8 + payload.len());
    repr.emit(
        &mut UdpPacket::new_unchecked(&mut bytes[HEADER..]),
        &IpAddress::Ipv4(*from.ip()),
        &IpAddress::Ipv4(*to.ip()),
        payload.len(),
        |buffer| buffer.copy_from_slice(payload),
        &ChecksumCapabilities::default(),
    );
    bytes
}

/// A segment that opens a connection.
pub(crate) fn opening(from: SocketAddrV4, to: SocketAddrV4) -> BytesMut {
    let repr = TcpRepr {
        src_port: from.port(),
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
    let mut bytes = headed(*from.ip(), *to.ip(), IpProtocol::Tcp, repr.buffer_len());
    repr.emit(
        &mut TcpPacket::new_unchecked(&mut bytes[HEADER..]),
        &IpAddress::Ipv4(*from.ip()),
        &IpAddress::Ipv4(*to.ip()),
        &ChecksumCapabilities::default(),
    );
    bytes
}

fn ping(from: Ipv4Addr, to: Ipv4Addr, seq_no: u16) -> BytesMut {
    let repr = Icmpv4Repr::EchoRequest { ident: 7, seq_no, data: b"settled?" };
    let mut bytes = headed(from, to, IpProtocol::Icmp, repr.buffer_len());
    repr.emit(&mut Icmpv4Packet::new_unchecked(&mut bytes[HEADER..]), &ChecksumCapabilities::default());
    bytes
}

/// What comes out of the tunnel.
struct Arriving(mpsc::Sender<Vec<u8>>);

impl IpSend for Arriving {
    async fn send(&mut self, packet: Packet<Ip>) -> io::Result<()> {
        self.0.send(packet.into_bytes().to_vec()).await.map_err(io::Error::other)
    }
}

/// What goes into it.
struct Leaving(mpsc::Receiver<BytesMut>);

impl IpRecv for Leaving {
    async fn recv<'a>(
        &'a mut self,
        _: &mut PacketBufPool,
    ) -> io::Result<impl Iterator<Item = Packet<Ip>> + Send + 'a> {
        let bytes = self.0.recv().await.ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(Packet::from_bytes(bytes).try_into_ip().ok().into_iter())
    }

    fn mtu(&self) -> MtuWatcher {
        MtuWatcher::new(DEFAULT_MTU)
    }
}
