//! `join --check`: every port is tried from both sides before anything is written.
//!
//! The joiner opens its own ports and answers a nonce on each; every node of the cluster connects to them, at each of the
//! joiner's public addresses, and says what it got. The joiner in turn connects to every node: to its port for peers, and
//! to that of its edge. What leaves this host over UDP cannot be tried: a node says nothing on the port of its tunnels to
//! whom it does not know. Only a holder of a valid token can have probes sent, they go
//! to the joiner's own addresses, and their number is limited.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use pangolin_core::Slug;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    task::JoinSet,
    time::timeout,
};

use crate::config::Config;

/// Most probes of one check.
pub(crate) const PROBES_MAX: usize = 64;
/// How long one probe may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// How what could not be tried begins, in the place of why it failed: a node without IPv6 knows nothing of an address.
const UNTRIED: &str = "could not be tried: ";
/// Longest nonce, bytes.
pub(super) const NONCE_MAX: usize = 64;

/// One port to try.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Probe {
    /// What the port is for.
    pub(super) what: String,
    /// TCP or UDP.
    pub(super) transport: Transport,
    /// Where.
    pub(super) address: SocketAddr,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Transport {
    Tcp,
    Udp,
}

impl std::fmt::Display for Probe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let transport = match self.transport {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
        };
        write!(f, "{} {}/{transport}", self.what, self.address)
    }
}

/// How a joiner looks from one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct View {
    /// The node's name.
    pub(crate) node: Slug,
    /// How far its clock is ahead of the answering node's, in milliseconds, at least; negative = behind.
    pub(crate) ahead_ms: i64,
    /// Outcome of each probe, in the order asked; none = reached.
    pub(crate) results: Vec<Option<String>>,
}

/// A port of the configuration: where it is bound, and where others reach it.
#[derive(Clone, Debug)]
pub(super) struct Port {
    bind: SocketAddr,
    transport: Transport,
    pub(super) probes: Vec<Probe>,
}

/// Every port of the configuration, at every public address that it can be reached at.
pub(super) fn ports(config: &Config) -> Vec<Port> {
    let reach = |bind: SocketAddr| reached_at(bind, &config.public_addresses);
    let port = |what: &str, transport, bind: SocketAddr, addresses: Vec<SocketAddr>| {
        let probe = |address| Probe { what: what.to_owned(), transport, address };
        Port { bind, transport, probes: addresses.into_iter().map(probe).collect() }
    };
    let mut ports = vec![port("peers", Transport::Tcp, config.peer_listen, vec![config.peer_advertise])];
    ports.extend(config.https.iter().map(|a| port("https", Transport::Tcp, *a, reach(*a))));
    ports.extend(config.http.iter().map(|a| port("http", Transport::Tcp, *a, reach(*a))));
    for a in &config.dns {
        ports.push(port("dns", Transport::Udp, *a, reach(*a)));
        ports.push(port("dns", Transport::Tcp, *a, reach(*a)));
    }
    let endpoint = config.tunnel_endpoint.parse().map_or_else(|_| reach(config.tunnel_listen), |at| vec![at]);
    ports.push(port("tunnel", Transport::Udp, config.tunnel_listen, endpoint));
    ports
}

/// Where others reach what is bound there. What is bound to every IPv6 address takes IPv4 as well.
fn reached_at(bind: SocketAddr, public: &[IpAddr]) -> Vec<SocketAddr> {
    if !bind.ip().is_unspecified() {
        return vec![bind];
    }
    let at = |ip: &IpAddr| SocketAddr::new(*ip, bind.port());
    let taken: Vec<SocketAddr> = public.iter().filter(|ip| bind.is_ipv6() || ip.is_ipv4()).map(at).collect();
    match (taken.is_empty(), public.first()) {
        (false, _) => taken,
        // It is found out when it is tried.
        (true, Some(ip)) => vec![at(ip)],
        (true, None) => vec![bind],
    }
}

/// Answers the nonce on every port as long as it lives.
pub(super) struct Responders {
    tasks: JoinSet<()>,
    /// Ports that could not be opened, with the reason.
    pub(super) failed: Vec<(Probe, String)>,
}

