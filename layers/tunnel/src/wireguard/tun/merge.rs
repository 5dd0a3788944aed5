//! Puts consecutive packets of a TCP stream together, as the kernel's own receive offload does. Pure.
//!
//! The packets come from another organisation's connector. Only what differs in nothing but its place in the stream is
//! merged, and nothing overtakes anything of the same stream. A merged frame says to the kernel that its checksum is
//! right, so only packets whose checksums are right get into one; others are left for the kernel to refuse. WireGuard
//! proves who has sent a packet, not that it was whole when it came to the tunnel.

use std::io::IoSlice;

use gotatun::packet::Packet;

use super::frame::{
    ACK, FRAME_HEADER, FrameHeader, IP_HEADER, PSH, TCP_CHECKSUM, fold, has_right_checksums, pseudo_header,
    set_length, tcp_headers,
};

/// Longest IP packet that is made.
const LENGTH_MAX: usize = 65_535;
/// Frames that are looked back at for one of the same stream. Behind more of them a packet starts anew.
const LOOK_BACK: usize = 32;

/// What is written to the kernel at once.
#[derive(Debug)]
pub(super) struct Frame {
    header: [u8; FRAME_HEADER],
    /// Positions of its packets in the batch. Of all but the first, only the payload counts.
    packets: Vec<usize>,
    /// Length of their headers.
    headers: usize,
}

impl Frame {
    /// Its bytes, piece by piece.
    pub(super) fn slices<'a>(&'a self, batch: &'a [Packet]) -> Vec<IoSlice<'a>> {
        let from = |index: usize| if index == 0 { 0 } else { self.headers };
        let packets = self.packets.iter().enumerate();
        let pieces = packets.map(|(index, packet)| IoSlice::new(&batch[*packet][from(index)..]));
        std::iter::once(IoSlice::new(&self.header)).chain(pieces).collect()
    }
}

/// A frame that may still grow.
struct Open {
    packets: Vec<usize>,
    headers: usize,
    /// Payload of the first packet, and so of all but the last.
    size: usize,
    length: usize,
    /// What the next packet's sequence number has to be.
    next: u32,
    /// It takes no more: its last packet was short or pushed, or it can take none at all.
    closed: bool,
    /// Its packets' checksums are right.
    right: bool,
    /// Of which stream it is; none = of none.
    stream: Option<[u8; STREAM]>,
}

/// Addresses and ports.
const STREAM: usize = 12;

/// Says what is to be written for these packets, in this order. The headers of the packets that begin a merged frame are
/// changed for it.
pub(super) fn merge(batch: &mut [Packet]) -> Vec<Frame> {
    let mut open: Vec<Open> = Vec::with_capacity(8);
    for index in 0..batch.len() {
        let new = begin(&batch[index], index);
        let of_stream = open
            .iter_mut()
            .rev()
            .take(LOOK_BACK)
            .find(|frame| new.stream.is_some() && frame.stream == new.stream);
        match of_stream {
            Some(frame) if takes(frame, &new, batch) => {
                frame.packets.push(index);
                frame.length += new.size;
                frame.next = new.next;
                frame.closed = new.size < frame.size || new.closed;
            }
            _ => open.push(new),
        }
    }
    open.into_iter().map(|frame| finish(frame, batch)).collect()
}

/// The packet as the first of a frame.
fn begin(packet: &[u8], index: usize) -> Open {
    let alone = Open {
        packets: vec![index],
        headers: 0,
        size: 0,
        length: packet.len(),
        next: 0,
        closed: true,
        right: false,
        stream: None,
    };
    // With options, or with more behind it than it says, it is left as it is.
    let Some((IP_HEADER, tcp)) = tcp_headers(packet) else { return alone };
    let stated = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
    if stated != packet.len() {
        return alone;
    }
    let headers = IP_HEADER + tcp;
    let size = packet.len() - headers;
    let flags = packet[IP_HEADER + 13];
    let sequence = u32::from_be_bytes([packet[24], packet[25], packet[26], packet[27]]);
    let mut stream = [0; STREAM];
    stream[..8].copy_from_slice(&packet[12..20]);
    stream[8..].copy_from_slice(&packet[20..24]);
    let plain = flags & !PSH == ACK && size > 0;
    // What carries nothing is never merged.
    let right = plain && has_right_checksums(packet);
    Open {
        headers,
        size,
        next: sequence.wrapping_add(u32::try_from(size).unwrap_or_default()),
        closed: !right || flags & PSH != 0,
        right,
        stream: Some(stream),
        ..alone
    }
}

