use proptest::prelude::*;
use smoltcp::wire::{IpProtocol, Ipv4Packet, TcpPacket, UdpPacket};

use super::*;

const OWN: Ipv4Addr = Ipv4Addr::new(100, 90, 0, 1);
const SITE: Ipv4Addr = Ipv4Addr::new(100, 90, 1, 9);
/// The only port at which an answer is waited for.
const OPEN: u16 = 40_000;
const FIN: u8 = 0x01;
const RST: u8 = 0x04;

/// A packet from the site to this address.
fn packet(protocol: u8, to: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; 20];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&u16::try_from(20 + payload.len()).unwrap().to_be_bytes());
    packet[6] = 0x40;
    packet[8..10].copy_from_slice(&[64, protocol]);
    packet[12..16].copy_from_slice(&SITE.octets());
    packet[16..20].copy_from_slice(&to.octets());
    packet.extend_from_slice(payload);
    packet
}

fn tcp(flags: u8) -> Vec<u8> {
    let mut segment = [0; 20];
    segment[..4].copy_from_slice(&[0x1f, 0x90, 0, 22]);
    segment[12..14].copy_from_slice(&[0x50, flags]);
    packet(TCP, OWN, &segment)
}

fn udp(port: u16) -> Vec<u8> {
    let [high, low] = port.to_be_bytes();
    packet(UDP, OWN, &[0x1f, 0x90, high, low, 0, 12, 0, 0, 1, 2, 3, 4])
}

fn icmp(kind: u8) -> Vec<u8> {
    packet(ICMP, OWN, &[kind, 0, 0, 0, 0, 1, 0, 1])
}

/// An error about a packet from one address to another.
fn error(kind: u8, code: u8, from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    let mut quoted = packet(UDP, to, &[0x9c, 0x40, 0, 7, 0, 12, 0, 0]);
    quoted[12..16].copy_from_slice(&from.octets());
    packet(ICMP, OWN, &[&[kind, code, 0, 0, 0, 0, 5, 0], &quoted[..]].concat())
}

fn changed(mut packet: Vec<u8>, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    change(&mut packet);
    packet
}

fn admitted(packet: &[u8]) -> bool {
    admits(packet, OWN, |port| port == OPEN)
}

#[test]
fn only_what_the_node_asked_for_gets_in() {
    let elsewhere = Ipv4Addr::new(192, 0, 2, 1);
    let with_option = |packet: Vec<u8>| {
        changed(packet, |bytes| {
            bytes[0] = 0x46;
            // A strict source route that is at its end.
            let option = [0x89, 3, 4, 0];
            bytes.splice(20..20, option);
        })
    };
    let cases: [(&str, Vec<u8>, bool); 41] = [
        ("an answer to SYN", tcp(SYN | ACK), true),
        ("data", tcp(ACK), true),
        ("the end of a stream", tcp(FIN | ACK), true),
        ("a reset", tcp(RST), true),
        ("a reset with an acknowledgement", tcp(RST | ACK), true),
        ("no flags", tcp(0), true),
        ("SYN", tcp(SYN), false),
        ("SYN and congestion flags", tcp(SYN | 0xc0), false),
        ("SYN and FIN", tcp(SYN | FIN), false),
        ("SYN and RST", tcp(SYN | RST), false),
        ("TCP to another host", changed(tcp(ACK), |bytes| bytes[19] = 2), false),
        ("TCP cut before its flags", changed(tcp(ACK), |bytes| bytes.truncate(33)), false),
        ("TCP cut within its header", changed(tcp(ACK), |bytes| bytes.truncate(39)), false),
        ("TCP with IP options", with_option(tcp(ACK)), false),
        ("SYN with IP options", with_option(tcp(SYN)), false),
        ("a probe", udp(PROBE_PORT), true),
        ("an answer", udp(OPEN), true),
        ("a question to the node's DNS", udp(53), false),
        ("UDP to the next port", udp(OPEN + 1), false),
        ("UDP to port 0", udp(0), false),
        ("a probe to another host", changed(udp(PROBE_PORT), |bytes| bytes[16] = 10), false),
        ("a probe to loopback", packet(UDP, Ipv4Addr::LOCALHOST, &udp(PROBE_PORT)[20..]), false),
        ("a probe to everybody", packet(UDP, Ipv4Addr::BROADCAST, &udp(PROBE_PORT)[20..]), false),
        ("UDP cut within its header", changed(udp(OPEN), |bytes| bytes.truncate(27)), false),
        ("a first fragment", changed(udp(OPEN), |bytes| bytes[6] = 0x20), false),
        ("a later fragment", changed(udp(OPEN), |bytes| bytes[7] = 1), false),
        ("a fragment far behind", changed(udp(OPEN), |bytes| bytes[6] = 0x10), false),
        ("a ping", icmp(ECHO_REQUEST), true),
        ("the answer to a ping", icmp(ECHO_REPLY), true),
        ("a redirect", icmp(5), false),
        ("a router", icmp(9), false),
        ("a question for the time", icmp(13), false),
        ("port unreachable", error(UNREACHABLE, 3, OWN, SITE), true),
        ("packet too big", error(UNREACHABLE, 4, OWN, SITE), true),
        ("an error about the host's other address", error(UNREACHABLE, 4, elsewhere, SITE), false),
        ("an error about another host", error(UNREACHABLE, 4, OWN, elsewhere), false),
        ("an error that quotes nothing", icmp(UNREACHABLE), false),
        ("a redirect that quotes", error(5, 0, OWN, SITE), false),
        ("IPv6", changed(tcp(ACK), |bytes| bytes[0] = 0x60), false),
        ("another protocol", packet(47, OWN, &[0; 20]), false),
        ("nothing", Vec::new(), false),
    ];
    for (name, packet, expected) in cases {
        assert_eq!(admitted(&packet), expected, "{name}");
    }
}

