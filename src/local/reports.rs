//! Observations: this node's report, told to every other node, and the reports of the others.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use pangolin_core::{
    NodeId, Observations, Report, SiteId, TargetId, Timestamp, codec, feature,
    observation::{Attachment, Seen, TargetHealth},
    traffic::PortKind,
};
use pangolin_peer::{Handler, Peers, Service};
use pangolin_raft::Cluster;
use pangolin_tunnel::control::FAREWELL_LIFETIME;
use parking_lot::RwLock;
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::pace::rest_after;
use crate::clock;

/// How often a node reports when nothing changes.
const INTERVAL: Duration = Duration::from_secs(1);
/// Changes that come closer together than this, or than a long report takes to make, go out as one report.
const SETTLE: Duration = Duration::from_millis(10);
/// How long a report may take to be delivered; the next one carries everything again.
const DELIVERY: Duration = Duration::from_millis(500);
/// Largest report: 10,000 sites take about 200 KiB.
const REPORT_MAX: usize = 2 * 1024 * 1024;

/// All that is known by observation, this node's own report included.
#[derive(Clone)]
pub struct Reports {
    seen: Arc<RwLock<Observations>>,
    changed: watch::Sender<()>,
}

impl std::fmt::Debug for Reports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reports")
    }
}

impl Default for Reports {
    fn default() -> Self {
        Self { seen: Arc::default(), changed: watch::channel(()).0 }
    }
}

impl Reports {
    /// Everything known now.
    #[must_use]
    pub fn snapshot(&self) -> Observations {
        self.seen.read().clone()
    }

    /// Told when something has become known, not when it is only confirmed.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// The nodes with a live tunnel to a site.
    #[must_use]
    pub fn tunnels_to(&self, site: SiteId) -> Vec<NodeId> {
        self.seen.read().tunnels_to(site, clock::steady()).collect()
    }

    /// The sites to which a node that is not suspect has a live tunnel.
    #[must_use]
    pub fn reached_sites(&self, is_suspect: impl Fn(NodeId) -> bool) -> BTreeSet<SiteId> {
        let (seen, now) = (self.seen.read(), clock::steady());
        let answering = seen.fresh(now).filter(|(node, _)| !is_suspect(*node));
        let tunnels = answering.flat_map(|(_, report)| report.tunnels.iter());
        tunnels.filter(|(_, seen)| seen.alive).map(|(site, _)| *site).collect()
    }

    /// The sites whose tunnels this node still believes to have, though they end at another one now.
    #[must_use]
    pub fn left(&self, node: NodeId, believed: impl Iterator<Item = SiteId>) -> Vec<SiteId> {
        let (seen, now) = (self.seen.read(), clock::steady());
        believed.filter(|site| seen.has_left(*site, node, now)).collect()
    }

    /// What is known of the targets.
    #[must_use]
    pub fn target_health(&self) -> BTreeMap<TargetId, TargetHealth> {
        let (seen, now) = (self.seen.read(), clock::steady());
        let ids: BTreeSet<TargetId> =
            seen.fresh(now).flat_map(|(_, report)| report.targets.keys().copied()).collect();
        ids.into_iter().map(|id| (id, seen.target(id, now))).collect()
    }

    /// The targets of which other nodes say something.
    #[must_use]
    pub fn targets_of_others(&self, me: NodeId) -> BTreeSet<TargetId> {
        let (seen, now) = (self.seen.read(), clock::steady());
        let others = seen.fresh(now).filter(|(node, _)| *node != me);
        others.flat_map(|(_, report)| report.targets.keys().copied()).collect()
    }

    /// Looks at a node's last report, if it still says something.
    pub fn look_at<T>(&self, node: NodeId, look: impl FnOnce(&Report) -> T) -> Option<T> {
        let (seen, now) = (self.seen.read(), clock::steady());
        seen.fresh(now).find(|(id, _)| *id == node).map(|(_, report)| look(report))
    }

