//! IP packets inside the tunnel, for the in-process stack: what one is, and the few that are built by hand.
//!
//! Pure. Packets arrive authenticated by WireGuard, but their sender is another organisation's connector: nothing
//! in them is trusted. IPv4 only (tunnel addresses are), no fragments (both ends keep to the MTU), no IP options
//! beyond skipping them. Checksums of arriving packets are not verified: WireGuard's authentication is stronger.

use std::net::{Ipv4Addr, SocketAddrV4};

use bytes::BytesMut;
use smoltcp::{
    phy::ChecksumCapabilities,
    wire::{
        Icmpv4Message, Icmpv4Packet, Icmpv4Repr, IpAddress, IpProtocol, Ipv4Packet, Ipv4Repr, TcpControl,
        TcpPacket, TcpRepr, TcpSeqNumber, UdpPacket, UdpRepr,
    },
};

/// Length of an IPv4 header without options.
const IP_HEADER: usize = 20;
/// IP and UDP headers: what a datagram has less than the MTU.
pub(crate) const UDP_OVERHEAD: usize = IP_HEADER + 8;
/// IP and TCP headers of a segment without options.
const RESET_LEN: usize = IP_HEADER + 20;
const HOP_LIMIT: u8 = 64;

/// The two ends of a flow, seen from this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FlowKey {
    /// Our end.
    pub local: SocketAddrV4,
    /// The other end.
    pub remote: SocketAddrV4,
}

/// What of a TCP segment matters before its flow is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub key: FlowKey,
    /// Opens a connection: SYN without ACK.
    pub opens: bool,
    pub reset: bool,
    sequence: i32,
    acknowledges: Option<i32>,
    /// What it takes up in sequence space: payload, SYN, FIN.
    length: u32,
}

/// What a packet is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Class<'a> {
    Tcp(Segment),
    Udp {
        key: FlowKey,
        payload: &'a [u8],
    },
    /// ICMP echo request.
    Echo {
        from: Ipv4Addr,
        ident: u16,
        sequence: u16,
        data: &'a [u8],
    },
    /// Not for us, or nothing the stack speaks.
    Other,
}

/// Says what the packet is to the host with this address.
pub(crate) fn classify(address: Ipv4Addr, bytes: &[u8]) -> Class<'_> {
    parse(address, bytes).unwrap_or(Class::Other)
}

fn parse(address: Ipv4Addr, bytes: &[u8]) -> Option<Class<'_>> {
    let ip = Ipv4Packet::new_checked(bytes).ok()?;
    let fragment = ip.more_frags() || ip.frag_offset() != 0;
    let from = ip.src_addr();
    let plain_source =
        !(from.is_multicast() || from.is_broadcast() || from.is_unspecified() || from == address);
    if ip.version() != 4
        || usize::from(ip.header_len()) < IP_HEADER
        || fragment
        || ip.dst_addr() != address
        || !plain_source
    {
        return None;
    }
    let key = |local, remote| FlowKey {
        local: SocketAddrV4::new(address, local),
        remote: SocketAddrV4::new(from, remote),
    };
    match ip.next_header() {
        IpProtocol::Tcp => {
            let tcp = TcpPacket::new_checked(ip.payload()).ok()?;
            if tcp.src_port() == 0 || tcp.dst_port() == 0 {
                return None;
            }
            Some(Class::Tcp(Segment {
                key: key(tcp.dst_port(), tcp.src_port()),
                opens: tcp.syn() && !tcp.ack() && !tcp.rst(),
                reset: tcp.rst(),
                sequence: tcp.seq_number().0,
                acknowledges: tcp.ack().then(|| tcp.ack_number().0),
                length: u32::try_from(tcp.segment_len()).ok()?,
            }))
        }
        IpProtocol::Udp => {
            let udp = UdpPacket::new_checked(ip.payload()).ok()?;
            (udp.src_port() != 0 && udp.dst_port() != 0)
                .then(|| Class::Udp { key: key(udp.dst_port(), udp.src_port()), payload: udp.payload() })
        }
        IpProtocol::Icmp => {
            let icmp = Icmpv4Packet::new_checked(ip.payload()).ok()?;
            (icmp.msg_type() == Icmpv4Message::EchoRequest && icmp.msg_code() == 0).then(|| Class::Echo {
                from,
                ident: icmp.echo_ident(),
                sequence: icmp.echo_seq_no(),
                data: icmp.data(),
            })
        }
        _ => None,
    }
}

fn headed(from: Ipv4Addr, to: Ipv4Addr, next_header: IpProtocol, payload_len: usize) -> BytesMut {
    let mut bytes = BytesMut::zeroed(IP_HEADER + payload_len);
    let header = Ipv4Repr { src_addr: from, dst_addr: to, next_header, payload_len, hop_limit: HOP_LIMIT };
    header.emit(&mut Ipv4Packet::new_unchecked(&mut bytes[..]), &ChecksumCapabilities::default());
    bytes
}

/// A UDP datagram. The caller keeps `payload` within the MTU.
pub(crate) fn udp(from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> BytesMut {
    let repr = UdpRepr { src_port: from.port(), dst_port: to.port() };
    let mut bytes = headed(*from.ip(), *to.ip(), IpProtocol::Udp, 8 + payload.len());
    repr.emit(
        &mut UdpPacket::new_unchecked(&mut bytes[IP_HEADER..]),
        &IpAddress::Ipv4(*from.ip()),
        &IpAddress::Ipv4(*to.ip()),
        payload.len(),
        |buffer| buffer.copy_from_slice(payload),
        &ChecksumCapabilities::default(),
    );
    bytes
}

/// The answer to an ICMP echo request.
pub(crate) fn echo_reply(from: Ipv4Addr, to: Ipv4Addr, ident: u16, seq_no: u16, data: &[u8]) -> BytesMut {
    let repr = Icmpv4Repr::EchoReply { ident, seq_no, data };
    let mut bytes = headed(from, to, IpProtocol::Icmp, repr.buffer_len());
    repr.emit(&mut Icmpv4Packet::new_unchecked(&mut bytes[IP_HEADER..]), &ChecksumCapabilities::default());
    bytes
}

/// The reset that answers a segment no connection takes (RFC 9293 section 3.10.7.1); none answers a reset.
pub(crate) fn reset_for(segment: &Segment) -> Option<BytesMut> {
    if segment.reset {
        return None;
    }
    let (seq_number, ack_number) = match segment.acknowledges {
        Some(acknowledged) => (TcpSeqNumber(acknowledged), None),
        None => {
            let end = segment.sequence.wrapping_add_unsigned(segment.length);
            (TcpSeqNumber(0), Some(TcpSeqNumber(end)))
        }
    };
    let (from, to) = (segment.key.local, segment.key.remote);
    let repr = TcpRepr {
        src_port: from.port(),
        dst_port: to.port(),
        control: TcpControl::Rst,
        seq_number,
        ack_number,
        window_len: 0,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None, None, None],
        timestamp: None,
        payload: &[],
    };
    let mut bytes = headed(*from.ip(), *to.ip(), IpProtocol::Tcp, RESET_LEN - IP_HEADER);
    repr.emit(
        &mut TcpPacket::new_unchecked(&mut bytes[IP_HEADER..]),
        &IpAddress::Ipv4(*from.ip()),
        &IpAddress::Ipv4(*to.ip()),
        &ChecksumCapabilities::default(),
    );
    Some(bytes)
}

#[cfg(test)]
mod tests;