impl Responders {
    pub(super) async fn open(ports: &[Port], nonce: &str) -> Self {
        let mut responders = Self { tasks: JoinSet::new(), failed: Vec::new() };
        for port in ports {
            let opened = match port.transport {
                Transport::Tcp => responders.tcp(port.bind, nonce).await,
                Transport::Udp => responders.udp(port.bind, nonce).await,
            };
            if let Err(error) = opened {
                let why = format!("cannot listen on {}: {error}", port.bind);
                responders.failed.extend(port.probes.iter().map(|probe| (probe.clone(), why.clone())));
            }
        }
        responders
    }

    async fn tcp(&mut self, bind: SocketAddr, nonce: &str) -> std::io::Result<()> {
        let (listener, nonce) = (TcpListener::bind(bind).await?, nonce.to_owned());
        self.tasks.spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                // Whoever hangs up early has asked for nothing.
                let _ = timeout(PROBE_TIMEOUT, stream.write_all(nonce.as_bytes())).await;
            }
        });
        Ok(())
    }

    async fn udp(&mut self, bind: SocketAddr, nonce: &str) -> std::io::Result<()> {
        let (socket, nonce) = (UdpSocket::bind(bind).await?, nonce.to_owned());
        self.tasks.spawn(async move {
            let mut buffer = [0; NONCE_MAX];
            // Never more bytes than came in: no amplification.
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                let answer = &nonce.as_bytes()[..nonce.len().min(length)];
                let _ = socket.send_to(answer, from).await;
            }
        });
        Ok(())
    }
}

/// Tries ports of a joiner that came from `remote`; none = reached.
pub(crate) async fn run(probes: &[Probe], nonce: &str, remote: IpAddr) -> Vec<Option<String>> {
    let mut running = JoinSet::new();
    for (position, probe) in probes.iter().cloned().enumerate() {
        let nonce = nonce.to_owned();
        running.spawn(async move {
            let tried = try_one(&probe, &nonce).await;
            (position, tried.map_err(|failure| failure.told(probe.address.ip(), remote)))
        });
    }
    let mut results = vec![Some("the probe was not run".to_owned()); probes.len()];
    while let Some(ended) = running.join_next().await {
        if let Ok((position, result)) = ended {
            results[position] = result.err();
        }
    }
    results
}

/// Why a port was not reached.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Failure {
    /// There is no way from here to such an address, whoever has it.
    NoWay,
    /// In words.
    Because(String),
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::NetworkUnreachable | std::io::ErrorKind::AddrNotAvailable => Self::NoWay,
            _ => Self::Because(error.to_string()),
        }
    }
}

impl Failure {
    fn silence() -> Self {
        Self::Because(format!("no answer within {} s: is a firewall in the way?", PROBE_TIMEOUT.as_secs()))
    }

    /// What a joiner may know of a failed probe. A token is no licence to scan other hosts: of an address that is not
    /// where the joiner comes from it learns only that its own nonce was not heard there.
    fn told(self, address: IpAddr, remote: IpAddr) -> String {
        let own = address == remote || (address.is_loopback() && remote.is_loopback());
        match self {
            Self::NoWay if address.is_ipv6() => format!("{UNTRIED}no way leads from there to IPv6 addresses"),
            Self::NoWay if own => "no way leads there".to_owned(),
            Self::Because(reason) if own => reason,
            _ => format!("not reached; you come from {remote}, is {address} this host's address?"),
        }
    }
}

/// What came of a probe: a problem, or why there is nothing to say; neither where it was reached.
pub(super) fn outcome(result: Option<String>) -> (Option<String>, Option<String>) {
    match result {
        Some(text) if text.starts_with(UNTRIED) => (None, Some(text)),
        problem => (problem, None),
    }
}

async fn try_one(probe: &Probe, nonce: &str) -> Result<(), Failure> {
    let attempt = async {
        match probe.transport {
            Transport::Tcp => tcp_nonce(probe.address, nonce.len()).await,
            Transport::Udp => udp_nonce(probe.address, nonce).await,
        }
    };
    let got = timeout(PROBE_TIMEOUT, attempt).await.map_err(|_| Failure::silence())??;
    if got == nonce.as_bytes() {
        return Ok(());
    }
    Err(Failure::Because("somebody else answers there".to_owned()))
}

