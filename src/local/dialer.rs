//! How the edge reaches a target: through the local tunnel if it is alive, else relayed by a node whose tunnel is.
//!
//! A relayed request is never relayed again: the node that is asked uses its own tunnel or says no.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use pangolin_core::{
    NodeId, SiteId, codec,
    plan::{EdgePlan, RouteTarget},
};
use pangolin_edge::{BoxedDatagrams, DialError, Dialed, Dialer, Via};
use pangolin_peer::{Handler, PeerStream, Peers, Service};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt, copy_bidirectional_with_sizes},
    time::timeout,
};
use tracing::debug;

use super::{
    datagrams::{self, DatagramHeader, Relayed},
    reach::Reach,
    reports::Reports,
};

/// How long the node that relays may take to answer, its own dialing included.
const RELAY_TIMEOUT: Duration = Duration::from_millis(2500);
/// Largest header or refusal on a relay stream.
const HEADER_MAX: usize = 1024;
/// Buffer per direction of a relayed stream, bytes.
const BUFFER: usize = 64 * 1024;
/// First byte of the answer to a relay header.
const ACCEPTED: u8 = 0;
const REFUSED: u8 = 1;
/// The relaying node has reached the site, and the target refuses.
const TARGET_REFUSED: u8 = 2;

/// What the first bytes of a relay stream say.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct RelayHeader {
    site: SiteId,
    port: u16,
}

/// See [`crate::fuzz`].
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(bytes: &[u8]) {
    use futures_util::FutureExt as _;

    // All bytes are there: it never waits.
    for header in [&mut &*bytes, &mut &*[&(bytes.len() as u16).to_be_bytes(), bytes].concat()] {
        if let Some(Ok(frame)) = read_frame(header).now_or_never() {
            let _ = codec::decode::<RelayHeader>(&frame, HEADER_MAX);
            let _ = codec::decode::<DatagramHeader>(&frame, HEADER_MAX);
        }
    }
    let _ = read_answer(&mut &*bytes).now_or_never();
}

/// Reaches targets for the edge.
pub struct NodeDialer {
    /// This node.
    pub node: NodeId,
    /// What it reaches by itself.
    pub reach: Reach,
    /// The way to other nodes.
    pub peers: Peers,
    /// Who has which tunnel.
    pub reports: Reports,
    /// Home and standbys of each site.
    pub plan: Arc<ArcSwap<EdgePlan>>,
}

impl Dialer for NodeDialer {
    fn dial(&self, target: &RouteTarget, exclude: &[NodeId]) -> BoxFuture<'_, Result<Dialed, DialError>> {
        let (site, port, exclude) = (target.site, target.port, exclude.to_vec());
        Box::pin(async move {
            let mut failure = None;
            for node in self.ways(site, &exclude) {
                let dialed = if node == self.node {
                    self.reach.connect(site, port).await.map(|io| Dialed { io, via: Via::Local })
                } else {
                    let stream = self.open(node, Service::Relay, &RelayHeader { site, port }).await;
                    stream.map(|stream| Dialed { io: Box::new(stream), via: Via::Relay(node) })
                };
                match dialed {
                    Ok(dialed) => return Ok(dialed),
                    Err(error) => failure = Some(error),
                }
            }
            Err(failure.unwrap_or_else(|| no_tunnel(site)))
        })
    }

    fn dial_datagrams(
        &self,
        target: &RouteTarget,
        exclude: &[NodeId],
    ) -> BoxFuture<'_, Result<(BoxedDatagrams, Via), DialError>> {
        let (site, port, exclude) = (target.site, target.port, exclude.to_vec());
        Box::pin(async move {
            let mut failure = None;
            for node in self.ways(site, &exclude) {
                let opened = if node == self.node {
                    self.reach.datagrams(site, port).await.map(|datagrams| (datagrams, Via::Local))
                } else {
                    let stream = self.open(node, Service::Datagrams, &DatagramHeader { site, port }).await;
                    stream.map(|stream| (Box::new(Relayed::on(stream)) as BoxedDatagrams, Via::Relay(node)))
                };
                match opened {
                    Ok(opened) => return Ok(opened),
                    Err(error) => failure = Some(error),
                }
            }
            Err(failure.unwrap_or_else(|| no_tunnel(site)))
        })
    }

    fn own_node(&self) -> Option<NodeId> {
        Some(self.node)
    }
}

impl NodeDialer {
    fn ways(&self, site: SiteId, exclude: &[NodeId]) -> Vec<NodeId> {
        let (local, remote) = self.reach.nodes(self.node, site, self.reports.tunnels_to(site));
        let plan = self.plan.load();
        let placement = plan.placements.get(&site).map_or(&[][..], Vec::as_slice);
        let usable = |node: NodeId| !exclude.contains(&node) && !self.peers.is_suspect(node);
        ways(self.node, local, &remote, placement, usable)
    }

