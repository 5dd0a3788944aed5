//! One reconciler for all layers: it takes the whole plan of every revision and brings each layer to it.
//!
//! It is woken by a new state and by a slow timer; both go the same path.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use pangolin_core::{
    NodeId, Revision, SiteId, TargetId,
    observation::TargetHealth,
    plan::{EdgePlan, Plan, PlannedCertificate, TunnelPlan, plan},
};
use pangolin_dns::{CookieSecret, DnsServer, Secret};
use pangolin_edge::Edge;
use pangolin_peer::{Peers, identity::Keyring};
use pangolin_raft::Cluster;
use pangolin_tunnel::{TunnelLayer, control::ControlService};
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};
use zeroize::Zeroizing;

use super::{pace::rest_after, reports::Reports, status::in_contact};
use crate::{clock, keys::Keys, seal};

/// How often everything is brought in line though nothing changed.
const SLOW: Duration = Duration::from_secs(30);
/// How often it is looked whether the node still hears from the leader.
const CONTACT_EVERY: Duration = Duration::from_secs(1);
/// How long one key encrypts session tickets: 6 hours.
const TICKET_PERIOD_MS: u64 = 6 * 3600 * 1000;

/// For what the keys of connectors' session tokens are derived.
pub const SESSION_TOKENS: &str = "connector session tokens";

/// The layers of this node.
pub struct Layers {
    /// This node.
    pub node: NodeId,
    /// Where states come from.
    pub cluster: Cluster,
    /// Who may talk to this node.
    pub peers: Peers,
    /// Opens private keys.
    pub keyring: Keys,
    /// What others have seen; forgets removed nodes.
    pub reports: Reports,
    /// DNS.
    pub dns: DnsServer,
    /// Tunnels.
    pub tunnel: TunnelLayer,
    /// The edge.
    pub edge: Edge,
    /// The tunnel plan, for the control channel.
    pub tunnel_plan: watch::Sender<Arc<TunnelPlan>>,
    /// The edge plan, for the dialer.
    pub edge_plan: Arc<ArcSwap<EdgePlan>>,
    /// How far all layers have come.
    pub reached: watch::Sender<Revision>,
}

impl Layers {
    /// Reconciles until told to end.
    ///
    /// # Errors
    /// None that ends the node: a layer that cannot be brought in line is tried again, with a warning.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), std::convert::Infallible> {
        let mut states = self.cluster.watch();
        let mut keyrings = self.keyring.watch();
        loop {
            keyrings.borrow_and_update();
            let began = Instant::now();
            let state = states.borrow_and_update().clone();
            let plan = plan(&state, self.node);
            drop(state);
            self.bring_in_line(plan, began.elapsed()).await;
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = sleep(rest_after(began.elapsed())) => {}
            }
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                changed = states.changed() => if changed.is_err() { return Ok(()) },
                // What could not be opened before may be now.
                _ = keyrings.changed() => {}
                () = sleep(SLOW) => {}
            }
        }
    }

    /// `planned` is how long the plan took to make.
    async fn bring_in_line(&self, plan: Plan, planned: Duration) {
        let revision = plan.revision;
        let began = Instant::now();
        self.reports.retain(&plan.peers.nodes.keys().copied().collect::<Vec<_>>());
        self.peers.set_plan(plan.peers);
        if let Err(error) = self.dns.apply(revision, &plan.dns, &|secret| self.open_dns(secret)) {
            warn!(%revision, %error, "DNS could not be brought in line");
        }
        let dns = began.elapsed();
        // WireGuard peers stand before a connector is told to use them.
        if let Err(error) = self.tunnel.apply(revision, &plan.tunnel).await {
            warn!(%revision, %error, "the tunnels could not be brought in line");
        }
        self.tunnel_plan.send_replace(Arc::new(plan.tunnel));
        let open = |certificate: &PlannedCertificate| self.open(certificate);
        for problem in self.edge.apply(revision, &plan.edge, &open) {
            warn!(%revision, %problem, "the edge could not be brought in line");
        }
        self.edge_plan.store(Arc::new(plan.edge));
        self.reached.send_replace(revision);
        debug!(%revision, ?planned, ?dns, all = ?began.elapsed(), "the layers are brought in line");
    }

    fn open_dns(&self, secret: Secret<'_>) -> Result<Vec<u8>, String> {
        let opened = match secret {
            Secret::ZoneKey(zone, sealed) => self.keyring.now().open(sealed, &seal::zone_key(zone)),
            Secret::TransferKey(name, sealed) => self.keyring.now().open(sealed, &seal::transfer_key(name)),
        };
        opened.map(|secret| secret.to_vec()).map_err(|error| error.to_string())
    }

    fn open(&self, certificate: &PlannedCertificate) -> Result<Zeroizing<Vec<u8>>, String> {
        self.keyring
            .now()
            .open(&certificate.key, &seal::certificate(&certificate.names))
            .map_err(|error| error.to_string())
    }
}

