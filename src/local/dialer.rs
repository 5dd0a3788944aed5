//! How the edge reaches a target: through the local tunnel if it is alive, else relayed by a node whose tunnel is.
//!
//! A relayed request is never relayed again: the node that is asked uses its own tunnel or says no.

use std::{io, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use pangolin_core::{
    NodeId, SiteId, codec,
    plan::{EdgePlan, RouteTarget},
};
use pangolin_edge::{BoxedDatagrams, BoxedIo, Datagrams, DialError, Dialed, Dialer, Via};
use pangolin_peer::{Handler, PeerStream, Peers, Service};
use pangolin_tunnel::{DialError as TunnelDialError, TunnelDatagrams, TunnelLayer};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional_with_sizes},
    time::timeout,
};
use tracing::debug;

use super::{local_sites::LocalSites, reports::Reports};

/// How long a connection through a tunnel may take: a live one answers in a round trip.
const DIAL_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the node that relays may take to answer, its own dialing included.
const RELAY_TIMEOUT: Duration = Duration::from_millis(2500);
/// Largest header or refusal on a relay stream.
const HEADER_MAX: usize = 1024;
/// Buffer per direction of a relayed stream, bytes.
const BUFFER: usize = 64 * 1024;
/// First byte of the answer to a relay header.
const ACCEPTED: u8 = 0;
const REFUSED: u8 = 1;

/// What the first bytes of a relay stream say.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct RelayHeader {
    site: SiteId,
    port: u16,
}

/// See [`crate::fuzz`].
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(bytes: &[u8]) {
    let _ = codec::decode::<RelayHeader>(bytes, HEADER_MAX);
}

/// Datagrams through a tunnel of this node.
struct Session(TunnelDatagrams);

impl Datagrams for Session {
    fn send<'a>(&'a self, datagram: &'a [u8]) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(self.0.send(datagram))
    }

    fn receive<'a>(&'a self, buffer: &'a mut [u8]) -> BoxFuture<'a, io::Result<usize>> {
        Box::pin(self.0.recv(buffer))
    }
}

/// Reaches targets for the edge.
pub struct NodeDialer {
    /// This node.
    pub node: NodeId,
    /// Its own tunnels.
    pub tunnel: TunnelLayer,
    /// The way to other nodes.
    pub peers: Peers,
    /// Who has which tunnel.
    pub reports: Reports,
    /// Home and standbys of each site.
    pub plan: Arc<ArcSwap<EdgePlan>>,
    /// Sites that need no tunnel.
    pub local_sites: LocalSites,
}

impl Dialer for NodeDialer {
    fn dial(&self, target: &RouteTarget, exclude: &[NodeId]) -> BoxFuture<'_, Result<Dialed, DialError>> {
        let (site, port, exclude) = (target.site, target.port, exclude.to_vec());
        Box::pin(async move { self.reach(site, port, &exclude).await })
    }

    /// Through this node's own tunnel: relays between nodes carry streams.
    fn dial_datagrams(
        &self,
        target: &RouteTarget,
        exclude: &[NodeId],
    ) -> BoxFuture<'_, Result<(BoxedDatagrams, Via), DialError>> {
        let (site, port) = (target.site, target.port);
        let usable = !exclude.contains(&self.node);
        Box::pin(async move {
            if usable && self.local_sites.is_here(site) {
                let datagrams = self.local_sites.connect_udp(site, port).await?;
                return Ok((Box::new(datagrams) as BoxedDatagrams, Via::Local));
            }
            if !usable || !self.tunnel.seen().borrow().get(&site).is_some_and(|seen| seen.alive) {
                return Err(DialError::no_path(format!("this node has no live tunnel to site {site}")));
            }
            let datagrams = self.tunnel.dial_udp(site, port).await;
            let datagrams = datagrams.map_err(|error| DialError::at(Via::Local, error.to_string()))?;
            Ok((Box::new(Session(datagrams)) as BoxedDatagrams, Via::Local))
        })
    }

    fn own_node(&self) -> Option<NodeId> {
        Some(self.node)
    }
}