    pub(super) fn insert(&self, node: NodeId, report: Report) {
        let (mut seen, now) = (self.seen.write(), clock::steady());
        let known = seen.fresh(now).find(|(known, _)| *known == node);
        let news = known.is_none_or(|(_, before)| report.has_news_since(before));
        seen.insert(node, now, report);
        drop(seen);
        if news {
            self.changed.send_replace(());
        }
    }

    /// Forgets nodes that are no members any more.
    pub fn retain(&self, members: &[NodeId]) {
        let mut seen = self.seen.write();
        let gone: Vec<NodeId> = seen.nodes().filter(|node| !members.contains(node)).collect();
        for node in gone {
            seen.remove(node);
        }
    }
}

/// Takes the reports of other nodes.
pub struct Inbox {
    /// Where they go.
    pub reports: Reports,
    /// What else is learned from them: the others' clocks.
    pub peers: Peers,
}

impl Handler for Inbox {
    fn request(&self, from: NodeId, body: Bytes) -> BoxFuture<'_, Result<Bytes, String>> {
        Box::pin(async move {
            let report = decode(&body)?;
            self.peers.note_clock(from, report.clock);
            self.reports.insert(from, report);
            Ok(Bytes::new())
        })
    }
}

/// Reports grow from version to version: both sides of an upgrade read those of the other.
fn decode(body: &[u8]) -> Result<Report, String> {
    codec::decode_grown(body, REPORT_MAX).map_err(|error| error.to_string())
}

/// What a node carries, as it changes.
#[derive(Debug)]
pub struct Carried {
    /// Which tunnels are alive.
    pub tunnels: watch::Receiver<BTreeMap<SiteId, Seen>>,
    /// Which control sockets are here.
    pub sockets: watch::Receiver<BTreeSet<SiteId>>,
    /// What their connectors say of targets.
    pub targets: watch::Receiver<BTreeMap<TargetId, TargetHealth>>,
    /// What this node has found itself of targets.
    pub found: watch::Receiver<BTreeMap<TargetId, TargetHealth>>,
    /// Which ports cannot be opened, and why.
    pub closed_ports: watch::Receiver<BTreeMap<PortKind, String>>,
    /// What is known of the tunnels of sites whose control sockets are here.
    pub attachments: watch::Receiver<BTreeMap<SiteId, Attachment>>,
    /// Which sites' connectors have said here that they end, and when.
    pub farewells: watch::Receiver<BTreeMap<SiteId, Instant>>,
    /// Whether clients are let in; none where there is nothing for them.
    pub serving: watch::Receiver<Option<bool>>,
}

impl Carried {
    /// Nothing, for ever.
    #[must_use]
    pub fn nothing() -> Self {
        // Without a sender, no change is ever waited for.
        Self {
            tunnels: watch::channel(BTreeMap::new()).1,
            sockets: watch::channel(BTreeSet::new()).1,
            targets: watch::channel(BTreeMap::new()).1,
            found: watch::channel(BTreeMap::new()).1,
            closed_ports: watch::channel(BTreeMap::new()).1,
            attachments: watch::channel(BTreeMap::new()).1,
            farewells: watch::channel(BTreeMap::new()).1,
            serving: watch::channel(None).1,
        }
    }
}

/// See [`crate::fuzz`].
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(bytes: &[u8]) {
    if let Ok(report) = decode(bytes) {
        Reports::default().insert(NodeId(1), report);
    }
}

/// Writes this node's report and tells it to the others, at once when something changes.
pub struct Reporter {
    /// Where reports are kept.
    pub reports: Reports,
    /// Whom to tell.
    pub peers: Peers,
    /// How far the log has been applied.
    pub cluster: Cluster,
    /// What this node carries; a witness carries nothing.
    pub carried: Carried,
    /// When this node was started, by its steady clock.
    pub started: Timestamp,
    /// Told when this node is about to stop, so that the others take it out of DNS at once.
    pub stopping: CancellationToken,
}