/// Tells the edge and DNS what is true now and never in the log: target health, ways that are not to be waited for,
/// contact with the leader, and the keys of TLS session tickets, connectors' tokens and DNS cookies.
pub struct Health {
    /// This node.
    pub node: NodeId,
    /// What is seen.
    pub reports: Reports,
    /// The way to other nodes.
    pub peers: Peers,
    /// This node's tunnels.
    pub tunnel: TunnelLayer,
    /// The edge.
    pub edge: Edge,
    /// DNS.
    pub dns: DnsServer,
    /// The cluster.
    pub cluster: Cluster,
    /// Takes the keys of connectors' session tokens.
    pub control: Arc<ControlService>,
    /// Where the keys of tickets and tokens are derived from, the same on every node.
    pub keyring: Keys,
    /// What this node finds itself of targets that it checks.
    pub found: watch::Receiver<BTreeMap<TargetId, TargetHealth>>,
}

impl Health {
    /// Runs until told to end.
    ///
    /// # Errors
    /// None.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), std::convert::Infallible> {
        let mut changes = self.reports.changes();
        let mut peers = self.peers.seen();
        let mut tunnels = self.tunnel.seen();
        let (mut told, mut told_sites, mut carried) = (BTreeMap::new(), None, BTreeSet::new());
        let mut period = None;
        let mut keyrings = self.keyring.watch();
        loop {
            let began = Instant::now();
            let mut health = self.reports.target_health();
            // Visitors of this node take its own way to what it reaches: that way is what it has checked.
            health.extend(self.found.borrow_and_update().iter().map(|(id, health)| (*id, *health)));
            if health != told {
                told.clone_from(&health);
                self.edge.set_target_health(health);
            }
            let unreachable = self.unreachable_sites();
            if told_sites.as_ref() != Some(&unreachable) {
                told_sites = Some(unreachable.clone());
                self.edge.set_unreachable(unreachable);
            }
            for (node, _) in peers.borrow_and_update().iter().filter(|(_, seen)| !seen.alive) {
                self.edge.forget_via(*node);
            }
            for (site, seen) in tunnels.borrow_and_update().iter() {
                match (seen.alive, carried.contains(site)) {
                    (false, _) => {
                        self.edge.forget_local(*site);
                        carried.remove(site);
                    }
                    (true, false) => {
                        self.edge.prefer_local(*site);
                        carried.insert(*site);
                    }
                    (true, true) => {}
                }
            }
            self.let_go();
            self.tell_dns();
            let current = clock::now().0 / TICKET_PERIOD_MS;
            let rotated = keyrings.has_changed().unwrap_or(false);
            if period.replace(current) != Some(current) || rotated {
                let keyring = keyrings.borrow_and_update().clone();
                self.edge.set_ticket_keys(&ticket_keys(&keyring, current));
                self.control.set_token_keys(&keyring.derive(SESSION_TOKENS));
                self.dns.set_cookie_secrets(&cookie_secrets(&keyring));
            }
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = sleep(rest_after(began.elapsed())) => {}
            }
            loop {
                tokio::select! {
                    () = shutdown.cancelled() => return Ok(()),
                    Ok(()) = changes.changed() => {}
                    Ok(()) = self.found.changed() => {}
                    Ok(()) = keyrings.changed() => keyrings.mark_changed(),
                    Ok(()) = peers.changed() => {}
                    Ok(()) = tunnels.changed() => {}
                    // Contact is lost by time alone: when the others stand still, nothing changes here.
                    () = sleep(CONTACT_EVERY) => {
                        self.tell_dns();
                        continue;
                    }
                }
                break;
            }
        }
    }

    /// A tunnel that has been moved, or whose connector has said that it ends, is not believed in here for as long as it would take to find it silent.
    fn let_go(&self) {
        let own: Vec<SiteId> = self
            .tunnel
            .seen()
            .borrow()
            .iter()
            .filter(|(_, seen)| seen.alive)
            .map(|(site, _)| *site)
            .collect();
        for site in self.reports.left(self.node, own.into_iter()) {
            self.tunnel.left(site);
        }
    }

    /// The sites to which nobody has a live tunnel, as far as this node knows.
    fn unreachable_sites(&self) -> BTreeSet<SiteId> {
        let reached = self.reports.reached_sites(|node| self.peers.is_suspect(node));
        let own = self.tunnel.seen();
        let own = own.borrow();
        let carries = |site: &SiteId| own.get(site).is_some_and(|seen| seen.alive);
        let state = self.cluster.state();
        let local = |site: &SiteId| state.traffic().local_sites.contains_key(site);
        let away = |site: &SiteId| !reached.contains(site) && !carries(site) && !local(site);
        state.sites().keys().filter(|site| away(site)).copied().collect()
    }

    /// Without a leader, DNS goes on with the last state; where this node has no tunnel, it names the others first.
    fn tell_dns(&self) {
        let contact = in_contact(&self.cluster.status());
        self.dns.set_leader_contact(contact);
        let (mut own, mut names) = (Vec::new(), BTreeSet::new());
        if !contact {
            let state = self.cluster.state();
            let tunnels = self.tunnel.seen();
            let tunnels = tunnels.borrow();
            let local = |site| state.traffic().local_sites.get(&site);
            let near = |site| local(site).is_some_and(|nodes| nodes.is_empty() || nodes.contains(&self.node));
            let reached = |site| near(site) || tunnels.get(&site).is_some_and(|seen| seen.alive);
            own = state
                .nodes()
                .get(&self.node)
                .map(|node| node.spec.public_addresses.clone())
                .unwrap_or_default();
            let apart = state
                .resources()
                .values()
                .filter(|resource| !state.targets_of(resource.id).any(|target| reached(target.site)));
            names = apart.map(|resource| resource.host.clone()).collect();
        }
        if let Err(error) = self.dns.put_last(own, names) {
            warn!(%error, "DNS could not be told where this node has no tunnel");
        }
    }
}

