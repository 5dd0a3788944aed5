//! Keeps the tunnels in line with what is wanted: which nodes, which ports, and what becomes of the flows.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    pin::pin,
    sync::Arc,
    time::Duration,
};

use pangolin_core::{NodeId, Timestamp, observation::Seen, record::TunnelKey};
use pangolin_tunnel::{
    SecretKey, TunnelError,
    site::{SiteBackend, SiteNode, SiteTunnels},
};
use tokio::{
    net::lookup_host,
    sync::{Notify, watch},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    choice::{STAND_IN_SPREAD, choose},
    distances::Distances,
    forward::Flows,
    now,
    over_tls::{Access, Way, Ways},
    spread::spread,
    status::{Status, TunnelStatus},
    wanted::Wanted,
};

/// How often the choice of nodes is looked at while nothing happens.
const TICK: Duration = Duration::from_secs(1);
/// How long a resolved endpoint is good for.
const RESOLVED_LIFETIME: Duration = Duration::from_secs(60);
/// When a lookup that gave nothing is repeated.
const RESOLVE_AGAIN: Duration = Duration::from_secs(5);

/// The part that drives the tunnels.
pub(crate) struct Tunnels {
    pub(crate) wanted: watch::Receiver<Wanted>,
    pub(crate) key: SecretKey,
    pub(crate) mtu: u16,
    /// What carries the packets.
    pub(crate) backend: SiteBackend,
    /// Most nodes to have tunnels to.
    pub(crate) most: usize,
    /// Exists while any tunnel is alive.
    pub(crate) health_file: Option<PathBuf>,
    /// How nodes are reached where UDP is not let out.
    pub(crate) access: Option<Arc<Access>>,
    pub(crate) status: watch::Sender<Status>,
    /// How far the nodes are that tunnels are kept to.
    pub(crate) distances: watch::Sender<Distances>,
    /// Told when a tunnel dies.
    pub(crate) doubt: Arc<Notify>,
}

impl Tunnels {
    /// Runs until shut down.
    ///
    /// # Errors
    /// The tunnels cannot be opened or kept.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) -> Result<(), TunnelError> {
        loop {
            let wanted =
                shutdown.run_until_cancelled(self.wanted.wait_for(|wanted| wanted.address.is_some()));
            let Some(Ok(Some(address))) = wanted.await.map(|wanted| wanted.map(|wanted| wanted.address))
            else {
                return Ok(());
            };
            let (tunnels, task) =
                SiteTunnels::open(self.key.clone(), address, self.mtu, &self.backend).await?;
            tracing::info!(%address, backend = %tunnels.backend(), "tunnels open");
            let stop = shutdown.child_token();
            let mut task = pin!(task.run(stop.clone()));
            let flows = Flows::new(stop.clone());
            let ended = tokio::select! {
                ended = &mut task => Some(ended),
                () = self.keep(&tunnels, &flows, address) => None,
            };
            stop.cancel();
            flows.end().await;
            self.say_health(false);
            match ended {
                Some(ended) => ended?,
                None => task.await?,
            }
            if shutdown.is_cancelled() {
                return Ok(());
            }
        }
    }

    /// Keeps the tunnels of one address, until another one is wanted.
    async fn keep(&mut self, tunnels: &SiteTunnels, flows: &Flows, address: Ipv4Addr) {
        let (mut paths, mut alive, mut news) = (tunnels.paths(), BTreeMap::new(), false);
        let own = self.key.public();
        let mut endpoints =
            Endpoints { later: spread(own, "stand-in", STAND_IN_SPREAD), ..Endpoints::default() };
        let mut ways = self.access.clone().map(|access| Ways::new(access, own));
        let mut held: Vec<SiteNode> = Vec::new();
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            {
                let wanted = self.wanted.borrow_and_update().clone();
                if wanted.address != Some(address) {
                    return;
                }
                let (tcp, udp) = wanted.ports();
                tunnels.listen(tcp, udp);
                let seen = paths.borrow().clone();
                // After a change of nodes, what was seen before it says nothing of the new ones.
                if std::mem::take(&mut news) {
                    if has_died(&alive, &held, &seen) {
                        self.doubt.notify_one();
                    }
                    alive = living(&held, &seen);
                }
                self.say_health(seen.values().any(|seen| seen.alive));
                let mut nodes = endpoints.choose(&wanted, &held, seen.clone(), self.most);
                if let Some(ways) = &mut ways {
                    ways.direct(&mut nodes, &wanted, &seen, now()).await;
                }
                let over_tls = ways.as_ref().map(Ways::taken).unwrap_or_default();
                self.say_status(&wanted, &nodes, &seen, &over_tls);
                self.distances.send_replace(tunnels.round_trips());
                if nodes != held {
                    let ids: Vec<u64> = nodes.iter().map(|node| node.node.0).collect();
                    tracing::info!(nodes = ?ids, "keeping tunnels");
                    held.clone_from(&nodes);
                    tunnels.set_nodes(nodes);
                }
            }
            tokio::select! {
                changed = self.wanted.changed() => if changed.is_err() {
                    return;
                },
                changed = paths.changed() => match changed {
                    Ok(()) => news = true,
                    Err(_) => return,
                },
                flow = tunnels.accept() => match flow {
                    Some(flow) => flows.carry(flow, &self.wanted.borrow()),
                    None => return,
                },
                () = endpoints.resolved() => {}
                _ = tick.tick() => {}
            }
        }
    }

    /// Says how the tunnels are.
    fn say_status(
        &self,
        wanted: &Wanted,
        nodes: &[SiteNode],
        seen: &BTreeMap<NodeId, Seen>,
        ways: &BTreeMap<NodeId, Way>,
    ) {
        let told = nodes.iter().filter_map(|node| {
            let known = wanted.nodes.iter().find(|known| known.id == node.node)?;
            let path = seen.get(&node.node);
            Some(TunnelStatus {
                node: if known.name.is_empty() { known.endpoint.clone() } else { known.name.clone() },
                endpoint: known.endpoint.clone(),
                control: known.control.clone(),
                over_tls: ways.get(&node.node) == Some(&Way::Tls),
                alive: path.is_some_and(|seen| seen.alive),
                since: path.map_or(Timestamp(0), |seen| seen.since),
            })
        });
        let tunnels: Vec<TunnelStatus> = told.collect();
        self.status.send_if_modified(|status| {
            let changed = status.address != wanted.address || status.tunnels != tunnels;
            (status.address, status.tunnels) = (wanted.address, tunnels);
            changed
        });
    }

    /// Writes or removes the health file.
    fn say_health(&self, healthy: bool) {
        let Some(path) = &self.health_file else { return };
        let said = match (healthy, path.exists()) {
            (true, false) => std::fs::write(path, "ok\n"),
            (false, true) => std::fs::remove_file(path),
            _ => Ok(()),
        };
        if let Err(error) = said {
            tracing::warn!(path = %path.display(), %error, "the health file cannot be kept");
        }
    }
}

