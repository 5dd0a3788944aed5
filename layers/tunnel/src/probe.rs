//! The probe: a small UDP datagram inside the tunnel that a site sends to each node, and the node's answer.
//!
//! Twelve bytes: `PGP`, a version, the kind (1 probe, 2 answer), three zero bytes, the sequence number (32 bit, big
//! endian). The answer is as long as the probe, so nobody can make a node send more than it received.

use std::time::Duration;

/// UDP port of probes on both ends.
pub const PROBE_PORT: u16 = 7421;

/// How often a site probes each node. Four to a lifetime: three lost in a row are no outage.
pub const PROBE_INTERVAL: Duration = Duration::from_millis(250);

/// How long a probe or answer proves a tunnel alive.
pub const PROBE_LIFETIME: Duration = Duration::from_secs(1);

const LEN: usize = 12;
const MAGIC: [u8; 4] = *b"PGP\x01";

/// What a datagram on [`PROBE_PORT`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Probe {
    /// From a site: are you there?
    Ask(u32),
    /// From a node: yes.
    Answer(u32),
}

impl Probe {
    pub(crate) fn encode(self) -> [u8; LEN] {
        let (kind, sequence) = match self {
            Self::Ask(sequence) => (1, sequence),
            Self::Answer(sequence) => (2, sequence),
        };
        let mut bytes = [0; LEN];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4] = kind;
        bytes[8..].copy_from_slice(&sequence.to_be_bytes());
        bytes
    }

    /// None for anything that is not a probe.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; LEN] = bytes.try_into().ok()?;
        let sequence = u32::from_be_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]);
        match (bytes[..4] == MAGIC, bytes[4]) {
            (true, 1) => Some(Self::Ask(sequence)),
            (true, 2) => Some(Self::Answer(sequence)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_survives_its_bytes() {
        for probe in [Probe::Ask(0), Probe::Ask(7), Probe::Answer(u32::MAX)] {
            assert_eq!(Probe::decode(&probe.encode()), Some(probe));
        }
    }

    #[test]
    fn other_datagrams_are_not_probes() {
        let mut unknown_kind = Probe::Ask(1).encode();
        unknown_kind[4] = 3;
        let mut other_magic = Probe::Ask(1).encode();
        other_magic[0] = b'Q';
        for bytes in [&b""[..], b"PGP\x01", &unknown_kind, &other_magic, &[0; 13]] {
            assert_eq!(Probe::decode(bytes), None, "{bytes:?}");
        }
    }
}