async fn tcp_nonce(address: SocketAddr, length: usize) -> std::io::Result<Vec<u8>> {
    let mut got = vec![0; length];
    TcpStream::connect(address).await?.read_exact(&mut got).await?;
    Ok(got)
}

async fn udp_nonce(address: SocketAddr, nonce: &str) -> std::io::Result<Vec<u8>> {
    let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(address).await?;
    // A query as long as the answer, so that the responder never amplifies.
    socket.send(&vec![0; nonce.len()]).await?;
    let mut got = vec![0; NONCE_MAX];
    let length = socket.recv(&mut got).await?;
    got.truncate(length);
    Ok(got)
}

/// Whether a TCP connection to `address` comes about; none = it does.
pub(super) async fn reaches(address: SocketAddr) -> Option<String> {
    let failure = match timeout(PROBE_TIMEOUT, TcpStream::connect(address)).await {
        Ok(Ok(_)) => return None,
        Ok(Err(error)) => Failure::from(error),
        Err(_) => Failure::silence(),
    };
    Some(match failure {
        Failure::NoWay if address.is_ipv6() => format!("{UNTRIED}this host has no way to IPv6 addresses"),
        Failure::NoWay => "no way leads there".to_owned(),
        Failure::Because(reason) => reason,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_port_is_tried_at_every_public_address_that_leads_to_it() {
        let both: &[IpAddr] = &[at("192.0.2.1:0").ip(), at("[2001:db8::1]:0").ip()];
        for (bind, public, expected) in [
            ("0.0.0.0:443", both, &["192.0.2.1:443"][..]),
            ("[::]:443", both, &["192.0.2.1:443", "[2001:db8::1]:443"]),
            ("192.0.2.7:443", both, &["192.0.2.7:443"]),
            ("0.0.0.0:443", &both[1..], &["[2001:db8::1]:443"]),
            ("0.0.0.0:443", &[], &["0.0.0.0:443"]),
        ] {
            let expected: Vec<SocketAddr> = expected.iter().map(|text| at(text)).collect();
            assert_eq!(reached_at(at(bind), public), expected, "{bind}");
        }
    }

    #[test]
    fn a_joiner_learns_of_its_own_address_why_it_was_not_reached_and_of_others_only_that() {
        let (own, other, six) = (at("192.0.2.1:0").ip(), at("192.0.2.9:0").ip(), at("[2001:db8::1]:0").ip());
        let refused = || Failure::Because("connection refused".into());
        for (failure, address, told) in [
            (refused(), own, "connection refused"),
            (refused(), other, "not reached; you come from 192.0.2.1"),
            (refused(), six, "not reached; you come from 192.0.2.1"),
            (Failure::NoWay, own, "no way leads there"),
            (Failure::NoWay, other, "not reached; you come from 192.0.2.1"),
            (Failure::NoWay, six, "could not be tried: "),
        ] {
            let text = failure.told(address, own);
            assert!(text.starts_with(told), "{text:?}, {told:?}");
            assert_eq!(outcome(Some(text.clone())).1.is_some(), told.starts_with(UNTRIED), "{text:?}");
        }
        assert_eq!(outcome(None), (None, None));
    }

    #[tokio::test]
    async fn a_port_answers_with_the_nonce_and_one_where_nobody_listens_says_so() {
        let bind = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port");
        let probes: Vec<Probe> = [Transport::Tcp, Transport::Udp]
            .map(|transport| Probe { what: "x".into(), transport, address: bind })
            .into();
        let port = |probe: &Probe| Port { bind, transport: probe.transport, probes: vec![probe.clone()] };
        let ports: Vec<Port> = probes.iter().map(port).collect();
        let responders = Responders::open(&ports, "n0nce").await;
        assert!(responders.failed.is_empty(), "{:?}", responders.failed);
        assert_eq!(run(&probes, "n0nce", bind.ip()).await, [None, None]);
        assert_eq!(reaches(bind).await, None);
        let other = run(&probes[..1], "other", bind.ip()).await;
        assert!(other[0].as_ref().is_some_and(|why| why.contains("somebody else")), "{other:?}");
        drop(responders);
        let gone = run(&probes[..1], "n0nce", bind.ip()).await;
        assert!(gone[0].is_some(), "{gone:?}");
    }
}
