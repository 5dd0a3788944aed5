//! What a site may send to a node.
//!
//! The other end of a tunnel is another organisation's connector. What comes out of the tunnel at a node goes to the
//! kernel of its host, where other services listen, and which may forward to other networks. So only what the node itself
//! has asked for gets there: answers to its connections and datagrams, probes, and what ICMP needs.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::probe::PROBE_PORT;

/// First byte of IPv4 packets whose header has no options. With an option the kernel could be asked to send the packet
/// on (source routing), and nothing that a tunnel is for has any.
const PLAIN_HEADER: u8 = 0x45;
/// Protocol numbers (RFC 9293, RFC 768, RFC 792).
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// IP and TCP headers without options, IP and UDP or ICMP headers, and of an ICMP error with the header that it quotes.
const TCP_LENGTH: usize = 40;
const SHORT_LENGTH: usize = 28;
const QUOTING_LENGTH: usize = 48;
/// Where TCP's flags stand, and two of them (RFC 9293 section 3.1).
const FLAGS: usize = 33;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
/// Types of ICMP messages (RFC 792). *Packet too big* is an unreachable one.
const ECHO_REPLY: u8 = 0;
const UNREACHABLE: u8 = 3;
const ECHO_REQUEST: u8 = 8;

/// Ports, and those of a word of the table.
const PORTS: usize = 1 << 16;
const WORD: usize = 64;

/// Whether a packet that a site sends may go on to the node with this tunnel address. `open` says at which UDP ports the
/// node waits for answers.
///
/// Nothing is admitted that is for another host, opens a TCP connection, or is a fragment: both ends keep to the MTU, and
/// a later fragment does not say what it is. The sender's address has been checked before, by WireGuard.
pub(crate) fn admits(packet: &[u8], own: Ipv4Addr, open: impl FnOnce(u16) -> bool) -> bool {
    let Some(header) = packet.first_chunk::<SHORT_LENGTH>() else { return false };
    let whole = header[6] & 0x3f == 0 && header[7] == 0;
    if header[0] != PLAIN_HEADER || !whole || header[16..20] != own.octets() {
        return false;
    }
    match header[9] {
        TCP => packet.len() >= TCP_LENGTH && packet[FLAGS] & (SYN | ACK) != SYN,
        UDP => {
            let port = u16::from_be_bytes([header[22], header[23]]);
            port == PROBE_PORT || open(port)
        }
        ICMP => match header[20] {
            ECHO_REPLY | ECHO_REQUEST => true,
            UNREACHABLE => quotes(packet, own),
            _ => false,
        },
        _ => false,
    }
}

/// Whether an ICMP error is about a packet that we have sent to its sender. The kernel would take one about any of the
/// host's connections, and end it or send smaller packets there.
fn quotes(packet: &[u8], own: Ipv4Addr) -> bool {
    let Some(error) = packet.first_chunk::<QUOTING_LENGTH>() else { return false };
    error[28] == PLAIN_HEADER && error[40..44] == own.octets() && error[44..48] == error[12..16]
}

/// The gate in front of a node's interface.
pub(crate) struct Gate {
    own: Ipv4Addr,
    /// A bit for each UDP port at which an answer is waited for.
    open: Box<[AtomicU64]>,
    refused: AtomicU64,
}

impl Gate {
    pub(crate) fn new(own: Ipv4Addr) -> Arc<Self> {
        let open = (0..PORTS / WORD).map(|_| AtomicU64::new(0)).collect();
        Arc::new(Self { own, open, refused: AtomicU64::new(0) })
    }

    /// Whether the packet may pass; counts those that may not.
    pub(crate) fn passes(&self, packet: &[u8]) -> bool {
        let passes = admits(packet, self.own, |port| {
            let (word, bit) = place(port);
            self.open[word].load(Ordering::Relaxed) & bit != 0
        });
        if !passes {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        passes
    }

    /// Lets datagrams to this port pass until the value returned is dropped. The kernel gives a port to one socket at a
    /// time, and hands what comes from elsewhere than the socket's other end to nobody.
    pub(crate) fn open(self: &Arc<Self>, port: u16) -> OpenPort {
        let (word, bit) = place(port);
        self.open[word].fetch_or(bit, Ordering::Relaxed);
        OpenPort { gate: Arc::clone(self), port }
    }

    /// How many packets were refused.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

/// Which bit of which word stands for a port.
fn place(port: u16) -> (usize, u64) {
    let port = usize::from(port);
    (port / WORD, 1 << (port % WORD))
}

/// A UDP port at which answers are let in. Dropped before its socket is closed: the port may be given to another one then.
pub(crate) struct OpenPort {
    gate: Arc<Gate>,
    port: u16,
}

impl Drop for OpenPort {
    fn drop(&mut self) {
        let (word, bit) = place(self.port);
        self.gate.open[word].fetch_and(!bit, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
