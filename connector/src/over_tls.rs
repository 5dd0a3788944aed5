//! The way of last resort: where the network lets no UDP out, WireGuard's datagrams go to a node in a WebSocket over TLS,
//! to the port of its edge. For WireGuard it is an endpoint on this host.

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use pangolin_core::{NodeId, Timestamp, observation::Seen};
use pangolin_tunnel::{control::DATAGRAM_MAX, site::SiteNode};
use tokio::{net::UdpSocket, time::sleep};
use tokio_tungstenite::tungstenite::Message;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    dial::Tls,
    endpoint::{Door, pause},
    options::Secret,
    sign_in::{Socket, open_datagrams},
    wanted::Wanted,
};

/// A tunnel that has not come alive in this time, or has been dead for as long, takes the other way. A node answers the
/// first probe within a round trip; shorter breaks are not worth a change.
const WAY_PATIENCE: Duration = Duration::from_secs(5);
/// A tunnel that lives over TLS tries UDP again after this long, if another tunnel lives meanwhile.
const UDP_AGAIN: Duration = Duration::from_secs(600);

/// Which way datagrams take to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// As they are.
    Udp,
    /// In a WebSocket over TLS.
    Tls,
}

/// The way to a node, after `way` has been taken since `since`. `path` is how the tunnel looks, `others` whether another
/// one is alive. Pure.
#[must_use]
pub fn next_way(way: Way, since: Timestamp, path: Option<Seen>, others: bool, now: Timestamp) -> Way {
    let alive = path.is_some_and(|seen| seen.alive);
    // A tunnel that died on this way has been dead for less long than the way has been taken.
    let dead_since = path.map_or(since, |seen| seen.since.max(since));
    match way {
        Way::Udp if !alive && now.since(dead_since) > WAY_PATIENCE => Way::Tls,
        Way::Tls if !alive && now.since(dead_since) > WAY_PATIENCE => Way::Udp,
        Way::Tls if alive && others && now.since(since) > UDP_AGAIN => Way::Udp,
        same => same,
    }
}

/// How nodes are reached over TLS.
pub(crate) struct Access {
    /// The cluster: its nodes answer to this name.
    pub(crate) door: Door,
    pub(crate) id: String,
    pub(crate) secret: Secret,
    pub(crate) tls: Tls,
}

/// The ways to all nodes that tunnels are kept to.
pub(crate) struct Ways {
    access: Arc<Access>,
    taken: BTreeMap<NodeId, Taken>,
}

struct Taken {
    way: Way,
    since: Timestamp,
    carrier: Option<Carrier>,
}

/// An endpoint on this host whose datagrams go over TLS. It ends when it is dropped.
struct Carrier {
    at: SocketAddr,
    _task: AbortOnDropHandle<()>,
}

impl Ways {
    pub(crate) fn new(access: Arc<Access>) -> Self {
        Self { access, taken: BTreeMap::new() }
    }

    /// Which way each node is reached.
    pub(crate) fn taken(&self) -> BTreeMap<NodeId, Way> {
        self.taken.iter().map(|(node, taken)| (*node, taken.way)).collect()
    }

    /// Puts the endpoints of the ways that are to be taken now into `nodes`.
    pub(crate) async fn direct(
        &mut self,
        nodes: &mut [SiteNode],
        wanted: &Wanted,
        paths: &BTreeMap<NodeId, Seen>,
        now: Timestamp,
    ) {
        self.taken.retain(|id, _| nodes.iter().any(|node| node.node == *id));
        for node in nodes {
            let known = wanted.nodes.iter().find(|known| known.id == node.node);
            // A cluster that does not say where its nodes' edges are has no other way to them.
            let Some(control) = known.map(|known| &known.control).filter(|control| !control.is_empty())
            else {
                continue;
            };
            let others = paths.iter().any(|(id, seen)| *id != node.node && seen.alive);
            let taken =
                self.taken.entry(node.node).or_insert(Taken { way: Way::Udp, since: now, carrier: None });
            let way = next_way(taken.way, taken.since, paths.get(&node.node).copied(), others, now);
            if way != taken.way {
                let carrier = match way {
                    Way::Udp => None,
                    Way::Tls => Carrier::start(&self.access, control).await,
                };
                let over_tls = way == Way::Tls;
                tracing::info!(node = %node.node, udp = %node.endpoint, over_tls, "no answer: another way is tried");
                *taken = Taken { way, since: now, carrier };
            }
            if let Some(carrier) = &taken.carrier {
                node.endpoint = carrier.at;
            }
        }
    }
}

