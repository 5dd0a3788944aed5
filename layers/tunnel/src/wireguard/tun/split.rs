//! Cuts what the kernel hands over into packets that fit the tunnel. Pure.
//!
//! The frames come from the kernel of this host. One that makes no sense is passed over; none makes this code panic.

use super::frame::{
    FIN, FRAME_HEADER, FrameHeader, PSH, TCP_CHECKSUM, fold, pseudo_header, set_length, sum, tcp_headers,
};

/// Longest headers: IP and TCP, each with all options it may have.
const HEADERS_MAX: usize = 60 + 60;

/// Gives every packet of a frame, as its headers and the rest.
pub(super) fn split(frame: &mut [u8], packet: impl FnMut(&[u8], &[u8])) {
    // One that makes no sense carries no packet.
    let _ = try_split(frame, packet);
}

fn try_split(frame: &mut [u8], mut packet: impl FnMut(&[u8], &[u8])) -> Option<()> {
    let (header, bytes) = frame.split_first_chunk_mut::<FRAME_HEADER>()?;
    let header = FrameHeader::decode(header)?;
    match header.segment {
        Some(size) => segments(bytes, usize::from(size), packet),
        None => {
            if let Some((start, offset)) = header.checksum {
                finish(bytes, usize::from(start), usize::from(offset))?;
            }
            packet(bytes, &[]);
            Some(())
        }
    }
}

/// Writes the checksum of all from `start` on. Where it goes stands what the pseudo header adds to it.
fn finish(bytes: &mut [u8], start: usize, offset: usize) -> Option<()> {
    let covered = bytes.get_mut(start..)?;
    covered.get(offset..offset + 2)?;
    let checksum = match !fold(sum(covered)) {
        // For UDP, zero would say that there is none (RFC 768); for TCP both mean the same.
        0 => u16::MAX,
        checksum => checksum,
    };
    covered[offset..offset + 2].copy_from_slice(&checksum.to_be_bytes());
    Some(())
}

fn segments(bytes: &[u8], size: usize, mut packet: impl FnMut(&[u8], &[u8])) -> Option<()> {
    let (ip, tcp) = tcp_headers(bytes)?;
    let (template, payload) = bytes.split_at(ip + tcp);
    if size == 0 {
        return None;
    }
    let mut headers = [0; HEADERS_MAX];
    let headers = &mut headers[..template.len()];
    let number =
        |at: usize| u32::from_be_bytes([template[at], template[at + 1], template[at + 2], template[at + 3]]);
    let (sequence, ident) = (number(ip + 4), u16::from_be_bytes([template[4], template[5]]));
    let last = payload.len().div_ceil(size).saturating_sub(1);
    for (index, piece) in payload.chunks(size).enumerate() {
        headers.copy_from_slice(template);
        // A frame has at most 64 KiB, so that these fit.
        let offset = u32::try_from(index * size).ok()?;
        headers[4..6].copy_from_slice(&ident.wrapping_add(u16::try_from(index).ok()?).to_be_bytes());
        set_length(&mut headers[..ip], u16::try_from(template.len() + piece.len()).ok()?);
        let segment = &mut headers[ip..];
        segment[4..8].copy_from_slice(&sequence.wrapping_add(offset).to_be_bytes());
        if index < last {
            segment[13] &= !(FIN | PSH);
        }
        segment[TCP_CHECKSUM..TCP_CHECKSUM + 2].fill(0);
        let covered = pseudo_header(template, tcp + piece.len()) + sum(segment) + sum(piece);
        segment[TCP_CHECKSUM..TCP_CHECKSUM + 2].copy_from_slice(&(!fold(covered)).to_be_bytes());
        packet(headers, piece);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use smoltcp::wire::{IpAddress, Ipv4Packet, TcpPacket};

    use super::*;
    use crate::wireguard::tun::{merge::merge, merge::tests::segment};

    fn packets(frame: &mut [u8]) -> Vec<Vec<u8>> {
        let mut packets = Vec::new();
        split(frame, |headers, rest| packets.push([headers, rest].concat()));
        packets
    }

    fn frame(header: FrameHeader, packet: &[u8]) -> Vec<u8> {
        [&header.encode()[..], packet].concat()
    }

    fn is_right(packet: &[u8]) -> bool {
        let ip = Ipv4Packet::new_checked(packet).unwrap();
        let tcp = TcpPacket::new_checked(ip.payload()).unwrap();
        let address = |address| IpAddress::Ipv4(address);
        ip.verify_checksum() && tcp.verify_checksum(&address(ip.src_addr()), &address(ip.dst_addr()))
    }

    #[test]
    fn a_large_piece_becomes_packets_with_right_checksums() {
        let payload: Vec<u8> = (0..3000_u16).map(|byte| byte.to_le_bytes()[0]).collect();
        let large = segment(1000, &payload, ACK_PSH);
        let header = FrameHeader { checksum: Some((20, 16)), segment: Some(1200), headers: 40 };
        let packets = packets(&mut frame(header, &large));
        let seen: Vec<(u32, usize, bool)> = packets
            .iter()
            .map(|packet| {
                assert!(is_right(packet));
                let tcp = TcpPacket::new_checked(&packet[20..]).unwrap();
                (tcp.seq_number().0.cast_unsigned(), tcp.payload().len(), tcp.psh())
            })
            .collect();
        assert_eq!(seen, [(1000, 1200, false), (2200, 1200, false), (3400, 600, true)]);
        let joined: Vec<u8> = packets.iter().flat_map(|packet| packet[40..].to_vec()).collect();
        assert!(joined == payload);
    }

    const ACK_PSH: u8 = super::super::frame::ACK | PSH;

    #[test]
    fn a_checksum_that_was_left_to_us_is_written() {
        let mut packet = segment(7, b"hello", ACK_PSH);
        let whole = packet.clone();
        let partial = fold(pseudo_header(&packet, packet.len() - 20));
        packet[36..38].copy_from_slice(&partial.to_be_bytes());
        let header = FrameHeader { checksum: Some((20, 16)), ..FrameHeader::default() };
        assert_eq!(packets(&mut frame(header, &packet)), [whole]);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_fail(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            packets(&mut bytes.clone());
            let header = FrameHeader { checksum: None, segment: Some(7), headers: 40 };
            packets(&mut frame(header, &bytes));
        }

        #[test]
        fn what_is_split_and_merged_is_as_before(length in 1..20_000_usize, size in 100..1400_u16) {
            let payload: Vec<u8> = (0..length).map(|byte| byte.to_le_bytes()[0]).collect();
            let large = segment(u32::MAX - 500, &payload, ACK_PSH);
            let header = FrameHeader { checksum: Some((20, 16)), segment: Some(size), headers: 40 };
            let split = packets(&mut frame(header, &large));
            prop_assert!(split.iter().all(|packet| is_right(packet)));
            let mut batch: Vec<_> =
                split.iter().map(|packet| gotatun::packet::Packet::copy_from(&packet[..])).collect();
            let merged: Vec<Vec<u8>> = merge(&mut batch)
                .iter()
                .flat_map(|frame| packets(&mut frame.slices(&batch).concat_slices()))
                .collect();
            prop_assert_eq!(merged, split);
        }
    }

    trait Concat {
        fn concat_slices(&self) -> Vec<u8>;
    }

    impl Concat for Vec<std::io::IoSlice<'_>> {
        fn concat_slices(&self) -> Vec<u8> {
            self.iter().flat_map(|slice| slice.to_vec()).collect()
        }
    }
}