impl NodeDialer {
    async fn reach(&self, site: SiteId, port: u16, exclude: &[NodeId]) -> Result<Dialed, DialError> {
        let mut failures = Vec::new();
        for node in self.ways(site, exclude) {
            let dialed = if node == self.node {
                self.local(site, port).await
            } else {
                self.relay(node, site, port).await
            };
            match dialed {
                Ok(dialed) => return Ok(dialed),
                Err(error) => failures.push(error),
            }
        }
        Err(failures
            .pop()
            .unwrap_or_else(|| DialError::no_path(format!("no node has a live tunnel to site {site}"))))
    }

    fn ways(&self, site: SiteId, exclude: &[NodeId]) -> Vec<NodeId> {
        let local = self.tunnel.seen().borrow().get(&site).is_some_and(|seen| seen.alive);
        let remote = self.reports.tunnels_to(site);
        let plan = self.plan.load();
        let placement = plan.placements.get(&site).map_or(&[][..], Vec::as_slice);
        let (local, remote) = match self.local_sites.nodes(site) {
            Some(nodes) => (nodes.contains(&self.node), nodes),
            None => (local, remote),
        };
        let usable = |node: NodeId| !exclude.contains(&node) && !self.peers.is_suspect(node);
        ways(self.node, local, &remote, placement, usable)
    }

    async fn local(&self, site: SiteId, port: u16) -> Result<Dialed, DialError> {
        if self.local_sites.is_here(site) {
            let io = self.local_sites.connect(site, port).await?;
            return Ok(Dialed { io: Box::new(io), via: Via::Local });
        }
        let dialed = self.tunnel.dial_tcp(site, port, DIAL_TIMEOUT).await;
        let io = dialed.map_err(|error| match error {
            TunnelDialError::Refused { .. } => DialError::refused(Via::Local, error.to_string()),
            _ => DialError::at(Via::Local, error.to_string()),
        })?;
        Ok(Dialed { io: Box::new(io), via: Via::Local })
    }

    async fn relay(&self, node: NodeId, site: SiteId, port: u16) -> Result<Dialed, DialError> {
        let open = async {
            let mut stream =
                self.peers.open(node, Service::Relay).await.map_err(|error| error.to_string())?;
            write_header(&mut stream, &RelayHeader { site, port }).await?;
            read_answer(&mut stream).await?;
            Ok::<_, String>(stream)
        };
        let via = Via::Relay(node);
        let stream = timeout(RELAY_TIMEOUT, open)
            .await
            .map_err(|_| DialError::at(via, "no answer from the relaying node"))?
            .map_err(|reason| DialError::at(via, reason))?;
        Ok(Dialed { io: Box::new(stream), via })
    }
}

/// The order in which nodes are tried: this one if its tunnel is alive, then those whose tunnels are, home and
/// standbys first.
fn ways(
    me: NodeId,
    local: bool,
    remote: &[NodeId],
    placement: &[NodeId],
    usable: impl Fn(NodeId) -> bool,
) -> Vec<NodeId> {
    let rank = |node: &NodeId| placement.iter().position(|other| other == node).unwrap_or(usize::MAX);
    let mut others: Vec<NodeId> =
        remote.iter().copied().filter(|node| *node != me && usable(*node)).collect();
    others.sort_by_key(|node| (rank(node), *node));
    let own = (local && usable(me)).then_some(me);
    own.into_iter().chain(others).collect()
}

async fn write_header(stream: &mut PeerStream, header: &RelayHeader) -> Result<(), String> {
    let bytes = codec::encode(header).map_err(|error| error.to_string())?;
    let length = u16::try_from(bytes.len()).map_err(|error| error.to_string())?;
    let mut frame = length.to_be_bytes().to_vec();
    frame.extend(bytes);
    stream.write_all(&frame).await.map_err(|error| error.to_string())?;
    stream.flush().await.map_err(|error| error.to_string())
}