    /// A stream to a node that has accepted to relay. It reaches the target itself or says no: one hop at most.
    async fn open(
        &self,
        node: NodeId,
        service: Service,
        header: &impl Serialize,
    ) -> Result<PeerStream, DialError> {
        let via = Via::Relay(node);
        let open = async {
            let mut stream = self.peers.open(node, service).await.map_err(|error| error.to_string())?;
            write_header(&mut stream, header).await?;
            Ok::<_, String>((read_answer(&mut stream).await?, stream))
        };
        match timeout(RELAY_TIMEOUT, open).await {
            Err(_) => Err(DialError::at(via, "no answer from the relaying node")),
            Ok(Err(reason)) => Err(DialError::at(via, reason)),
            Ok(Ok((Said::No(reason), _))) => Err(DialError::at(via, reason)),
            Ok(Ok((Said::TargetRefused(reason), _))) => Err(DialError::refused(via, reason)),
            Ok(Ok((Said::Yes, stream))) => Ok(stream),
        }
    }
}

fn no_tunnel(site: SiteId) -> DialError {
    DialError::no_path(format!("no node has a live tunnel to site {site}"))
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

async fn write_header(stream: &mut PeerStream, header: &impl Serialize) -> Result<(), String> {
    let bytes = codec::encode(header).map_err(|error| error.to_string())?;
    let length = u16::try_from(bytes.len()).map_err(|error| error.to_string())?;
    let mut frame = length.to_be_bytes().to_vec();
    frame.extend(bytes);
    stream.write_all(&frame).await.map_err(|error| error.to_string())?;
    stream.flush().await.map_err(|error| error.to_string())
}

async fn read_frame(stream: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>, String> {
    let length = usize::from(stream.read_u16().await.map_err(|error| error.to_string())?);
    if length > HEADER_MAX {
        return Err(format!("{length} bytes of header; {HEADER_MAX} are allowed"));
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await.map_err(|error| error.to_string())?;
    Ok(bytes)
}

/// What a node says that is asked to relay.
enum Said {
    Yes,
    No(String),
    TargetRefused(String),
}

async fn read_answer(stream: &mut (impl AsyncRead + Unpin)) -> Result<Said, String> {
    let answer = stream.read_u8().await.map_err(|error| error.to_string())?;
    if answer == ACCEPTED {
        return Ok(Said::Yes);
    }
    let reason = String::from_utf8_lossy(&read_frame(stream).await?).into_owned();
    Ok(if answer == TARGET_REFUSED { Said::TargetRefused(reason) } else { Said::No(reason) })
}

/// Answers other nodes that ask for a target which this node reaches.
#[derive(Clone)]
pub struct Relay(pub Reach);

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
    async fn carry(&self, mut stream: PeerStream) -> Result<(), String> {
        let header: RelayHeader = read_header(&mut stream).await?;
        let mut target = match self.0.connect(header.site, header.port).await {
            Ok(target) => target,
            Err(error) => return refuse(&mut stream, &error).await,
        };
        accept(&mut stream).await?;
        copy_bidirectional_with_sizes(&mut stream, &mut target, BUFFER, BUFFER)
            .await
            .map(|_| ())
            .map_err(|error| error.to_string())
    }
}

/// Answers other nodes that have datagrams for a target which this node reaches.
#[derive(Clone)]
pub struct DatagramRelay(pub Reach);

impl Handler for DatagramRelay {
    fn request(&self, _from: NodeId, _body: Bytes) -> BoxFuture<'_, Result<Bytes, String>> {
        Box::pin(async { Err("datagrams come on a stream, not as a request".to_owned()) })
    }

    fn stream(&self, from: NodeId, stream: PeerStream) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if let Err(reason) = self.carry(stream).await {
                debug!(%from, reason, "a relay of datagrams ended");
            }
        })
    }
}

impl DatagramRelay {
    async fn carry(&self, mut stream: PeerStream) -> Result<(), String> {
        let header: DatagramHeader = read_header(&mut stream).await?;
        let target = match self.0.datagrams(header.site, header.port).await {
            Ok(target) => target,
            Err(error) => return refuse(&mut stream, &error).await,
        };
        accept(&mut stream).await?;
        datagrams::carry(stream, &*target).await.map_err(|error| error.to_string())
    }
}

async fn read_header<H: DeserializeOwned>(stream: &mut PeerStream) -> Result<H, String> {
    let frame =
        timeout(RELAY_TIMEOUT, read_frame(stream)).await.map_err(|_| "no header came".to_owned())??;
    codec::decode(&frame, HEADER_MAX).map_err(|error| error.to_string())
}

async fn accept(stream: &mut PeerStream) -> Result<(), String> {
    stream.write_u8(ACCEPTED).await.map_err(|error| error.to_string())?;
    stream.flush().await.map_err(|error| error.to_string())
}

async fn refuse(stream: &mut PeerStream, error: &DialError) -> Result<(), String> {
    let text: String = error.reason.chars().take(HEADER_MAX / 4).collect();
    let length = u16::try_from(text.len()).map_err(|error| error.to_string())?;
    let mut frame = vec![if error.by_target { TARGET_REFUSED } else { REFUSED }];
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