/// Whether the packet that would begin `new` continues the frame.
fn takes(frame: &Open, new: &Open, batch: &[Packet]) -> bool {
    let (Some(first), Some(next)) = (frame.packets.first(), new.packets.first()) else { return false };
    let (first, next) = (&batch[*first][..], &batch[*next][..]);
    !frame.closed
        && new.right
        && (1..=frame.size).contains(&new.size)
        && frame.headers == new.headers
        && frame.length + new.size <= LENGTH_MAX
        && frame.next == new.next.wrapping_sub(u32::try_from(new.size).unwrap_or_default())
        && same_headers(&first[..frame.headers], &next[..new.headers])
}

/// Whether two headers differ in nothing but length, identification, checksums, sequence number and PSH.
fn same_headers(one: &[u8], other: &[u8]) -> bool {
    let same = |from: usize, to: usize| one[from..to] == other[from..to];
    let flags = |headers: &[u8]| headers[33] & !PSH;
    // Version and service class; fragmenting, life time, protocol; addresses and ports; acknowledgement and data offset;
    // window; urgent pointer and options.
    same(0, 2)
        && same(6, 10)
        && same(12, 24)
        && same(28, 33)
        && flags(one) == flags(other)
        && same(34, 36)
        && same(38, one.len())
}

/// The frame as it is written. Of several packets, the first one's headers are made those of all.
fn finish(frame: Open, batch: &mut [Packet]) -> Frame {
    let plain =
        Frame { header: FrameHeader::default().encode(), packets: frame.packets, headers: frame.headers };
    let ([first, .., last], Ok(length)) = (&plain.packets[..], u16::try_from(frame.length)) else {
        return plain;
    };
    let pushed = batch[*last][33] & PSH;
    let bytes = &mut batch[*first].buf_mut()[..frame.headers];
    set_length(&mut bytes[..IP_HEADER], length);
    bytes[33] |= pushed;
    // The kernel adds the rest where it needs a checksum at all.
    let partial = fold(pseudo_header(bytes, frame.length - IP_HEADER));
    bytes[IP_HEADER + TCP_CHECKSUM..][..2].copy_from_slice(&partial.to_be_bytes());
    let header = FrameHeader {
        checksum: Some((IP_HEADER as u16, TCP_CHECKSUM as u16)),
        segment: u16::try_from(frame.size).ok(),
        headers: u16::try_from(frame.headers).unwrap_or_default(),
    };
    Frame { header: header.encode(), ..plain }
}

