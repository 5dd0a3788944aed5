//! The site's loop: keeps the peers in line, probes every node, and shakes hands anew with those that are silent.

use std::{
    collections::BTreeMap,
    net::SocketAddrV4,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use pangolin_core::{id::NodeId, observation::Seen};
use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use super::{
    SiteNode,
    inside::Inside,
    paths::{change, distinct, patience},
    round_trips::RoundTrips,
};
use crate::{
    error::TunnelError,
    liveness::Liveness,
    probe::{PROBE_INTERVAL, PROBE_PORT, Probe},
    wall_clock,
    wireguard::{Device, Peer, PeerChange, Proofs},
};

/// How often paths are looked at, and so how much later a dead one is noticed at most. Every second look probes.
const LOOK_INTERVAL: Duration = Duration::from_millis(125);
const LOOKS_PER_PROBE: u32 = 2;
const _: () = assert!(LOOK_INTERVAL.as_millis() * LOOKS_PER_PROBE as u128 == PROBE_INTERVAL.as_millis());

/// A node and what was last done about it.
struct Path {
    node: SiteNode,
    /// When the last answer came or the last handshake was forced.
    hopeful: Instant,
    /// How much longer than others it waits before it forces the next one, of the whole spread.
    share: f64,
}

impl Path {
    fn new(node: SiteNode) -> Self {
        Self { node, hopeful: Instant::now(), share: rand::random() }
    }
}

/// The work behind [`super::SiteTunnels`].
pub struct SiteTask {
    inside: Inside,
    device: Device,
    proofs: Proofs,
    probes: Option<mpsc::Receiver<(SocketAddrV4, Bytes)>>,
    wanted: watch::Receiver<Vec<SiteNode>>,
    paths: BTreeMap<NodeId, Path>,
    liveness: Liveness<NodeId>,
    seen: watch::Sender<BTreeMap<NodeId, Seen>>,
    round_trips: Arc<Mutex<RoundTrips>>,
    looks: u32,
}

impl SiteTask {
    pub(super) fn new(
        inside: Inside,
        (device, proofs): (Device, Proofs),
        probes: mpsc::Receiver<(SocketAddrV4, Bytes)>,
        wanted: watch::Receiver<Vec<SiteNode>>,
        seen: watch::Sender<BTreeMap<NodeId, Seen>>,
        round_trips: Arc<Mutex<RoundTrips>>,
    ) -> Self {
        Self {
            inside,
            device,
            proofs,
            probes: Some(probes),
            wanted,
            paths: BTreeMap::new(),
            liveness: Liveness::new(),
            seen,
            round_trips,
            looks: 0,
        }
    }

    /// Runs until shut down, or until the last [`super::SiteTunnels`] is dropped; then all flows end and the socket
    /// is gone.
    ///
    /// # Errors
    /// The WireGuard device fails, or the namespace of the interface is gone.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), TunnelError> {
        let inside = self.inside.clone();
        let ended = tokio::select! {
            ended = inside.run(&shutdown) => ended,
            ended = self.keep() => ended,
        };
        inside.close().await;
        self.device.close().await;
        ended
    }

    async fn keep(&mut self) -> Result<(), TunnelError> {
        let Some(mut probes) = self.probes.take() else { return Ok(()) };
        let mut look = interval(LOOK_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.wanted.mark_changed();
        loop {
            tokio::select! {
                changed = self.wanted.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    self.align().await?;
                }
                probe = probes.recv() => {
                    let Some((from, payload)) = probe else { return Ok(()) };
                    self.heard(from, &payload);
                }
                _ = look.tick() => self.look().await?,
            }
        }
    }

    /// Brings the peers in line with the nodes wanted.
    async fn align(&mut self) -> Result<(), TunnelError> {
        let wanted = distinct(&self.wanted.borrow_and_update());
        let now = self.paths.iter().map(|(id, path)| (*id, path.node)).collect();
        let change = change(&now, &wanted);
        let peers = PeerChange {
            remove: change.remove.iter().map(|node| node.key).collect(),
            add: change.add.iter().map(peer).collect(),
        };
        self.device.change(peers).await?;
        for node in &change.remove {
            self.paths.remove(&node.node);
            self.liveness.remove(node.node);
            self.round_trips.lock().remove(node.node);
        }
        for node in change.add {
            self.paths.insert(node.node, Path::new(node));
            self.liveness.add(node.node, wall_clock());
            self.probe(&node);
        }
        for node in change.moved {
            if self.liveness.is_alive(node.node) {
                self.device.set_endpoint(peer(&node)).await?;
            } else {
                // A handshake at the old place is answered by nobody, and the next one would wait for its repetition.
                self.shake_anew(&node).await?;
                self.probe(&node);
            }
            if let Some(path) = self.paths.get_mut(&node.node) {
                path.node = node;
            }
        }
        self.seen.send_replace(self.liveness.seen());
        Ok(())
    }

    /// Handles a datagram on the probe port.
    fn heard(&mut self, from: SocketAddrV4, payload: &[u8]) {
        let path = self.paths.values_mut().find(|path| path.node.address == *from.ip());
        let (Some(path), Some(Probe::Answer(sequence))) = (path, Probe::decode(payload)) else { return };
        path.hopeful = Instant::now();
        let node = path.node.node;
        self.round_trips.lock().answered(node, sequence, path.hopeful);
        if self.liveness.probed(node, Instant::now(), wall_clock()) {
            tracing::info!(%node, "tunnel is alive");
            self.seen.send_replace(self.liveness.seen());
        }
    }

    /// Probes what is due, notices what is dead, and shakes hands with it anew.
    async fn look(&mut self) -> Result<(), TunnelError> {
        let now = Instant::now();
        if self.liveness.tick(now, wall_clock()) {
            let dead: Vec<_> =
                self.paths.keys().filter(|node| !self.liveness.is_alive(**node)).map(|node| node.0).collect();
            tracing::info!(?dead, "tunnels without answer");
            self.seen.send_replace(self.liveness.seen());
        }
        let silent: Vec<SiteNode> = self
            .paths
            .values_mut()
            .filter(|path| {
                let asked = self.proofs.asked_since(path.node.endpoint, path.hopeful);
                now.saturating_duration_since(path.hopeful) > patience(asked, path.share)
            })
            .map(|path| {
                *path = Path::new(path.node);
                path.node
            })
            .collect();
        for node in &silent {
            self.shake_anew(node).await?;
        }
        self.looks = self.looks.wrapping_add(1);
        let all = self.looks.is_multiple_of(LOOKS_PER_PROBE);
        for path in self.paths.values() {
            if all || silent.contains(&path.node) {
                self.probe(&path.node);
            }
        }
        Ok(())
    }

    /// Makes the next packet to a node a handshake: a peer made anew has no session. WireGuard itself would go on with the
    /// session that a restarted node has forgotten, and give up for good after 90 seconds.
    async fn shake_anew(&self, node: &SiteNode) -> Result<(), TunnelError> {
        self.device.change(PeerChange { remove: vec![node.key], add: vec![peer(node)] }).await
    }

    /// Sends a probe. One that is lost is made up for by the next.
    fn probe(&self, node: &SiteNode) {
        let to = SocketAddrV4::new(node.address, PROBE_PORT);
        let sequence = self.round_trips.lock().ask(Instant::now());
        self.inside.send_probe(to, &Probe::Ask(sequence).encode());
    }
}

fn peer(node: &SiteNode) -> Peer {
    Peer { key: node.key, address: node.address, endpoint: Some(node.endpoint) }
}
