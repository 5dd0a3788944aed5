//! The site's end: one WireGuard device in this process with a tunnel to each node, and the flows nodes open.
//!
//! Used by the connector program, which needs no privileges for it. All tunnels are kept warm: every node is probed
//! four times a second, and one that does not answer gets a new handshake every second, so that a node which was away
//! or has been restarted is back within about a second of being reachable. Which node carries traffic is the nodes'
//! affair.

mod paths;
mod run;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use pangolin_core::{id::NodeId, observation::Seen, record::TunnelKey};
use tokio::sync::{Mutex, mpsc, watch};

pub use self::run::SiteTask;
use crate::{
    error::TunnelError,
    key::SecretKey,
    stack::{Accepted, Stack},
    stream::{TunnelDatagrams, TunnelStream},
    wireguard::{self, FromStack, ToStack, Userspace},
};

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
    stack: Stack,
    nodes: Arc<watch::Sender<Vec<SiteNode>>>,
    accepted: Arc<Mutex<mpsc::Receiver<Accepted>>>,
    paths: watch::Receiver<BTreeMap<NodeId, Seen>>,
}

impl SiteTunnels {
    /// Opens the device. `address` is the site's own inside the tunnels.
    ///
    /// # Errors
    /// No UDP socket can be had.
    pub async fn open(key: SecretKey, address: Ipv4Addr, mtu: u16) -> Result<(Self, SiteTask), TunnelError> {
        if !crate::node::MTU_RANGE.contains(&mtu) {
            return Err(TunnelError::Mtu(mtu));
        }
        let socket = wireguard::bind_any().map_err(|source| TunnelError::Listen {
            address: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            source,
        })?;
        let (stack, queues) = Stack::new(address, mtu);
        let from_stack = FromStack::new(queues.out, mtu);
        let device = Userspace::start(socket, &key, ToStack(stack.clone()), from_stack).await?;
        let (nodes, wanted) = watch::channel(Vec::new());
        let (seen, paths) = watch::channel(BTreeMap::new());
        let task = SiteTask::new(stack.clone(), device, queues.probes, wanted, seen);
        let tunnels =
            Self { stack, nodes: Arc::new(nodes), accepted: Arc::new(Mutex::new(queues.accepted)), paths };
        Ok((tunnels, task))
    }

    /// Sets the nodes to keep tunnels to. Those that stay as they are keep their sessions, and so do those that only
    /// change their endpoint.
    pub fn set_nodes(&self, nodes: Vec<SiteNode>) {
        self.nodes.send_replace(nodes);
    }

    /// Sets the ports of the site's address on which flows are accepted. Flows that exist are not touched.
    pub fn listen(&self, tcp: BTreeSet<u16>, udp: BTreeSet<u16>) {
        self.stack.listen(tcp, udp);
    }

    /// Waits for the next flow; none = the task has ended.
    pub async fn accept(&self) -> Option<SiteFlow> {
        let mtu = self.stack.mtu();
        let accepted = tokio::select! {
            accepted = async { self.accepted.lock().await.recv().await } => accepted?,
            () = self.stack.closed() => return None,
        };
        let (key, kind) = match accepted {
            Accepted::Tcp(key, stream) => (key, FlowKind::Tcp(TunnelStream::stack(stream))),
            Accepted::Udp(key, flow) => (key, FlowKind::Udp(TunnelDatagrams::stack(flow, mtu))),
        };
        Some(SiteFlow { from: SocketAddr::V4(key.remote), port: key.local.port(), kind })
    }

    /// Which nodes have a live tunnel to this site, by their answers to probes.
    #[must_use]
    pub fn paths(&self) -> watch::Receiver<BTreeMap<NodeId, Seen>> {
        self.paths.clone()
    }
}
