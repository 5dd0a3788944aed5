//! What can be wrong with an edge.

use std::{io, net::SocketAddr};

use pangolin_core::CertificateId;

/// Why an edge does not start or ended.
#[derive(Debug, thiserror::Error)]
pub enum EdgeError {
    /// Another program, or another node on this host, listens there.
    #[error(
        "the edge cannot listen on {address}: the address is in use. Stop what listens there \
         (ss -ltnp shows it) or configure another address"
    )]
    InUse {
        /// Where.
        address: SocketAddr,
    },
    /// A port below 1024 without the right to it.
    #[error(
        "the edge cannot listen on {address}: permission denied. Give the program CAP_NET_BIND_SERVICE \
         (systemd: AmbientCapabilities=CAP_NET_BIND_SERVICE) or configure a port above 1023"
    )]
    Denied {
        /// Where.
        address: SocketAddr,
    },
    /// The host has no such address.
    #[error(
        "the edge cannot listen on {address}: this host has no such address. Configure one that \
         `ip address` shows, or 0.0.0.0 and [::] for all"
    )]
    NoSuchAddress {
        /// Where.
        address: SocketAddr,
    },
    /// Any other failure to listen.
    #[error("the edge cannot listen on {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The node's name cannot stand in a header.
    #[error("the node name {name:?} cannot stand in an HTTP header: use letters, digits and hyphens")]
    NodeName {
        /// The name.
        name: String,
    },
    /// The TLS library refuses its own defaults.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
    /// The system gives no random bytes.
    #[error("the system gives no random bytes for session ticket keys")]
    Random,
    /// A listener ended, which only a panic does.
    #[error("the listener on {address} ended: {reason}")]
    ListenerEnded {
        /// Where.
        address: SocketAddr,
        /// Why.
        reason: String,
    },
}

/// A part of a plan that the edge could not bring into effect. What was served before is served on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EdgeProblem {
    /// The key could not be decrypted.
    #[error("the key of certificate {certificate} generation {generation} cannot be opened: {reason}")]
    KeyNotOpened {
        /// Which.
        certificate: CertificateId,
        /// Which renewal.
        generation: u64,
        /// Why.
        reason: String,
    },
    /// Key or chain are not what they should be.
    #[error("certificate {certificate} generation {generation} cannot be served: {reason}")]
    NotUsable {
        /// Which.
        certificate: CertificateId,
        /// Which renewal.
        generation: u64,
        /// Why.
        reason: String,
    },
}