/// What a fuzz target calls: any packets may come, and each has to be in exactly one frame.
#[cfg(any(test, fuzzing))]
pub(crate) fn merge_bytes(packets: &[&[u8]]) {
    let mut batch: Vec<Packet> = packets.iter().map(|packet| Packet::copy_from(*packet)).collect();
    let frames = merge(&mut batch);
    let mut seen: Vec<usize> = frames.iter().flat_map(|frame| frame.packets.clone()).collect();
    seen.sort_unstable();
    assert!(seen.into_iter().eq(0..packets.len()), "a packet is lost or doubled");
    for frame in &frames {
        assert!(
            frame.slices(&batch).iter().map(|slice| slice.len()).sum::<usize>() <= FRAME_HEADER + LENGTH_MAX
        );
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wireguard::tun::frame::{FIN, sum};

    /// A TCP segment from one fixed end to another.
    pub(in crate::wireguard::tun) fn segment(sequence: u32, payload: &[u8], flags: u8) -> Vec<u8> {
        let mut packet = vec![0; 40 + payload.len()];
        packet[0] = 0x45;
        packet[6] = 0x40;
        packet[8..10].copy_from_slice(&[64, 6]);
        packet[12..20].copy_from_slice(&[100, 89, 0, 1, 100, 89, 1, 9]);
        packet[20..24].copy_from_slice(&[0x1f, 0x90, 0xc0, 0x01]);
        packet[24..28].copy_from_slice(&sequence.to_be_bytes());
        packet[32..36].copy_from_slice(&[0x50, flags, 0x20, 0x00]);
        packet[40..].copy_from_slice(payload);
        set_checksums(&mut packet);
        packet
    }

    fn set_checksums(packet: &mut [u8]) {
        let length = u16::try_from(packet.len()).unwrap_or(u16::MAX);
        set_length(&mut packet[..20], length);
        packet[36..38].fill(0);
        let covered = pseudo_header(packet, packet.len() - 20) + sum(&packet[20..]);
        packet[36..38].copy_from_slice(&(!fold(covered)).to_be_bytes());
    }

    fn other_stream(mut packet: Vec<u8>) -> Vec<u8> {
        packet[20] = 0x20;
        set_checksums(&mut packet);
        packet
    }

    fn frames(packets: &[Vec<u8>]) -> Vec<Vec<usize>> {
        let mut batch: Vec<Packet> = packets.iter().map(|packet| Packet::copy_from(&packet[..])).collect();
        merge(&mut batch).into_iter().map(|frame| frame.packets).collect()
    }

    #[test]
    fn what_continues_a_stream_is_merged_and_nothing_else() {
        type Case = (&'static str, Vec<Vec<u8>>, Vec<Vec<usize>>);
        let data = |sequence| segment(sequence, &[7; 100], ACK);
        let with = |sequence, change: fn(&mut Vec<u8>)| {
            let mut packet = data(sequence);
            change(&mut packet);
            set_checksums(&mut packet);
            packet
        };
        let damaged = |sequence, at: usize| {
            let mut packet = data(sequence);
            packet[at] ^= 0x40;
            packet
        };
        let cases: [Case; 18] = [
            ("three in a row", vec![data(0), data(100), data(200)], vec![vec![0, 1, 2]]),
            ("a gap", vec![data(0), data(200)], vec![vec![0], vec![1]]),
            ("the wrong order", vec![data(100), data(0)], vec![vec![0], vec![1]]),
            (
                "a short one ends it",
                vec![data(0), segment(100, &[1; 9], ACK), data(109)],
                vec![vec![0, 1], vec![2]],
            ),
            ("a longer one does not fit", vec![segment(0, &[1; 9], ACK), data(9)], vec![vec![0], vec![1]]),
            (
                "PSH ends it",
                vec![data(0), segment(100, &[1; 100], ACK | PSH), data(200)],
                vec![vec![0, 1], vec![2]],
            ),
            (
                "two streams, interleaved",
                vec![data(0), other_stream(data(0)), data(100), other_stream(data(100))],
                vec![vec![0, 2], vec![1, 3]],
            ),
            (
                "an acknowledgement between is not overtaken",
                vec![data(0), segment(100, &[], ACK), data(100)],
                vec![vec![0], vec![1], vec![2]],
            ),
            ("another window", vec![data(0), with(100, |packet| packet[34] = 9)], vec![vec![0], vec![1]]),
            (
                "another acknowledgement",
                vec![data(0), with(100, |packet| packet[31] = 9)],
                vec![vec![0], vec![1]],
            ),
            (
                "another class of service",
                vec![data(0), with(100, |packet| packet[1] = 3)],
                vec![vec![0], vec![1]],
            ),
            (
                "the end of a stream",
                vec![data(0), segment(100, &[1; 100], ACK | FIN)],
                vec![vec![0], vec![1]],
            ),
            ("a fragment", vec![data(0), with(100, |packet| packet[7] = 1)], vec![vec![0], vec![1]]),
            ("a sequence number that wraps", vec![data(u32::MAX - 99), data(0)], vec![vec![0, 1]]),
            (
                "a damaged payload",
                vec![data(0), damaged(100, 77), data(200)],
                vec![vec![0], vec![1], vec![2]],
            ),
            ("a damaged first one", vec![damaged(0, 77), data(100)], vec![vec![0], vec![1]]),
            ("a damaged checksum", vec![data(0), damaged(100, 36)], vec![vec![0], vec![1]]),
            ("a damaged IP header", vec![data(0), damaged(100, 5)], vec![vec![0], vec![1]]),
        ];
        for (name, packets, expected) in cases {
            assert_eq!(frames(&packets), expected, "{name}");
        }
    }

    #[test]
    fn a_frame_stays_within_the_longest_packet() {
        let packets: Vec<Vec<u8>> = (0..60).map(|index| segment(index * 1200, &[7; 1200], ACK)).collect();
        let lengths: Vec<usize> = frames(&packets).iter().map(Vec::len).collect();
        assert_eq!(lengths, [54, 6]);
    }

    proptest! {
        #[test]
        fn no_packets_make_it_fail(packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 0..9)) {
            let packets: Vec<&[u8]> = packets.iter().map(|packet| &packet[..]).collect();
            merge_bytes(&packets);
        }

        /// Of some of a stream's packets a bit was changed before they came into the tunnel. Those come out of it as they
        /// went in, alone, for the kernel to judge; all others are in frames of right ones.
        #[test]
        fn a_packet_that_was_damaged_is_never_merged(
            count in 2..12_u32,
            size in 1..300_usize,
            damages in prop::collection::btree_map(0..12_usize, (any::<prop::sample::Index>(), 0..8_u32), 0..4),
        ) {
            let whole: Vec<Vec<u8>> = (0..count)
                .map(|index| segment(index * u32::try_from(size).unwrap(), &vec![0xa5; size], ACK))
                .collect();
            let mut sent = whole.clone();
            for (index, (byte, bit)) in damages {
                let Some(packet) = sent.get_mut(index) else { continue };
                let at = byte.index(packet.len());
                packet[at] ^= 1 << bit;
            }
            let mut batch: Vec<Packet> = sent.iter().map(|packet| Packet::copy_from(&packet[..])).collect();
            for frame in merge(&mut batch) {
                if let [alone] = frame.packets[..] {
                    prop_assert_eq!(&batch[alone][..], &sent[alone][..]);
                } else {
                    for index in frame.packets {
                        prop_assert_eq!(&sent[index], &whole[index]);
                    }
                }
            }
        }
    }
}