impl Carrier {
    async fn start(access: &Arc<Access>, control: &str) -> Option<Self> {
        let door = access.door.at(control)?;
        let (socket, at) = match local_socket().await {
            Ok(bound) => bound,
            Err(error) => {
                tracing::warn!(%error, "no socket on this host for datagrams over TLS");
                return None;
            }
        };
        let task = tokio::spawn(keep(Arc::clone(access), door, socket));
        Some(Self { at, _task: AbortOnDropHandle::new(task) })
    }
}

async fn local_socket() -> io::Result<(UdpSocket, SocketAddr)> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let at = socket.local_addr()?;
    Ok((socket, at))
}

/// Keeps a WebSocket to the node and carries datagrams, until it is aborted.
async fn keep(access: Arc<Access>, door: Door, socket: UdpSocket) {
    let mut failed = 0;
    loop {
        match open_datagrams(&door, &access.tls, &access.id, &access.secret).await {
            Ok(ws) => {
                failed = 0;
                tracing::info!(%door, "datagrams go over TLS");
                let reason = carry(ws, &socket).await;
                tracing::info!(%door, reason, "datagrams do not go over TLS any more");
            }
            Err(error) => tracing::debug!(%door, %error, "no way over TLS"),
        }
        sleep(pause(failed, rand::random())).await;
        failed = failed.saturating_add(1);
    }
}

/// Returns why it has ended.
async fn carry(mut ws: Socket, socket: &UdpSocket) -> String {
    let mut buffer = [0; DATAGRAM_MAX];
    let mut wireguard = None;
    loop {
        tokio::select! {
            received = socket.recv_from(&mut buffer) => match received {
                Ok((length, from)) => {
                    wireguard = Some(from);
                    let frame = Message::Binary(Bytes::copy_from_slice(&buffer[..length]));
                    if let Err(error) = ws.send(frame).await {
                        return error.to_string();
                    }
                }
                Err(error) => return error.to_string(),
            },
            frame = ws.next() => match frame {
                Some(Ok(Message::Binary(datagram))) => if let Some(to) = wireguard {
                    // One that WireGuard does not take is lost, as it might have been on its way.
                    let _ = socket.send_to(&datagram, to).await;
                },
                Some(Ok(_)) => {}
                Some(Err(error)) => return error.to_string(),
                None => return "the node is gone".to_owned(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn udp_comes_first_and_the_other_way_after_five_silent_seconds() {
        let alive = |since: u64| Some(Seen { alive: true, since: Timestamp(since * 1000) });
        let dead = |since: u64| Some(Seen { alive: false, since: Timestamp(since * 1000) });
        let cases = [
            ("not seen yet", Way::Udp, 0, None, false, 5, Way::Udp),
            ("never seen", Way::Udp, 0, None, false, 6, Way::Tls),
            ("alive", Way::Udp, 0, alive(1), false, 9999, Way::Udp),
            ("a short break", Way::Udp, 0, dead(100), true, 105, Way::Udp),
            ("a long one", Way::Udp, 0, dead(100), true, 106, Way::Tls),
            ("the way is young, the death old", Way::Tls, 106, dead(100), true, 110, Way::Tls),
            ("nor that way", Way::Tls, 106, dead(100), true, 112, Way::Udp),
            ("alive over TLS", Way::Tls, 106, alive(107), true, 706, Way::Tls),
            ("UDP is tried again", Way::Tls, 106, alive(107), true, 707, Way::Udp),
            ("but not with the only tunnel", Way::Tls, 106, alive(107), false, 9999, Way::Tls),
        ];
        for (what, way, since, path, others, now, expected) in cases {
            let next = next_way(way, Timestamp(since * 1000), path, others, Timestamp(now * 1000));
            assert_eq!(next, expected, "{what}");
        }
    }
}
