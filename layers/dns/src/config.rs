//! What the operator sets. Parsed elsewhere; checked by [`DnsServer::bind`](crate::DnsServer::bind).

use std::{fmt, net::SocketAddr, num::NonZeroUsize, sync::Arc, thread, time::Duration};

use crate::{DnsError, GeoDatabase};

/// Longest NSID in bytes: it must fit into the smallest reply beside a question and a negative answer.
pub(crate) const NSID_MAX: usize = 64;
/// Most UDP threads per address; more only fight over the same cores.
pub(crate) const UDP_THREADS_MAX: usize = 256;
/// Fastest rate limit in answers per second that the limiter's clock of 1 µs can express.
pub(crate) const RATE_MAX: u32 = 1_000_000;

/// Settings of the DNS server.
#[derive(Clone, Debug)]
pub struct DnsConfig {
    /// Addresses on which to answer, each by UDP and TCP. Name each public address by itself: replies leave from the
    /// address that was asked, and a stub resolver of the host may hold 127.0.0.53. With port 0 the system chooses
    /// one port for both protocols of that address. Default: none.
    pub listen: Vec<SocketAddr>,
    /// UDP threads per address. Default: one per core.
    pub udp_threads: usize,
    /// What the node calls itself to those who ask (RFC 5001), at most 64 bytes; empty = no NSID.
    pub nsid: String,
    /// Most TCP connections at a time. Default 1000: some megabytes of memory; allow
    /// the process that many file descriptors beside what else it opens.
    pub max_tcp_connections: usize,
    /// Most TCP connections at a time from one network (IPv4 /24, IPv6 /56), so that one client cannot take all.
    /// Default 100.
    pub max_tcp_connections_per_network: usize,
    /// Queries after which a TCP connection is closed (RFC 7766 §6.2.1 lets the client open the next). Default 1000.
    pub max_tcp_queries: usize,
    /// How long a TCP connection may rest between queries (RFC 7766 §6.2.3). Default 10 s; a fifth of it while more
    /// than half of the connections are taken.
    pub tcp_idle: Duration,
    /// Secrets for DNS cookies (RFC 9018), the same on every node. The first makes new cookies, all are accepted.
    /// Default: none, no cookies.
    pub cookie_secrets: Vec<CookieSecret>,
    /// Limit on UDP answers to one network; none = no limit (benchmarks). Default: [`RateLimit::default`].
    pub rate_limit: Option<RateLimit>,
    /// Tells where clients are that no rule of the operator speaks of. Default: none.
    pub regions: Option<Arc<GeoDatabase>>,
}

impl Default for DnsConfig {
    fn default() -> Self {
        Self {
            listen: Vec::new(),
            udp_threads: thread::available_parallelism().map_or(1, NonZeroUsize::get),
            nsid: String::new(),
            max_tcp_connections: 1000,
            max_tcp_connections_per_network: 100,
            max_tcp_queries: 1000,
            tcp_idle: Duration::from_secs(10),
            cookie_secrets: Vec::new(),
            rate_limit: Some(RateLimit::default()),
            regions: None,
        }
    }
}

impl DnsConfig {
    /// Refuses what cannot work.
    pub(crate) fn check(&self) -> Result<(), DnsError> {
        let bad = |what: &str| Err(DnsError::Config { what: what.to_owned() });
        if self.listen.is_empty() {
            return bad("no address to listen on; name at least one");
        }
        if self.udp_threads == 0 || self.udp_threads > UDP_THREADS_MAX {
            return bad("the number of UDP threads per address must be 1 to 256");
        }
        if self.nsid.len() > NSID_MAX {
            return bad("the NSID has more than 64 bytes; use the node's short name");
        }
        if self.max_tcp_connections == 0
            || self.max_tcp_connections_per_network == 0
            || self.max_tcp_queries == 0
            || self.tcp_idle.is_zero()
        {
            return bad("limits on TCP must be above 0: resolvers need TCP for truncated answers");
        }
        if let Some(limit) = self.rate_limit
            && !(1..=RATE_MAX).contains(&limit.per_second)
        {
            return bad("the rate limit must be 1 to 1000000 answers per second; leave it out for no limit");
        }
        Ok(())
    }
}

/// A limit on UDP answers, shared by one network: /24 of IPv4, /56 of IPv6. Beyond it every second answer is sent
/// empty and truncated, so that real clients come back by TCP, and the others are dropped. Clients with a valid
/// cookie are not limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Answers per second, for ever.
    pub per_second: u32,
    /// Answers at once, after a rest.
    pub burst: u32,
}

impl Default for RateLimit {
    /// 1000 a second, 2000 at once: more than a large public resolver asks for names with a TTL of 30 s, far less
    /// than a victim of forged sources would notice.
    fn default() -> Self {
        Self { per_second: 1000, burst: 2000 }
    }
}

/// A key for DNS cookies (RFC 9018 §4.4). Does not print.
#[derive(Clone, PartialEq, Eq)]
pub struct CookieSecret(pub [u8; 16]);

impl fmt::Debug for CookieSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CookieSecret(…)")
    }
}
