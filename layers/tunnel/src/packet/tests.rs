use proptest::prelude::*;

use super::*;

const HERE: Ipv4Addr = Ipv4Addr::new(100, 90, 0, 1);
const THERE: Ipv4Addr = Ipv4Addr::new(100, 90, 1, 9);

fn here(port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(HERE, port)
}

fn there(port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(THERE, port)
}

fn tcp(control: TcpControl, ack: Option<i32>, payload: &[u8]) -> BytesMut {
    let repr = TcpRepr {
        src_port: 5000,
        dst_port: 80,
        control,
        seq_number: TcpSeqNumber(1000),
        ack_number: ack.map(TcpSeqNumber),
        window_len: 100,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None, None, None],
        timestamp: None,
        payload,
    };
    let mut bytes = headed(THERE, HERE, IpProtocol::Tcp, repr.buffer_len());
    repr.emit(
        &mut TcpPacket::new_unchecked(&mut bytes[IP_HEADER..]),
        &IpAddress::Ipv4(THERE),
        &IpAddress::Ipv4(HERE),
        &ChecksumCapabilities::default(),
    );
    bytes
}

/// A UDP packet for us, changed.
fn changed(change: impl FnOnce(&mut BytesMut)) -> BytesMut {
    let mut bytes = udp(there(5000), here(53), b"question");
    change(&mut bytes);
    bytes
}

#[test]
fn packets_are_told_apart() {
    let key = FlowKey { local: here(80), remote: there(5000) };
    let syn = Segment { key, opens: true, reset: false, sequence: 1000, acknowledges: None, length: 1 };
    let data = Segment { opens: false, acknowledges: Some(7), length: 3, ..syn };
    let reset = Segment { opens: false, reset: true, length: 0, ..syn };
    let question = Class::Udp { key: FlowKey { local: here(53), remote: there(5000) }, payload: b"question" };
    let ping = {
        let repr = Icmpv4Repr::EchoRequest { ident: 3, seq_no: 4, data: b"newtping" };
        let mut bytes = headed(THERE, HERE, IpProtocol::Icmp, repr.buffer_len());
        repr.emit(
            &mut Icmpv4Packet::new_unchecked(&mut bytes[IP_HEADER..]),
            &ChecksumCapabilities::default(),
        );
        bytes
    };
    let cases = [
        ("syn", tcp(TcpControl::Syn, None, b""), Class::Tcp(syn)),
        ("data", tcp(TcpControl::None, Some(7), b"abc"), Class::Tcp(data)),
        ("reset", tcp(TcpControl::Rst, None, b""), Class::Tcp(reset)),
        ("datagram", changed(|_| {}), question),
        ("ping", ping, Class::Echo { from: THERE, ident: 3, sequence: 4, data: b"newtping" }),
        ("the answer to a ping", echo_reply(THERE, HERE, 3, 4, b""), Class::Other),
        ("nothing", BytesMut::new(), Class::Other),
        ("a stump", changed(|bytes| bytes.truncate(19)), Class::Other),
        ("cut within the datagram", changed(|bytes| bytes.truncate(30)), Class::Other),
        ("IPv6", changed(|bytes| bytes[0] = 0x60), Class::Other),
        ("a header too short", changed(|bytes| bytes[0] = 0x44), Class::Other),
        ("a header too long", changed(|bytes| bytes[0] = 0x4f), Class::Other),
        ("a first fragment", changed(|bytes| bytes[6] = 0x20), Class::Other),
        ("a later fragment", changed(|bytes| bytes[7] = 1), Class::Other),
        ("for another host", changed(|bytes| bytes[19] = 2), Class::Other),
        ("from a group", changed(|bytes| bytes[12] = 224), Class::Other),
        ("from ourselves", changed(|bytes| bytes[12..16].copy_from_slice(&HERE.octets())), Class::Other),
        ("port 0", changed(|bytes| bytes[20..22].fill(0)), Class::Other),
        ("another protocol", changed(|bytes| bytes[9] = 47), Class::Other),
        ("a wrong UDP length", changed(|bytes| bytes[25] = 3), Class::Other),
    ];
    for (name, bytes, expected) in cases {
        assert_eq!(classify(HERE, &bytes), expected, "{name}");
    }
}

#[test]
fn resets_are_those_of_rfc_9293() {
    let answer = |bytes: &BytesMut| match classify(HERE, bytes) {
        Class::Tcp(segment) => reset_for(&segment),
        other => panic!("{other:?}"),
    };
    let read = |bytes: BytesMut| match classify(THERE, &bytes) {
        Class::Tcp(segment) => segment,
        other => panic!("{other:?}"),
    };
    let to_syn = read(answer(&tcp(TcpControl::Syn, None, b"")).unwrap());
    assert!(to_syn.reset && to_syn.sequence == 0 && to_syn.acknowledges == Some(1001), "{to_syn:?}");
    let to_data = read(answer(&tcp(TcpControl::None, Some(77), b"abc")).unwrap());
    assert!(to_data.reset && to_data.sequence == 77 && to_data.acknowledges.is_none(), "{to_data:?}");
    assert_eq!(answer(&tcp(TcpControl::Rst, Some(77), b"")), None);
}

proptest! {
    #[test]
    fn no_bytes_cause_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        classify(HERE, &bytes);
    }

    #[test]
    fn no_packet_with_our_address_causes_a_panic(
        protocol in prop::sample::select(vec![1_u8, 6, 17]),
        flip in any::<(usize, u8)>(),
        payload in proptest::collection::vec(any::<u8>(), 0..120),
    ) {
        let mut bytes = headed(THERE, HERE, IpProtocol::from(protocol), payload.len());
        bytes[IP_HEADER..].copy_from_slice(&payload);
        let at = flip.0 % bytes.len();
        bytes[at] ^= flip.1;
        if let Class::Tcp(segment) = classify(HERE, &bytes) {
            prop_assert_eq!(reset_for(&segment).is_none(), segment.reset);
        }
    }

    #[test]
    fn a_datagram_arrives_as_it_was_sent(payload in proptest::collection::vec(any::<u8>(), 0..1252)) {
        let bytes = udp(there(5000), here(53), &payload);
        let key = FlowKey { local: here(53), remote: there(5000) };
        prop_assert_eq!(classify(HERE, &bytes), Class::Udp { key, payload: &payload });
    }
}