#[test]
fn a_port_is_open_for_as_long_as_its_flow() {
    let gate = Gate::new(OWN);
    assert!(!gate.passes(&udp(OPEN)));
    let (flow, neighbour) = (gate.open(OPEN), gate.open(OPEN + 1));
    assert!(gate.passes(&udp(OPEN)) && gate.passes(&udp(OPEN + 1)) && !gate.passes(&udp(OPEN + 2)));
    drop(flow);
    assert!(!gate.passes(&udp(OPEN)) && gate.passes(&udp(OPEN + 1)));
    drop(neighbour);
    for port in [0, 1, 63, 64, u16::MAX] {
        let flow = gate.open(port);
        assert!(gate.passes(&udp(port)), "{port}");
        drop(flow);
        assert!(!gate.passes(&udp(port)), "{port}");
    }
    assert_eq!(gate.refused(), 8);
}

/// What another parser says of a packet that was admitted.
fn is_harmless(bytes: &[u8]) -> bool {
    let Ok(ip) = Ipv4Packet::new_checked(bytes) else {
        // The kernel does not take it either: its length is wrong.
        return bytes.len() < 20 || usize::from(u16::from_be_bytes([bytes[2], bytes[3]])) != bytes.len();
    };
    let for_us = ip.version() == 4 && ip.dst_addr() == OWN && !ip.more_frags() && ip.frag_offset() == 0;
    for_us
        && match ip.next_header() {
            IpProtocol::Tcp => {
                TcpPacket::new_checked(ip.payload()).map_or(true, |tcp| !tcp.syn() || tcp.ack())
            }
            IpProtocol::Udp => UdpPacket::new_checked(ip.payload())
                .map_or(true, |udp| [OPEN, PROBE_PORT].contains(&udp.dst_port())),
            IpProtocol::Icmp => ip.payload().first().is_none_or(|kind| [0, 3, 8].contains(kind)),
            _ => false,
        }
}

proptest! {
    #[test]
    fn no_bytes_cause_a_panic_or_get_in_as_what_they_may_not(
        bytes in prop::collection::vec(any::<u8>(), 0..80),
    ) {
        prop_assert!(!admitted(&bytes) || is_harmless(&bytes));
    }

    /// Bytes that are a packet for us at first sight, so that most of them are looked at to the end.
    #[test]
    fn whatever_gets_in_is_harmless(
        protocol in prop::sample::select(vec![ICMP, TCP, UDP]),
        payload in prop::collection::vec(any::<u8>(), 0..60),
        port in prop::sample::select(vec![OPEN, PROBE_PORT, 53]),
        flip in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
    ) {
        let mut bytes = packet(protocol, OWN, &payload);
        if bytes.len() > 24 {
            bytes[22..24].copy_from_slice(&port.to_be_bytes());
        }
        if let Some((at, bits)) = flip {
            let at = at.index(bytes.len());
            bytes[at] ^= bits;
        }
        prop_assert!(!admitted(&bytes) || is_harmless(&bytes), "{bytes:?}");
    }
}
