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
use pangolin_core::{NodeId, Timestamp, observation::Seen, record::TunnelKey};
use pangolin_tunnel::{control::DATAGRAM_MAX, site::SiteNode};
use tokio::{net::UdpSocket, sync::watch, time::sleep};
use tokio_tungstenite::tungstenite::Message;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    dial::Tls,
    endpoint::{Door, pause},
    now as clock,
    options::Secret,
    sign_in::{Socket, open_datagrams},
    spread::spread,
    wanted::Wanted,
};

/// A tunnel that has not come alive over UDP in this time, or has been dead for as long, gets a carrier. A node answers
/// the first probe within a round trip; shorter breaks are not worth it.
const WAY_PATIENCE: Duration = Duration::from_secs(5);
/// Many connectors that have lost the same way open another one spread over this time.
const WAY_SPREAD: Duration = Duration::from_secs(1);
/// What UDP gets once the carrier is open, or after the way over TLS has failed: a handshake is repeated every second.
/// Where the whole network was away, both ways come back at the same moment, and UDP is the better one.
const UDP_FIRST: Duration = Duration::from_millis(1500);
/// What a tunnel gets to come alive over an open carrier: some round trips and a repeated handshake.
const TLS_PATIENCE: Duration = Duration::from_secs(3);
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

/// What is known of the ways to a node.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// The way that is taken.
    pub way: Way,
    /// Since when.
    pub since: Timestamp,
    /// How the tunnel looks.
    pub path: Option<Seen>,
    /// Whether another tunnel is alive.
    pub others: bool,
    /// Since when the carrier is open, if there is one that is.
    pub open: Option<Timestamp>,
    /// What UDP gets before a carrier is opened.
    pub patience: Duration,
}

impl Known {
    fn alive(&self) -> bool {
        self.path.is_some_and(|seen| seen.alive)
    }

    /// How long the tunnel has been alive, or dead, on this way.
    fn for_long(&self, now: Timestamp) -> Duration {
        now.since(self.path.map_or(self.since, |seen| seen.since.max(self.since)))
    }

    /// It came alive on this way, and is dead.
    fn died(&self) -> bool {
        self.path.is_some_and(|seen| !seen.alive && seen.since > self.since)
    }
}

/// The way to take from now on. TLS is taken only when its carrier is open and UDP still silent, and left as soon as it
/// falls silent: so no way is waited for while another one may work. Pure.
#[must_use]
pub fn next_way(known: &Known, now: Timestamp) -> Way {
    let is_open = known.open.is_some_and(|open| now.since(open) > UDP_FIRST);
    match known.way {
        Way::Udp if !known.alive() && is_open && known.for_long(now) > UDP_FIRST => Way::Tls,
        Way::Tls if !known.alive() && (known.died() || known.for_long(now) > TLS_PATIENCE) => Way::Udp,
        Way::Tls if known.alive() && known.others && now.since(known.since) > UDP_AGAIN => Way::Udp,
        same => same,
    }
}

/// What becomes of a carrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CarrierChange {
    /// It stays, or stays away.
    Same,
    /// One is opened; what there was is closed, since it may lead nowhere.
    Start,
    /// It is closed.
    Stop,
}

/// What becomes of the carrier when `next` is the way from now on. `exists` = there is one, open or not. Pure.
#[must_use]
pub fn carrier_change(known: &Known, next: Way, exists: bool, now: Timestamp) -> CarrierChange {
    match (known.way, next) {
        // Silent: its connection may be one of a network that is gone.
        (Way::Tls, Way::Udp) if !known.alive() => CarrierChange::Start,
        (Way::Udp, Way::Udp) if known.alive() && exists && known.for_long(now) > UDP_FIRST => {
            CarrierChange::Stop
        }
        (Way::Udp, Way::Udp) if !known.alive() && !exists && known.for_long(now) > known.patience => {
            CarrierChange::Start
        }
        _ => CarrierChange::Same,
    }
}

/// Whether UDP seems to be let out, by all tunnels together: where it is not, a node that is new here gets its carrier at
/// once. Without that, a connector that keeps one tunnel and is sent from node to node would never be at one for long
/// enough. Pure.
#[derive(Debug, Default)]
pub struct Outlook {
    blocked: bool,
    silent_since: Option<Timestamp>,
}

