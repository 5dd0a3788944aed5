//! Targets that nodes reach by themselves, without a tunnel.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use pangolin_core::{NodeId, SiteId, plan::EdgePlan};
use pangolin_edge::{Datagrams, DialError, Via};
use tokio::{
    net::{TcpStream, UdpSocket, lookup_host},
    time::timeout,
};
use tracing::warn;

use super::local_targets::LocalTargets;

/// How long a connection may take: what is near answers in a moment.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The local sites of the plan.
#[derive(Clone)]
pub struct LocalSites {
    /// This node.
    pub node: NodeId,
    /// Where they stand.
    pub plan: Arc<ArcSwap<EdgePlan>>,
    /// What this node may reach.
    pub policy: Arc<LocalTargets>,
}

impl LocalSites {
    /// The nodes that reach a site by themselves; none if it lies behind a connector.
    #[must_use]
    pub fn nodes(&self, site: SiteId) -> Option<Vec<NodeId>> {
        self.plan.load().local_sites.get(&site).map(|site| site.nodes.clone())
    }

    /// Whether this node is one of them.
    #[must_use]
    pub fn is_here(&self, site: SiteId) -> bool {
        self.plan.load().local_sites.get(&site).is_some_and(|site| site.nodes.contains(&self.node))
    }

    /// Host and port of the target that a tunnel port stands for. Only these are reached: who relays names a port, not
    /// an address.
    fn target(&self, site: SiteId, port: u16) -> Result<(String, u16), DialError> {
        let plan = self.plan.load();
        let known = plan.local_sites.get(&site).filter(|site| site.nodes.contains(&self.node));
        let target = known.and_then(|site| site.targets.get(&port));
        let target = target.map(|target| (target.host.clone(), target.port));
        target.ok_or_else(|| DialError::no_path(format!("site {site} is not reached by this node")))
    }

    /// Connects to a target for a visitor.
    ///
    /// # Errors
    /// This node does not reach the site, or the target refuses or does not answer. What the policy refuses is told in
    /// the log.
    pub async fn connect(&self, site: SiteId, port: u16) -> Result<TcpStream, DialError> {
        let (host, port) = self.target(site, port)?;
        let stream = self.open(&host, port).await;
        stream.map_err(|error| missed(site, &host, port, &error))
    }

    /// Connects to a target to check it, under the same policy. What it refuses is what the check finds: the log would
    /// say the same every few seconds.
    ///
    /// # Errors
    /// This node does not reach the site, or the target refuses or does not answer.
    pub async fn connect_to_check(&self, site: SiteId, port: u16) -> Result<TcpStream, DialError> {
        let (host, port) = self.target(site, port)?;
        self.open(&host, port).await.map_err(|error| not_reached(&host, port, &error))
    }

    async fn open(&self, host: &str, port: u16) -> io::Result<TcpStream> {
        let connect = async {
            let addresses = self.addresses(host, port).await?;
            TcpStream::connect(addresses.as_slice()).await
        };
        let connected = timeout(CONNECT_TIMEOUT, connect).await;
        let stream = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
        // Without it small messages wait for each other; a kernel that refuses it still carries them.
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }

    /// Opens a way for datagrams to a target.
    ///
    /// # Errors
    /// This node does not reach the site, or the host has no address.
    pub async fn connect_udp(&self, site: SiteId, port: u16) -> Result<LocalDatagrams, DialError> {
        let (host, port) = self.target(site, port)?;
        let open = async {
            let missing = || io::Error::new(io::ErrorKind::NotFound, "the name has no address");
            let address = self.addresses(&host, port).await?.first().copied().ok_or_else(missing)?;
            let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(any.parse::<SocketAddr>().map_err(io::Error::other)?).await?;
            socket.connect(address).await?;
            Ok::<_, io::Error>(LocalDatagrams(socket))
        };
        let opened =
            timeout(CONNECT_TIMEOUT, open).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        opened.map_err(|error| missed(site, &host, port, &error))
    }

    /// The addresses of a target that this node may reach. What is connected to are these, whatever the name stands for
    /// a moment later.
    async fn addresses(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        self.policy.permit(lookup_host((host, port)).await?)
    }
}

/// A visitor's target was not reached. A refusal by policy is for the operator of this host to know.
fn missed(site: SiteId, host: &str, port: u16, error: &io::Error) -> DialError {
    if error.kind() == io::ErrorKind::PermissionDenied {
        warn!(%site, host, port, %error, "a local target is refused");
    }
    not_reached(host, port, error)
}

fn not_reached(host: &str, port: u16, error: &io::Error) -> DialError {
    DialError::refused(Via::Local, format!("{host}:{port} is not reached: {error}"))
}

/// Datagrams between this node and a target near it.
pub struct LocalDatagrams(UdpSocket);

impl Datagrams for LocalDatagrams {
    fn send<'a>(&'a self, datagram: &'a [u8]) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move {
            match self.0.send(datagram).await {
                // The target's port is closed for now: the datagram is lost, the way is not.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
                sent => sent.map(drop),
            }
        })
    }

    fn receive<'a>(&'a self, buffer: &'a mut [u8]) -> BoxFuture<'a, io::Result<usize>> {
        Box::pin(async move {
            loop {
                match self.0.recv(buffer).await {
                    Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                    received => return received,
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use pangolin_core::{
        TargetId,
        plan::{LocalSite, TunnelTarget},
        record::Method,
    };

    use super::*;

    const SITE: SiteId = SiteId(4);

    fn sites(port: u16, policy: LocalTargets) -> LocalSites {
        let target = TunnelTarget {
            id: TargetId(1),
            method: Method::Http,
            tunnel_port: 40_000,
            host: "127.0.0.1".to_owned(),
            port,
            health_check: None,
        };
        let site = LocalSite { nodes: vec![NodeId(1)], targets: [(40_000, target)].into() };
        let plan = EdgePlan { local_sites: [(SITE, site)].into(), ..EdgePlan::default() };
        LocalSites { node: NodeId(1), plan: Arc::new(ArcSwap::from_pointee(plan)), policy: Arc::new(policy) }
    }

    #[tokio::test]
    async fn a_target_on_the_nodes_own_loopback_is_refused_with_a_reason_unless_it_is_allowed() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let port = listener.local_addr().expect("an address").port();
        let refusing = sites(port, LocalTargets::default());
        for error in [
            refusing.connect(SITE, 40_000).await.map(drop).expect_err("refused"),
            refusing.connect_to_check(SITE, 40_000).await.map(drop).expect_err("refused"),
            refusing.connect_udp(SITE, 40_000).await.map(drop).expect_err("refused"),
        ] {
            assert!(error.reason.contains("local_targets"), "{}", error.reason);
        }
        let allow = vec!["127.0.0.0/8".parse().expect("a network")];
        let allowing = sites(port, LocalTargets::new(allow, Vec::new()).expect("a policy"));
        allowing.connect(SITE, 40_000).await.expect("connected");
        allowing.connect_udp(SITE, 40_000).await.expect("opened");
        allowing.connect(SITE, 40_001).await.map(drop).expect_err("no such target");
    }
}
