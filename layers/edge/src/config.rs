//! What an edge is started with.

use std::{net::SocketAddr, time::Duration};

/// Where an edge listens, how much it takes, and what it calls itself.
#[derive(Clone, Debug)]
pub struct EdgeConfig {
    /// Addresses for HTTPS.
    pub https: Vec<SocketAddr>,
    /// Addresses for plain HTTP: redirects to HTTPS and answers `GET /ping`.
    pub http: Vec<SocketAddr>,
    /// How much it takes.
    pub limits: Limits,
    /// The node's name, told in the header `X-Pangolin-Node`.
    pub node_name: String,
}

/// How much an edge takes. Bodies are streamed and have no limit.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Client connections at once, all listeners together. One costs some 50 KiB under TLS, so that the default,
    /// 8192, stays below half a gigabyte.
    pub connections: usize,
    /// Client connections at once from one IPv4 address or one IPv6 /64. The default, 1024, lets an office behind
    /// one address through and keeps one client from taking everything.
    pub connections_per_address: usize,
    /// Bytes of a request's head (HTTP/1: request line and fields; HTTP/2: decoded field list). Default 32 KiB, as
    /// much as large cookies need.
    pub header_bytes: usize,
    /// Fields of a request's head. Default 100.
    pub header_count: usize,
    /// From accept to the end of the TLS handshake. Default 10 s.
    pub handshake_timeout: Duration,
    /// From the first to the last byte of an HTTP/1 request head. Default 15 s.
    pub header_timeout: Duration,
    /// Without any request on a connection. Default 75 s: longer than browsers keep connections for reuse.
    pub idle_timeout: Duration,
    /// Between two pieces of an HTTP/1 request body: a client that stops sending must not hold a target's connection.
    /// Default 60 s. HTTP/2 streams may be silent, as those of gRPC are; dead connections show by their pings.
    pub body_timeout: Duration,
    /// HTTP/2 requests at once on one connection. Default 128.
    pub streams_per_connection: u32,
    /// Until the first byte of a target's response. Default 60 s; connections that break are noticed at once.
    pub response_timeout: Duration,
    /// For requests to end when the edge shuts down. Default 10 s.
    pub shutdown_grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 8192,
            connections_per_address: 1024,
            header_bytes: 32 * 1024,
            header_count: 100,
            handshake_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(15),
            idle_timeout: Duration::from_secs(75),
            body_timeout: Duration::from_secs(60),
            streams_per_connection: 128,
            response_timeout: Duration::from_secs(60),
            shutdown_grace: Duration::from_secs(10),
        }
    }
}