/// The nodes with a live tunnel, each with its key: a node of the same id with another key is another tunnel.
fn living(held: &[SiteNode], seen: &BTreeMap<NodeId, Seen>) -> BTreeMap<NodeId, TunnelKey> {
    let alive = |node: &&SiteNode| seen.get(&node.node).is_some_and(|seen| seen.alive);
    held.iter().filter(alive).map(|node| (node.node, node.key)).collect()
}

/// Whether a tunnel that was alive and is still held is not alive any more. One that was given up for another has not
/// died.
fn has_died(alive: &BTreeMap<NodeId, TunnelKey>, held: &[SiteNode], seen: &BTreeMap<NodeId, Seen>) -> bool {
    let dead = |node: &SiteNode| seen.get(&node.node).is_some_and(|seen| !seen.alive);
    held.iter().any(|node| dead(node) && alive.get(&node.node) == Some(&node.key))
}

/// The addresses behind the nodes' endpoints.
#[derive(Default)]
struct Endpoints {
    /// What this connector waits beyond others before it chooses a stand-in.
    later: Duration,
    known: BTreeMap<String, SocketAddr>,
    asked: BTreeMap<String, Instant>,
    lookups: JoinSet<(String, Option<SocketAddr>)>,
    /// Chosen nodes whose endpoint has no address, since when.
    lost: BTreeMap<NodeId, Timestamp>,
}

impl Endpoints {
    /// The nodes to have tunnels to.
    fn choose(
        &mut self,
        wanted: &Wanted,
        held: &[SiteNode],
        mut paths: BTreeMap<NodeId, Seen>,
        most: usize,
    ) -> Vec<SiteNode> {
        let offered: Vec<NodeId> = wanted.nodes.iter().map(|node| node.id).collect();
        let held: BTreeSet<NodeId> = held.iter().map(|node| node.node).collect();
        for (node, since) in &self.lost {
            // A node that cannot even be found is as dead as one that does not answer.
            paths.entry(*node).or_insert(Seen { alive: false, since: *since });
        }
        let chosen = choose(&offered, &held, &paths, most, self.later, now());
        let mut nodes = Vec::new();
        let lost = std::mem::take(&mut self.lost);
        for id in chosen {
            let Some(node) = wanted.nodes.iter().find(|node| node.id == id) else { continue };
            match self.address(&node.endpoint) {
                Some(endpoint) => {
                    nodes.push(SiteNode { node: id, endpoint, key: node.key, address: node.address });
                }
                None => drop(self.lost.insert(id, lost.get(&id).copied().unwrap_or_else(now))),
            }
        }
        nodes
    }