async fn read_frame(stream: &mut PeerStream) -> Result<Vec<u8>, String> {
    let length = usize::from(stream.read_u16().await.map_err(|error| error.to_string())?);
    if length > HEADER_MAX {
        return Err(format!("{length} bytes of header; {HEADER_MAX} are allowed"));
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await.map_err(|error| error.to_string())?;
    Ok(bytes)
}

async fn read_answer(stream: &mut PeerStream) -> Result<(), String> {
    match stream.read_u8().await.map_err(|error| error.to_string())? {
        ACCEPTED => Ok(()),
        _ => Err(String::from_utf8_lossy(&read_frame(stream).await?).into_owned()),
    }
}

/// Answers other nodes that ask for a target behind this node's tunnel.
#[derive(Clone)]
pub struct Relay {
    /// This node's tunnels.
    pub tunnel: TunnelLayer,
    /// Sites that need none.
    pub local_sites: LocalSites,
}

impl Handler for Relay {
    fn request(&self, _from: NodeId, _body: Bytes) -> BoxFuture<'_, Result<Bytes, String>> {
        Box::pin(async { Err("a relay is a stream, not a request".to_owned()) })
    }

    fn stream(&self, from: NodeId, stream: PeerStream) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if let Err(reason) = self.carry(stream).await {
                debug!(%from, reason, "a relay ended");
            }
        })
    }
}

impl Relay {
    async fn open(&self, site: SiteId, port: u16) -> Result<BoxedIo, String> {
        if self.local_sites.is_here(site) {
            let stream = self.local_sites.connect(site, port).await.map_err(|error| error.to_string())?;
            return Ok(Box::new(stream));
        }
        let stream =
            self.tunnel.dial_tcp(site, port, DIAL_TIMEOUT).await.map_err(|error| error.to_string())?;
        Ok(Box::new(stream))
    }

    async fn carry(&self, mut stream: PeerStream) -> Result<(), String> {
        let frame = timeout(RELAY_TIMEOUT, read_frame(&mut stream))
            .await
            .map_err(|_| "no header came".to_owned())??;
        let header: RelayHeader = codec::decode(&frame, HEADER_MAX).map_err(|error| error.to_string())?;
        let mut target = match self.open(header.site, header.port).await {
            Ok(target) => target,
            Err(reason) => return refuse(&mut stream, &reason).await,
        };
        stream.write_u8(ACCEPTED).await.map_err(|error| error.to_string())?;
        stream.flush().await.map_err(|error| error.to_string())?;
        copy_bidirectional_with_sizes(&mut stream, &mut target, BUFFER, BUFFER)
            .await
            .map(|_| ())
            .map_err(|error| error.to_string())
    }
}

async fn refuse(stream: &mut PeerStream, reason: &str) -> Result<(), String> {
    let text: String = reason.chars().take(HEADER_MAX / 4).collect();
    let length = u16::try_from(text.len()).map_err(|error| error.to_string())?;
    let mut frame = vec![REFUSED];
    frame.extend(length.to_be_bytes());
    frame.extend(text.as_bytes());
    stream.write_all(&frame).await.map_err(|error| error.to_string())?;
    stream.shutdown().await.map_err(|error| error.to_string())?;
    Err(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(ids: &[u64]) -> Vec<NodeId> {
        ids.iter().copied().map(NodeId).collect()
    }

    #[test]
    fn the_local_tunnel_comes_first_then_home_then_standbys_then_others() {
        let order = ways(NodeId(1), true, &nodes(&[1, 2, 3, 4]), &nodes(&[4, 3]), |_| true);
        assert_eq!(order, nodes(&[1, 4, 3, 2]));
    }

    #[test]
    fn suspects_and_excluded_nodes_are_left_out_this_one_too() {
        let order = ways(NodeId(1), true, &nodes(&[2, 3]), &nodes(&[2]), |node| node == NodeId(3));
        assert_eq!(order, nodes(&[3]));
        let order = ways(NodeId(1), false, &nodes(&[1, 2]), &[], |_| true);
        assert_eq!(order, nodes(&[2]));
    }
}