impl Outlook {
    /// Looks at the ways of the tunnels that live: UDP is blocked as long as none lives over it, and one does over TLS
    /// or none has at all for `patience`.
    pub fn look(&mut self, alive: impl IntoIterator<Item = Way>, patience: Duration, now: Timestamp) {
        let (mut any, mut udp) = (false, false);
        for way in alive {
            any = true;
            udp |= way == Way::Udp;
        }
        if any {
            (self.blocked, self.silent_since) = (!udp, None);
        } else {
            let since = *self.silent_since.get_or_insert(now);
            self.blocked |= now.since(since) > patience;
        }
    }

    /// What UDP to a node gets before a carrier is opened.
    #[must_use]
    pub fn patience(&self, patience: Duration) -> Duration {
        if self.blocked { Duration::ZERO } else { patience }
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
    /// What UDP gets, if nothing is known of it.
    patience: Duration,
    outlook: Outlook,
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
    /// Since when its WebSocket is open; none = it is not.
    open: watch::Receiver<Option<Timestamp>>,
    _task: AbortOnDropHandle<()>,
}

impl Ways {
    /// The ways of the connector with the key `own`.
    pub(crate) fn new(access: Arc<Access>, own: TunnelKey) -> Self {
        let patience = WAY_PATIENCE + spread(own, "way over TLS", WAY_SPREAD);
        Self { access, patience, outlook: Outlook::default(), taken: BTreeMap::new() }
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
        let alive = |id: &NodeId| paths.get(id).is_some_and(|seen| seen.alive);
        let ways = self.taken.iter().filter(|(id, _)| alive(id)).map(|(_, taken)| taken.way);
        self.outlook.look(ways, self.patience, now);
        for node in nodes {
            let known = wanted.nodes.iter().find(|known| known.id == node.node);
            // A cluster that does not say where its nodes' edges are has no other way to them.
            let Some(control) = known.map(|known| &known.control).filter(|control| !control.is_empty())
            else {
                continue;
            };
            let taken =
                self.taken.entry(node.node).or_insert(Taken { way: Way::Udp, since: now, carrier: None });
            let known = Known {
                way: taken.way,
                since: taken.since,
                path: paths.get(&node.node).copied(),
                others: paths.iter().any(|(id, seen)| *id != node.node && seen.alive),
                open: taken.carrier.as_ref().and_then(|carrier| *carrier.open.borrow()),
                patience: self.outlook.patience(self.patience),
            };
            let next = next_way(&known, now);
            match carrier_change(&known, next, taken.carrier.is_some(), now) {
                CarrierChange::Same => {}
                CarrierChange::Stop => taken.carrier = None,
                CarrierChange::Start => {
                    tracing::info!(node = %node.node, udp = %node.endpoint, "no answer: a way over TLS is opened");
                    taken.carrier = Carrier::start(&self.access, control).await;
                }
            }
            if next != taken.way {
                tracing::info!(node = %node.node, over_tls = next == Way::Tls, "another way is taken");
                (taken.way, taken.since) = (next, now);
            }
            if let Some(carrier) = taken.carrier.as_ref().filter(|_| taken.way == Way::Tls) {
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
        let (say_open, open) = watch::channel(None);
        let task = tokio::spawn(keep(Arc::clone(access), door, socket, say_open));
        Some(Self { at, open, _task: AbortOnDropHandle::new(task) })
    }
}

async fn local_socket() -> io::Result<(UdpSocket, SocketAddr)> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let at = socket.local_addr()?;
    Ok((socket, at))
}

/// Keeps a WebSocket to the node and carries datagrams, until it is aborted.
async fn keep(
    access: Arc<Access>,
    door: Door,
    socket: UdpSocket,
    say_open: watch::Sender<Option<Timestamp>>,
) {
    let mut failed = 0;
    loop {
        match open_datagrams(&door, &access.tls, &access.id, &access.secret).await {
            Ok(ws) => {
                failed = 0;
                tracing::info!(%door, "datagrams go over TLS");
                say_open.send_replace(Some(clock()));
                let reason = carry(ws, &socket).await;
                say_open.send_replace(None);
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

    fn alive(ms: u64) -> Option<Seen> {
        Some(Seen { alive: true, since: Timestamp(ms) })
    }

    fn dead(ms: u64) -> Option<Seen> {
        Some(Seen { alive: false, since: Timestamp(ms) })
    }

    #[test]
    fn tls_is_taken_when_it_is_open_and_udp_silent_and_left_when_it_falls_silent() {
        let open = |ms| Some(Timestamp(ms));
        let cases = [
            ("not open yet", Way::Udp, 0, dead(0), false, None, 99_000, Way::Udp),
            ("just open", Way::Udp, 0, dead(0), false, open(7000), 8000, Way::Udp),
            ("open, and UDP still silent", Way::Udp, 0, dead(0), false, open(7000), 8501, Way::Tls),
            ("never seen", Way::Udp, 0, None, false, open(7000), 8501, Way::Tls),
            ("UDP has come back", Way::Udp, 0, alive(8000), false, open(7000), 9000, Way::Udp),
            ("no life over TLS yet", Way::Tls, 8501, dead(0), false, open(7000), 11_000, Way::Tls),
            ("none there either", Way::Tls, 8501, dead(0), false, open(7000), 11_502, Way::Udp),
            ("it dies over TLS", Way::Tls, 8501, dead(20_000), true, open(7000), 20_000, Way::Udp),
            (
                "back on UDP, which gets its time",
                Way::Udp,
                20_000,
                dead(20_000),
                true,
                open(20_100),
                21_500,
                Way::Udp,
            ),
            ("and is silent", Way::Udp, 20_000, dead(20_000), true, open(20_100), 21_601, Way::Tls),
            ("alive over TLS", Way::Tls, 10_000, alive(10_100), true, open(7000), 610_000, Way::Tls),
            ("UDP is tried again", Way::Tls, 10_000, alive(10_100), true, open(7000), 610_001, Way::Udp),
            (
                "not with the only tunnel",
                Way::Tls,
                10_000,
                alive(10_100),
                false,
                open(7000),
                9_999_999,
                Way::Tls,
            ),
        ];
        for (what, way, since, path, others, open, now, expected) in cases {
            let patience = WAY_PATIENCE;
            let known = Known { way, since: Timestamp(since), path, others, open, patience };
            assert_eq!(next_way(&known, Timestamp(now)), expected, "{what}");
        }
    }

    #[test]
    fn a_carrier_is_opened_before_it_is_needed_and_closed_when_udp_is_proven() {
        use CarrierChange::{Same, Start, Stop};
        let cases = [
            ("a short break", Way::Udp, Way::Udp, 0, dead(1000), false, 6000, Same),
            ("a long one", Way::Udp, Way::Udp, 0, dead(1000), false, 6001, Start),
            ("not yet alive", Way::Udp, Way::Udp, 0, None, false, 5001, Start),
            ("it is being opened", Way::Udp, Way::Udp, 0, dead(1000), true, 9000, Same),
            ("it is taken", Way::Udp, Way::Tls, 0, dead(1000), true, 9000, Same),
            ("silent over TLS", Way::Tls, Way::Udp, 9000, dead(12_000), true, 12_000, Start),
            ("UDP is tried beside it", Way::Tls, Way::Udp, 9000, alive(9100), true, 700_000, Same),
            (
                "the last life over TLS proves nothing",
                Way::Udp,
                Way::Udp,
                700_000,
                alive(9100),
                true,
                701_000,
                Same,
            ),
            ("UDP is proven", Way::Udp, Way::Udp, 700_000, alive(9100), true, 701_501, Stop),
            ("alive, without one", Way::Udp, Way::Udp, 0, alive(100), false, 9000, Same),
        ];
        for (what, way, next, since, path, exists, now, expected) in cases {
            let patience = WAY_PATIENCE;
            let known = Known { way, since: Timestamp(since), path, others: true, open: None, patience };
            assert_eq!(carrier_change(&known, next, exists, Timestamp(now)), expected, "{what}");
        }
        let known = Known {
            way: Way::Udp,
            since: Timestamp(0),
            path: dead(0),
            others: false,
            open: None,
            patience: Duration::ZERO,
        };
        assert_eq!(carrier_change(&known, Way::Udp, false, Timestamp(1)), Start, "UDP is blocked anyway");
    }

    #[test]
    fn udp_is_taken_for_blocked_while_nothing_lives_over_it_for_long() {
        use Way::{Tls, Udp};
        let steps: [(&str, &[Way], u64, bool); 9] = [
            ("at the start", &[], 0, false),
            ("nothing yet", &[], 5000, false),
            ("nothing for long", &[], 5001, true),
            ("a life over TLS", &[Tls], 9000, true),
            ("silence again", &[], 9500, true),
            ("a life over UDP", &[Tls, Udp], 10_000, false),
            ("silence", &[], 11_000, false),
            ("for long", &[], 16_001, true),
            ("and UDP is back", &[Udp], 17_000, false),
        ];
        let mut outlook = Outlook::default();
        for (what, alive, now, blocked) in steps {
            outlook.look(alive.iter().copied(), WAY_PATIENCE, Timestamp(now));
            let patience = outlook.patience(WAY_PATIENCE);
            assert_eq!(patience.is_zero(), blocked, "{what}");
        }
    }
}
