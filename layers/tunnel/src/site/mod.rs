//! The site's end: one WireGuard device in this process with a tunnel to each node, and the flows nodes open.
//!
//! Used by the connector program, which needs no privileges for it: inside the tunnels it uses the kernel's TCP, in a
//! network namespace of its own, or where that may not be made, a stack in this process. All tunnels are kept warm: every node is probed
//! four times a second, and one that does not answer gets a new handshake every second, so that a node which was away
//! or has been restarted is back within about a second of being reachable. A node that is asked for more handshakes from
//! one address than it answers unproven says so, and gets the time that WireGuard takes to prove it. Which node carries
//! traffic is the nodes' affair.

mod inside;
mod interface;
mod paths;
mod round_trips;
mod run;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use pangolin_core::{id::NodeId, observation::Seen, record::TunnelKey};
use tokio::sync::{Mutex, watch};

pub(crate) use self::interface::PortDatagrams;
use self::{
    inside::{Flows, Inside},
    round_trips::RoundTrips,
};
pub use self::{
    interface::{NAMESPACE_ARGUMENT, serve_namespace},
    run::SiteTask,
};
use crate::{
    error::TunnelError,
    key::SecretKey,
    node::Backend,
    stream::{TunnelDatagrams, TunnelStream},
    wireguard,
};

/// What carries the packets of a site. The path is that of a program that calls [`serve_namespace`] when it is started
/// with [`NAMESPACE_ARGUMENT`]: mostly the program itself, as `/proc/self/exe`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SiteBackend {
    /// The best that works: the kernel's TCP in a network namespace, then the in-process stack.
    Auto(PathBuf),
    /// The kernel's TCP in a network namespace. Takes a kernel, and a container, that let everybody make a user namespace.
    Tun(PathBuf),
    /// TCP in this process.
    InProcess,
}

/// A node as the site's end has to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SiteNode {
    /// The node.
    pub node: NodeId,
    /// Where its WireGuard listens.
    pub endpoint: SocketAddr,
    /// Its WireGuard key.
    pub key: TunnelKey,
    /// Its address inside the tunnels.
    pub address: Ipv4Addr,
}

/// A flow that a node has opened.
pub struct SiteFlow {
    /// The node's end.
    pub from: SocketAddr,
    /// The port it came to, which says for which target it is.
    pub port: u16,
    /// What flows.
    pub kind: FlowKind,
}

/// The kinds of flows.
pub enum FlowKind {
    /// Bytes. [`TunnelStream::reset`] it when the target cannot be reached.
    Tcp(TunnelStream),
    /// Datagrams. Receiving fails with `TimedOut` when the session has been idle for 90 seconds.
    Udp(TunnelDatagrams),
}

/// The tunnels of a site. A cheap handle; the work is done by [`SiteTask`].
#[derive(Clone)]
pub struct SiteTunnels {
    inside: Inside,
    nodes: Arc<watch::Sender<Vec<SiteNode>>>,
    accepted: Arc<Mutex<Flows>>,
    paths: watch::Receiver<BTreeMap<NodeId, Seen>>,
    round_trips: Arc<parking_lot::Mutex<RoundTrips>>,
}

impl SiteTunnels {
    /// Opens the device. `address` is the site's own inside the tunnels.
    ///
    /// # Errors
    /// No UDP socket can be had, or not the backend that was asked for. [`SiteBackend::Auto`] settles for less and logs
    /// what it took and why.
    pub async fn open(
        key: SecretKey,
        address: Ipv4Addr,
        mtu: u16,
        backend: &SiteBackend,
    ) -> Result<(Self, SiteTask), TunnelError> {
        if !crate::node::MTU_RANGE.contains(&mtu) {
            return Err(TunnelError::Mtu(mtu));
        }
        let socket = wireguard::bind_any().map_err(|source| TunnelError::Listen {
            address: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            source,
        })?;
        let proofs = socket.proofs();
        let made = inside::open(backend, socket, &key, address, mtu).await?;
        let (nodes, wanted) = watch::channel(Vec::new());
        let (seen, paths) = watch::channel(BTreeMap::new());
        let round_trips = Arc::default();
        let task = SiteTask::new(
            made.inside.clone(),
            (made.device, proofs),
            made.probes,
            wanted,
            seen,
            Arc::clone(&round_trips),
        );
        let accepted = Arc::new(Mutex::new(made.accepted));
        Ok((Self { inside: made.inside, nodes: Arc::new(nodes), accepted, paths, round_trips }, task))
    }

    /// What carries the packets.
    #[must_use]
    pub fn backend(&self) -> Backend {
        self.inside.backend()
    }

    /// Sets the nodes to keep tunnels to. Those that stay as they are keep their sessions, and so do those that only
    /// change their endpoint.
    pub fn set_nodes(&self, nodes: Vec<SiteNode>) {
        self.nodes.send_replace(nodes);
    }

    /// Sets the ports of the site's address on which flows are accepted. Flows that exist are not touched.
    pub fn listen(&self, tcp: BTreeSet<u16>, udp: BTreeSet<u16>) {
        self.inside.listen(tcp, udp);
    }

    /// Waits for the next flow; none = the task has ended.
    pub async fn accept(&self) -> Option<SiteFlow> {
        tokio::select! {
            flow = async { self.accepted.lock().await.next().await } => flow,
            () = self.inside.closed() => None,
        }
    }

    /// Which nodes have a live tunnel to this site, by their answers to probes.
    #[must_use]
    pub fn paths(&self) -> watch::Receiver<BTreeMap<NodeId, Seen>> {
        self.paths.clone()
    }

    /// How long the nodes take to answer a probe, as far as they have answered any.
    #[must_use]
    pub fn round_trips(&self) -> BTreeMap<NodeId, Duration> {
        self.round_trips.lock().measured()
    }
}
