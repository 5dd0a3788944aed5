//! What can go wrong with the DNS server.

use std::{fmt, io, net::SocketAddr};

use pangolin_core::name::HostName;

/// Transport of a listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Datagrams.
    Udp,
    /// Streams (RFC 7766).
    Tcp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
        })
    }
}

/// Why the DNS server does not start, does not take a plan, or ended.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// A setting cannot work.
    #[error("DNS settings: {what}")]
    Config {
        /// What is wrong and what to do.
        what: String,
    },
    /// An address cannot be taken.
    #[error("DNS cannot listen on {address} ({protocol}): {source}{hint}")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// By which protocol.
        protocol: Protocol,
        /// What to do about it; begins with `"; "` or is empty.
        hint: String,
        /// What the system says.
        source: io::Error,
    },
    /// The plan has a zone inside another, so that a name would have two authorities.
    #[error("the DNS plan has zone {inner} within zone {outer}; a node serves the outer one only")]
    Overlap {
        /// The zone within.
        inner: HostName,
        /// The zone around it; the same name if the zone occurs twice.
        outer: HostName,
    },
    /// A zone's SOA record cannot be made.
    #[error("the zone {apex} cannot be served: its SOA record {why}")]
    Zone {
        /// The zone.
        apex: HostName,
        /// What is wrong with it.
        why: String,
    },
    /// A zone file, a value or a name cannot be read.
    #[error("{what}")]
    ZoneFile {
        /// What is wrong with it.
        what: String,
    },
    /// A key cannot be made or used.
    #[error("{what}")]
    Key {
        /// What is wrong.
        what: String,
    },
    /// A UDP thread cannot be started.
    #[error(
        "cannot start the DNS thread {name}: {source}; check the limit on processes (TasksMax, ulimit -u)"
    )]
    Thread {
        /// Its name.
        name: String,
        /// What the system says.
        source: io::Error,
    },
    /// A UDP thread or a TCP listener ended although nobody asked it to.
    #[error("DNS on {address} ({protocol}) ended: {reason}")]
    Ended {
        /// Where.
        address: SocketAddr,
        /// By which protocol.
        protocol: Protocol,
        /// The last error or panic.
        reason: String,
    },
}
