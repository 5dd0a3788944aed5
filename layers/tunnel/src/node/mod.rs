//! The node's end of the tunnels.

mod backend;
mod dial;
mod peers;
mod run;

use std::{
    collections::{BTreeMap, HashMap},
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use ipnet::Ipv4Net;
use pangolin_core::{
    id::{Revision, SiteId},
    observation::Seen,
    plan::TunnelPlan,
    record::TunnelKey,
};
use parking_lot::Mutex;
use tokio::sync::watch;

pub use self::{
    backend::{Backend, BackendChoice},
    run::TunnelTask,
};
use self::{dial::Reach, peers::SitePeer};
use crate::{error::TunnelError, key::SecretKey, liveness::Liveness, wall_clock, wireguard::Device};

/// Smallest and largest MTU: what every IPv4 host takes, and what fits Ethernet with WireGuard's 80 bytes around it.
pub(crate) const MTU_RANGE: std::ops::RangeInclusive<u16> = 576..=1420;

/// How a node carries tunnels.
#[derive(Clone, Debug)]
pub struct TunnelConfig {
    /// UDP address for WireGuard.
    pub listen: SocketAddr,
    /// This node's WireGuard key.
    pub key: SecretKey,
    /// What carries the packets.
    pub backend: BackendChoice,
    /// Name of the network interface, unique on the host; at most 15 bytes. Not used by the in-process stack.
    pub interface: String,
    /// MTU inside the tunnels, [`crate::DEFAULT_MTU`] if in doubt.
    pub mtu: u16,
}

/// Traffic and age of one site's tunnel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SiteStats {
    /// Time since the last WireGuard handshake; none = there was none.
    pub last_handshake: Option<Duration>,
    /// Bytes received from the site.
    pub received: u64,
    /// Bytes sent to the site.
    pub sent: u64,
}

/// The tunnels that end at this node. A cheap handle; the work is done by [`TunnelTask`].
#[derive(Clone)]
pub struct TunnelLayer(Arc<Inner>);

struct Inner {
    address: Ipv4Addr,
    /// Where the WireGuard socket is bound.
    listen: SocketAddr,
    key: TunnelKey,
    mtu: u16,
    backend: Backend,
    device: Device,
    reach: Reach,
    /// One plan at a time.
    applying: tokio::sync::Mutex<()>,
    state: Mutex<State>,
    seen: watch::Sender<BTreeMap<SiteId, Seen>>,
}

struct State {
    revision: Option<Revision>,
    sites: BTreeMap<SiteId, SitePeer>,
    by_address: HashMap<Ipv4Addr, SiteId>,
    liveness: Liveness<SiteId>,
}

impl TunnelLayer {
    /// Binds the WireGuard socket and makes the device. `address` is this node's own inside the tunnels, `network`
    /// holds all of them. Tunnels come with the first [`TunnelLayer::apply`]; probes are answered once the task runs.
    ///
    /// # Errors
    /// The port is in use, or the backend asked for cannot be had. [`BackendChoice::Auto`] settles for less and logs
    /// what it took and why.
    pub async fn open(
        config: TunnelConfig,
        address: Ipv4Addr,
        network: Ipv4Net,
    ) -> Result<(Self, TunnelTask), TunnelError> {
        if !MTU_RANGE.contains(&config.mtu) {
            return Err(TunnelError::Mtu(config.mtu));
        }
        let opened = backend::open(&config, address, network).await?;
        let inner = Arc::new(Inner {
            address,
            listen: opened.listen,
            key: config.key.public(),
            mtu: config.mtu,
            backend: opened.backend,
            device: opened.device,
            reach: opened.reach,
            applying: tokio::sync::Mutex::new(()),
            state: Mutex::new(State {
                revision: None,
                sites: BTreeMap::new(),
                by_address: HashMap::new(),
                liveness: Liveness::new(),
            }),
            seen: watch::Sender::new(BTreeMap::new()),
        });
        let layer = Self(inner);
        let task = TunnelTask { layer: layer.clone(), probes: opened.probes };
        Ok((layer, task))
    }