impl Reporter {
    /// Reports until told to end.
    ///
    /// # Errors
    /// None: what cannot be delivered now is in the next report.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), std::convert::Infallible> {
        let mut peers_seen = self.peers.seen();
        let nothing = Carried::nothing();
        let Carried {
            mut tunnels,
            mut sockets,
            mut targets,
            mut found,
            mut closed_ports,
            mut attachments,
            mut farewells,
            mut serving,
        } = std::mem::replace(&mut self.carried, nothing);
        let mut deliveries = Deliveries::default();
        loop {
            let began = Instant::now();
            // Where a connector speaks of a target, its word counts.
            let mut known = found.borrow_and_update().clone();
            known.extend(targets.borrow_and_update().iter().map(|(id, health)| (*id, *health)));
            let report = Report {
                at: clock::steady(),
                clock: clock::now(),
                started: self.started,
                feature_level: feature::NEWEST,
                hashes: self.cluster.hashes(),
                applied: self.cluster.state().revision(),
                version: crate::VERSION.to_owned(),
                peers: peers_seen.borrow_and_update().clone(),
                tunnels: tunnels.borrow_and_update().clone(),
                sockets: sockets.borrow_and_update().clone(),
                targets: known,
                stopping: self.stopping.is_cancelled(),
                closed_ports: closed_ports.borrow_and_update().clone(),
                attachments: attachments.borrow_and_update().clone(),
                farewells: lately(&farewells.borrow_and_update()),
                serving: *serving.borrow_and_update(),
            };
            let to_stop = !report.stopping;
            self.tell(report, &mut deliveries);
            let settle = SETTLE.max(rest_after(began.elapsed()));
            let changed = async {
                tokio::select! {
                    Ok(()) = peers_seen.changed() => {}
                    Ok(()) = tunnels.changed() => {}
                    Ok(()) = sockets.changed() => {}
                    Ok(()) = targets.changed() => {}
                    Ok(()) = found.changed() => {}
                    Ok(()) = closed_ports.changed() => {}
                    Ok(()) = attachments.changed() => {}
                    Ok(()) = farewells.changed() => {}
                    Ok(()) = serving.changed() => {}
                    else => std::future::pending().await,
                }
                tokio::time::sleep(settle).await;
            };
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = self.peers.beat(INTERVAL) => {}
                () = changed => {}
                () = self.stopping.cancelled(), if to_stop => {}
            }
        }
    }

    fn tell(&self, report: Report, deliveries: &mut Deliveries) {
        let others: Vec<NodeId> =
            report.peers.iter().filter(|(_, Seen { alive, .. })| *alive).map(|(node, _)| *node).collect();
        let bytes = codec::encode(&report);
        self.reports.insert(self.peers.node(), report);
        let Ok(bytes) = bytes.map(Bytes::from) else { return };
        for node in others {
            deliveries.start(&self.peers, node, bytes.clone());
        }
    }
}

/// Those who have said farewell lately.
fn lately(farewells: &BTreeMap<SiteId, Instant>) -> BTreeSet<SiteId> {
    let lately = farewells.iter().filter(|(_, said)| said.elapsed() < FAREWELL_LIFETIME);
    lately.map(|(site, _)| *site).collect()
}

/// Reports on their way: one to each peer at most, so that a slow one delays nobody else. What it misses is in the
/// next report; whether it lives, the probes find out.
#[derive(Default)]
struct Deliveries {
    tasks: JoinSet<NodeId>,
    under_way: BTreeSet<NodeId>,
}

impl Deliveries {
    fn start(&mut self, peers: &Peers, node: NodeId, report: Bytes) {
        while let Some(ended) = self.tasks.try_join_next() {
            match ended {
                Ok(node) => drop(self.under_way.remove(&node)),
                Err(_) => self.under_way.clear(),
            }
        }
        if !self.under_way.insert(node) {
            return;
        }
        let peers = peers.clone();
        self.tasks.spawn(async move {
            // An error says no more than the probes do.
            let _ = peers.request(node, Service::Report, report, DELIVERY).await;
            node
        });
    }
}