/// The keys of a period, the one that encrypts first. The next one's are there already, for nodes whose clocks are ahead;
/// those of every KEK in use are, because nodes go over to another one at different moments.
fn ticket_keys(keyring: &Keyring, period: u64) -> Vec<Zeroizing<[u8; 32]>> {
    [period, period.wrapping_sub(1), period + 1]
        .iter()
        .flat_map(|period| keyring.derive(&format!("session tickets|{period}")))
        .collect()
}

/// The secrets of DNS cookies, the one that makes new ones first; those of every KEK in use are taken, as with tickets.
pub fn cookie_secrets(keyring: &Keyring) -> Vec<CookieSecret> {
    let secrets = keyring.derive("DNS cookies").into_iter().map(|key| {
        let mut secret = CookieSecret([0; 16]);
        secret.0.copy_from_slice(&key[..16]);
        secret
    });
    secrets.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_of_before_a_rotation_are_taken_until_its_end() {
        let mut ring = Keyring::create().expect("a keyring");
        let before = cookie_secrets(&ring);
        ring.make(2).expect("made");
        assert_eq!(cookie_secrets(&ring)[0], before[0], "a node that has not gone over yet takes them");
        ring.activate(2).expect("activated");
        let secrets = cookie_secrets(&ring);
        assert!(secrets[0] != before[0] && secrets.contains(&before[0]));
        ring.retire(1).expect("retired");
        assert!(!cookie_secrets(&ring).contains(&before[0]));
    }

    #[test]
    fn tickets_of_before_a_rotation_are_read_until_its_end() {
        let mut ring = Keyring::create().expect("a keyring");
        let before = ticket_keys(&ring, 7)[0].clone();
        ring.make(2).expect("made");
        assert_eq!(ticket_keys(&ring, 7)[0], before, "a node that has not gone over yet reads them");
        ring.activate(2).expect("activated");
        let keys = ticket_keys(&ring, 7);
        assert!(keys[0] != before && keys.contains(&before));
        ring.retire(1).expect("retired");
        assert!(!ticket_keys(&ring, 7).contains(&before));
    }
}