    /// What carries the packets.
    #[must_use]
    pub fn backend(&self) -> Backend {
        self.0.backend
    }

    /// Where the WireGuard socket is bound.
    #[must_use]
    pub fn listen_address(&self) -> SocketAddr {
        self.0.listen
    }

    /// Brings the WireGuard peers in line with the plan. Peers that stay as they are keep their sessions.
    ///
    /// # Errors
    /// The plan is older than the one in effect, or the device fails; the slow timer then tries again.
    pub async fn apply(&self, revision: Revision, plan: &TunnelPlan) -> Result<(), TunnelError> {
        let _one_at_a_time = self.0.applying.lock().await;
        if let Some(planned) = plan.address.filter(|planned| *planned != self.0.address) {
            return Err(TunnelError::OtherAddress { planned, opened: self.0.address });
        }
        let wanted = peers::wanted(plan, self.0.key);
        let change = {
            let state = self.0.state.lock();
            if let Some(applied) = state.revision.filter(|applied| revision < *applied) {
                return Err(TunnelError::OldRevision { given: revision, applied });
            }
            peers::change(&state.sites, &wanted)
        };
        if !change.is_empty() {
            tracing::debug!(%revision, added = change.add.len(), removed = change.remove.len(), "tunnel peers change");
        }
        self.0.device.change(change).await?;
        let mut state = self.0.state.lock();
        state.enact(revision, wanted);
        self.0.seen.send_replace(state.liveness.seen());
        Ok(())
    }

    /// Which sites have a live tunnel to this node, by probes inside the tunnel. Sites whose connector has never
    /// registered are missing.
    #[must_use]
    pub fn seen(&self) -> watch::Receiver<BTreeMap<SiteId, Seen>> {
        self.0.seen.subscribe()
    }

    /// The connector of a site, which does not probe, is said to have its tunnel at another node now, or to have said
    /// farewell: the one to this node counts as dead until it sends through it again.
    pub fn left(&self, site: SiteId) {
        let mut state = self.0.state.lock();
        if state.liveness.left(site, Instant::now(), wall_clock()) {
            tracing::info!(%site, "the connector has left its tunnel to this node");
            self.0.seen.send_replace(state.liveness.seen());
        }
    }

    /// How many packets from sites were refused, because they are not what a site may send to a node. None where that
    /// is not counted here: the kernel's WireGuard hands packets to nobody else, and without an interface there is nothing
    /// behind the tunnels.
    #[must_use]
    pub fn refused_packets(&self) -> Option<u64> {
        match &self.0.reach {
            Reach::Interface { gate, .. } => gate.as_ref().map(|gate| gate.refused()),
            Reach::Stack(_) => None,
        }
    }

    /// Traffic and age of the tunnels.
    ///
    /// # Errors
    /// The device fails or has been shut down.
    pub async fn stats(&self) -> Result<BTreeMap<SiteId, SiteStats>, TunnelError> {
        let readings = self.0.device.read().await?;
        let by_key = self.0.state.lock().sites_by_key();
        Ok(readings
            .into_iter()
            .filter_map(|reading| {
                let stats = SiteStats {
                    last_handshake: reading.last_handshake,
                    received: reading.received,
                    sent: reading.sent,
                };
                Some((*by_key.get(&reading.key)?, stats))
            })
            .collect())
    }
}

impl State {
    fn enact(&mut self, revision: Revision, wanted: BTreeMap<SiteId, SitePeer>) {
        let wall = wall_clock();
        for (site, peer) in &self.sites {
            if wanted.get(site) != Some(peer) {
                self.liveness.remove(*site);
            }
        }
        for (site, peer) in &wanted {
            if peer.key.is_some() && self.sites.get(site) != Some(peer) {
                self.liveness.add(*site, wall);
            }
        }
        self.by_address = wanted.iter().map(|(site, peer)| (peer.address, *site)).collect();
        self.sites = wanted;
        self.revision = Some(revision);
    }

    fn sites_by_key(&self) -> HashMap<TunnelKey, SiteId> {
        self.sites.iter().filter_map(|(site, peer)| Some((peer.key?, *site))).collect()
    }
}
