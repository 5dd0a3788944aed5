//! `join --check`: every port is tried from both sides before anything is written.
//!
//! The joiner opens its own ports and answers a nonce on each; a node of the cluster connects to them and says what
//! it got. The joiner in turn connects to every node. Only a holder of a valid token can have probes sent, they go
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
    pub(super) probe: Probe,
}

/// Every port of the configuration.
pub(super) fn ports(config: &Config) -> Vec<Port> {
    let public = config.public_addresses.first().copied();
    let reach = |bind: SocketAddr| match public {
        Some(ip) if bind.ip().is_unspecified() => SocketAddr::new(ip, bind.port()),
        _ => bind,
    };
    let port = |what: &str, transport, bind: SocketAddr, address| {
        let probe = Probe { what: what.to_owned(), transport, address };
        Port { bind, probe }
    };
    let mut ports = vec![port("peers", Transport::Tcp, config.peer_listen, config.peer_advertise)];
    ports.extend(config.https.iter().map(|a| port("https", Transport::Tcp, *a, reach(*a))));
    ports.extend(config.http.iter().map(|a| port("http", Transport::Tcp, *a, reach(*a))));
    for a in &config.dns {
        ports.push(port("dns", Transport::Udp, *a, reach(*a)));
        ports.push(port("dns", Transport::Tcp, *a, reach(*a)));
    }
    let endpoint = config.tunnel_endpoint.parse().unwrap_or_else(|_| reach(config.tunnel_listen));
    ports.push(port("tunnel", Transport::Udp, config.tunnel_listen, endpoint));
    ports
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
            let opened = match port.probe.transport {
                Transport::Tcp => responders.tcp(port.bind, nonce).await,
                Transport::Udp => responders.udp(port.bind, nonce).await,
            };
            if let Err(error) = opened {
                responders
                    .failed
                    .push((port.probe.clone(), format!("cannot listen on {}: {error}", port.bind)));
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
            (position, tried.map_err(|failure| told(failure, probe.address.ip(), remote)))
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

async fn try_one(probe: &Probe, nonce: &str) -> Result<(), String> {
    let attempt = async {
        match probe.transport {
            Transport::Tcp => tcp_nonce(probe.address, nonce.len()).await,
            Transport::Udp => udp_nonce(probe.address, nonce).await,
        }
    };
    let got = timeout(PROBE_TIMEOUT, attempt)
        .await
        .map_err(|_| format!("no answer within {} s: is a firewall in the way?", PROBE_TIMEOUT.as_secs()))?
        .map_err(|error| error.to_string())?;
    if got == nonce.as_bytes() { Ok(()) } else { Err("somebody else answers there".to_owned()) }
}

/// What a joiner may know of a failed probe. A token is no licence to scan other hosts: of an address that is not
/// where the joiner comes from it learns only that its own nonce was not heard there.
fn told(failure: String, address: IpAddr, remote: IpAddr) -> String {
    let own = address == remote || (address.is_loopback() && remote.is_loopback());
    if own {
        failure
    } else {
        format!("not reached; you come from {remote}, is {address} this host's address?")
    }
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

/// Whether a TCP connection to `address` comes about.
pub(super) async fn reaches(address: SocketAddr) -> Result<(), String> {
    match timeout(PROBE_TIMEOUT, TcpStream::connect(address)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} s: is a firewall in the way?", PROBE_TIMEOUT.as_secs())),
    }
}