    /// The address of an endpoint, if it is known; it is looked up in the meantime if that is due.
    fn address(&mut self, endpoint: &str) -> Option<SocketAddr> {
        if let Ok(address) = endpoint.parse() {
            return Some(address);
        }
        let known = self.known.get(endpoint).copied();
        let lifetime = if known.is_some() { RESOLVED_LIFETIME } else { RESOLVE_AGAIN };
        if self.asked.get(endpoint).is_none_or(|asked| asked.elapsed() >= lifetime) {
            self.asked.insert(endpoint.to_owned(), Instant::now());
            let endpoint = endpoint.to_owned();
            self.lookups.spawn(async move {
                let found = match timeout(RESOLVE_AGAIN, lookup_host(&endpoint)).await {
                    Ok(Ok(addresses)) => preferred(addresses.collect()),
                    Ok(Err(error)) => {
                        tracing::warn!(endpoint, %error, "the endpoint of a node cannot be resolved");
                        None
                    }
                    Err(_) => None,
                };
                (endpoint, found)
            });
        }
        known
    }

    /// Waits until an address is found or not; for ever, if none is looked up.
    async fn resolved(&mut self) {
        match self.lookups.join_next().await {
            // An address that was good once is better than none.
            Some(Ok((endpoint, Some(address)))) => drop(self.known.insert(endpoint, address)),
            Some(_) => {}
            None => std::future::pending().await,
        }
    }
}

/// IPv4 first: it is what tunnels of this protocol are run over, and a name often has an IPv6 address that leads
/// nowhere.
fn preferred(addresses: Vec<SocketAddr>) -> Option<SocketAddr> {
    addresses.iter().find(|address| address.is_ipv4()).or(addresses.first()).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wanted::Node;

    fn wanted(endpoints: &[&str]) -> Wanted {
        let nodes = (1_u8..)
            .zip(endpoints)
            .map(|(number, endpoint)| Node {
                id: NodeId(number.into()),
                name: format!("n{number}"),
                endpoint: (*endpoint).to_owned(),
                key: TunnelKey([number; 32]),
                address: Ipv4Addr::new(100, 89, 0, number),
                control: String::new(),
            })
            .collect();
        Wanted { nodes, ..Wanted::default() }
    }

    #[tokio::test]
    async fn nodes_are_held_by_address_and_names_are_looked_up() {
        let mut endpoints = Endpoints::default();
        let wanted = wanted(&["192.0.2.1:51820", "localhost:51820"]);
        let ids = |nodes: &[SiteNode]| nodes.iter().map(|node| node.node.0).collect::<Vec<_>>();
        let first = endpoints.choose(&wanted, &[], BTreeMap::new(), 3);
        assert_eq!(ids(&first), [1], "the name is not known yet");
        endpoints.resolved().await;
        let second = endpoints.choose(&wanted, &first, BTreeMap::new(), 3);
        assert_eq!(ids(&second), [1, 2]);
        assert!(second[1].endpoint.ip().is_loopback());
        assert!(endpoints.lookups.is_empty(), "a known name is not asked for again at once");
    }

    #[tokio::test]
    async fn a_node_that_is_not_found_has_a_stand_in() {
        let mut endpoints = Endpoints::default();
        let wanted = wanted(&["nowhere.invalid:51820", "192.0.2.2:51820"]);
        assert!(endpoints.choose(&wanted, &[], BTreeMap::new(), 1).is_empty());
        endpoints.lost.insert(NodeId(1), Timestamp(now().0 - 11_000));
        let nodes = endpoints.choose(&wanted, &[], BTreeMap::new(), 1);
        assert_eq!(nodes[0].node, NodeId(2));
    }

    #[test]
    fn a_tunnel_that_is_given_up_for_another_has_not_died() {
        let node = |key: u8| SiteNode {
            node: NodeId(0),
            endpoint: SocketAddr::from(([192, 0, 2, key], 51_820)),
            key: TunnelKey([key; 32]),
            address: Ipv4Addr::new(100, 89, 0, key),
        };
        let path = |alive| BTreeMap::from([(NodeId(0), Seen { alive, since: Timestamp(1) })]);
        let alive = living(&[node(1)], &path(true));
        assert_eq!(alive, BTreeMap::from([(NodeId(0), TunnelKey([1; 32]))]));
        assert!(living(&[node(1)], &path(false)).is_empty());
        let cases = [
            ("it lives", node(1), path(true), false),
            ("it is dead", node(1), path(false), true),
            ("another one, under the same id", node(2), path(false), false),
            ("nothing is seen", node(1), BTreeMap::new(), false),
        ];
        for (what, held, seen, expected) in cases {
            assert_eq!(has_died(&alive, &[held], &seen), expected, "{what}");
        }
    }
}
