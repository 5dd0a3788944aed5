//! What stands before a packet that is exchanged with the kernel, and checksums. Pure.

/// Length of the virtio header (virtio specification 1.2, section 5.1.6, without the fields of later versions).
pub(super) const FRAME_HEADER: usize = 10;
/// Length of an IPv4 header without options.
pub(super) const IP_HEADER: usize = 20;
/// IP protocol number of TCP.
pub(super) const TCP: u8 = 6;
/// Where the checksum stands in a TCP header.
pub(super) const TCP_CHECKSUM: usize = 16;
/// Flags of TCP, in byte 13 of its header (RFC 9293 section 3.1).
pub(super) const FIN: u8 = 0x01;
pub(super) const PSH: u8 = 0x08;
pub(super) const ACK: u8 = 0x10;

const NEEDS_CHECKSUM: u8 = 1;
const SEGMENTS_TCP4: u8 = 1;

/// What the kernel has left to do, or leaves to us.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct FrameHeader {
    /// The checksum from the first offset to the end is still to be written, at the second one from there.
    pub checksum: Option<(u16, u16)>,
    /// TCP over IPv4 whose payload is still to be cut into pieces of so many bytes.
    pub segment: Option<u16>,
    /// Length of all headers of such a packet.
    pub headers: u16,
}

impl FrameHeader {
    /// The header of a frame; none for one that asks for what was not offered.
    pub(super) fn decode(bytes: &[u8; FRAME_HEADER]) -> Option<Self> {
        let number = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        let segment = match bytes[1] {
            0 => None,
            SEGMENTS_TCP4 => Some(number(4)),
            _ => return None,
        };
        let checksum = (bytes[0] & NEEDS_CHECKSUM != 0).then(|| (number(6), number(8)));
        Some(Self { checksum, segment, headers: number(2) })
    }

    pub(super) fn encode(self) -> [u8; FRAME_HEADER] {
        let mut bytes = [0; FRAME_HEADER];
        let mut put = |at: usize, number: u16| bytes[at..at + 2].copy_from_slice(&number.to_ne_bytes());
        put(2, self.headers);
        put(4, self.segment.unwrap_or_default());
        let (start, offset) = self.checksum.unwrap_or_default();
        put(6, start);
        put(8, offset);
        bytes[0] = if self.checksum.is_some() { NEEDS_CHECKSUM } else { 0 };
        bytes[1] = if self.segment.is_some() { SEGMENTS_TCP4 } else { 0 };
        bytes
    }
}

/// The sum of 16-bit words that Internet checksums are made of (RFC 1071), not folded yet. An odd last byte counts as
/// if a zero followed.
pub(super) fn sum(bytes: &[u8]) -> u64 {
    // Wider words, in the order of this host: the sum is the same up to the order of its two bytes (RFC 1071 section 2).
    let (words, rest) = bytes.as_chunks::<4>();
    let wide: u64 = words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    let native = fold(wide + u64::from(u32::from_ne_bytes(last)));
    u64::from(u16::from_be(native))
}

/// Adds the carries in.
pub(super) fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap_or(u16::MAX)
}

/// The sum over what TCP's checksum covers besides its segment: addresses, protocol, length (RFC 9293 section 3.1).
/// `ip` is at least [`IP_HEADER`] bytes.
pub(super) fn pseudo_header(ip: &[u8], length: usize) -> u64 {
    sum(&ip[12..20]) + u64::from(TCP) + length as u64
}

/// Writes the length of the packet and the header's checksum into an IPv4 header.
pub(super) fn set_length(ip: &mut [u8], length: u16) {
    ip[2..4].copy_from_slice(&length.to_be_bytes());
    ip[10..12].fill(0);
    let checksum = !fold(sum(ip));
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
}

/// Lengths of the two headers of a TCP segment over IPv4 that is whole and no fragment; none for anything else.
pub(super) fn tcp_headers(packet: &[u8]) -> Option<(usize, usize)> {
    let first = *packet.first()?;
    let ip = usize::from(first & 0x0f) * 4;
    let plain = first >> 4 == 4 && ip >= IP_HEADER && packet.len() >= ip + 20;
    if !plain || packet[9] != TCP || packet[6] & 0x3f != 0 || packet[7] != 0 {
        return None;
    }
    let tcp = usize::from(packet[ip + 12] >> 4) * 4;
    (tcp >= 20 && packet.len() >= ip + tcp).then_some((ip, tcp))
}

/// Whether both checksums of a TCP segment behind an IPv4 header without options are right. The packet is as long as it
/// says.
pub(super) fn has_right_checksums(packet: &[u8]) -> bool {
    let Some((ip, segment)) = packet.split_at_checked(IP_HEADER) else { return false };
    // With its own complement in it, a right sum is all ones (RFC 1071 section 1).
    fold(sum(ip)) == u16::MAX && fold(pseudo_header(ip, segment.len()) + sum(segment)) == u16::MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_survives_its_bytes() {
        let plain = FrameHeader::default();
        let large = FrameHeader { checksum: Some((20, 16)), segment: Some(1228), headers: 52 };
        for header in [plain, large, FrameHeader { checksum: Some((20, 6)), ..plain }] {
            assert_eq!(FrameHeader::decode(&header.encode()), Some(header));
        }
        let mut of_udp = large.encode();
        of_udp[1] = 5;
        assert_eq!(FrameHeader::decode(&of_udp), None);
    }

    #[test]
    fn sums_are_those_of_rfc_1071() {
        // Its example in section 3.
        assert_eq!(fold(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7])), 0xddf2);
        let cases: [(&[u8], u16); 5] = [
            (&[], 0),
            (&[0x12], 0x1200),
            (&[0x12, 0x34], 0x1234),
            (&[0x12, 0x34, 0x56], 0x6834),
            (&[0xff, 0xff, 0x00, 0x01], 1),
        ];
        for (bytes, expected) in cases {
            assert_eq!(fold(sum(bytes)), expected, "{bytes:?}");
        }
    }
}
