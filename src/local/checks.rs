//! Health checks that this node makes itself: of the targets of local sites that it reaches, and of targets behind its
//! tunnels of which no connector says anything.
//!
//! What it finds counts as a connector's word does: it is in this node's report, so that every node knows it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use pangolin_core::{
    NodeId, Revision, SiteId, TargetId,
    observation::TargetHealth,
    plan::{EdgePlan, SiteTunnel, TunnelPlan, TunnelTarget},
};
use pangolin_edge::{BoxedIo, Edge};
use pangolin_tunnel::{
    checks::{BoxConnection, Checker, Dial, Health, Healths, Place},
    control::messages::Check,
};
use tokio::{
    io::AsyncReadExt,
    sync::watch,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{reach::Reach, reports::Reports};
use crate::clock;

/// How often it is looked whether connectors say anything. What the plan changes is taken up at once.
const LOOK: Duration = Duration::from_secs(5);
/// For so long nobody has said anything of a target behind a tunnel before its node checks it: a connector that has just
/// come checks first, and what was known of its targets holds that long.
const SILENCE: Duration = Duration::from_secs(15);
/// Longest time that a node gives a check. Whoever administers an organisation chooses it, and a check that waits takes
/// one of the places that all of them share.
const TIMEOUT_MAX: u32 = 10;
/// A connector accepts before its target does, and breaks the connection when that refuses: where a connection is all
/// that is asked for, so long is waited for it, but no more than half of the time that the check has.
const PROBATION: Duration = Duration::from_millis(2500);

/// What this node finds of targets that it checks itself.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    healths: watch::Sender<Healths>,
    told: watch::Sender<BTreeMap<TargetId, TargetHealth>>,
}

impl Findings {
    /// The verdicts, as they change.
    #[must_use]
    pub fn told(&self) -> watch::Receiver<BTreeMap<TargetId, TargetHealth>> {
        self.told.subscribe()
    }

    /// All that is known of one target, if it is checked here and a verdict stands.
    pub(super) fn of(&self, target: TargetId) -> Option<Health> {
        let healths = self.healths.borrow();
        healths.get(&target.0).filter(|health| health.verdict != TargetHealth::Unknown).cloned()
    }

    fn tell(&self, healths: &Healths) {
        let known = healths.iter().filter(|(_, health)| health.verdict != TargetHealth::Unknown);
        let told = known.map(|(id, health)| (TargetId(*id), health.verdict)).collect();
        self.told.send_if_modified(|before| {
            let changed = *before != told;
            *before = told;
            changed
        });
    }
}

/// Where a checked target is reached: a port of a site's tunnel address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Way {
    site: SiteId,
    port: u16,
}

/// What is checked, and where.
type Wanted = BTreeMap<u64, (Check, Way)>;

/// Makes this node's checks.
pub struct Checks {
    /// This node.
    pub node: NodeId,
    /// What it reaches without another one.
    pub reach: Reach,
    /// Speaks TLS with targets.
    pub edge: Edge,
    /// Local sites, and homes of the others.
    pub edge_plan: Arc<ArcSwap<EdgePlan>>,
    /// What lies behind tunnels.
    pub tunnel_plan: watch::Receiver<Arc<TunnelPlan>>,
    /// Told when the plans have changed.
    pub reached: watch::Receiver<Revision>,
    /// What other nodes say.
    pub reports: Reports,
    /// What connectors say whose control socket is here.
    pub connectors: watch::Receiver<BTreeMap<TargetId, TargetHealth>>,
    /// Where to say what is found.
    pub findings: Findings,
}

impl Checks {
    /// Checks until told to end.
    ///
    /// # Errors
    /// None: what cannot be checked is a finding.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), std::convert::Infallible> {
        let (wanted, is_wanted) = watch::channel(BTreeMap::new());
        let ways: Arc<ArcSwap<BTreeMap<u64, Way>>> = Arc::default();
        let dial = OwnWay { reach: self.reach.clone(), edge: self.edge.clone(), ways: Arc::clone(&ways) };
        let agent = concat!("pangolin-node/", env!("CARGO_PKG_VERSION"));
        let checker = Checker { dial, clock: clock::now, agent };
        let all: fn(&BTreeMap<u64, Check>) -> &BTreeMap<u64, Check> = |checks| checks;
        let mut healths = self.findings.healths.subscribe();
        let mut running = Box::pin(checker.run(is_wanted, all, self.findings.healths.clone()));
        let mut silent = Silent::default();
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = &mut running => return Ok(()),
                Ok(()) = healths.changed() => {
                    self.findings.tell(&healths.borrow_and_update());
                    continue;
                }
                Ok(()) = self.reached.changed() => {}
                _ = look.tick() => {}
            }
            let now = self.wanted(&mut silent);
            let (checks, new): (BTreeMap<_, _>, BTreeMap<_, _>) =
                now.into_iter().map(|(id, (check, way))| ((id, check), (id, way))).unzip();
            // The way is known before it is taken.
            ways.store(Arc::new(new));
            wanted.send_if_modified(|before| {
                let changed = *before != checks;
                *before = checks;
                changed
            });
        }
    }

    fn wanted(&self, silent: &mut Silent) -> Wanted {
        let plan = self.edge_plan.load();
        let mut wanted = near(self.node, &plan);
        let tunnels = self.tunnel_plan.borrow().clone();
        let mine: Vec<&SiteTunnel> = self
            .reach
            .tunnel
            .seen()
            .borrow()
            .iter()
            .filter(|(_, seen)| seen.alive)
            .filter_map(|(site, _)| tunnels.sites.get(site))
            .filter(|site| site.targets.iter().any(|target| target.health_check.is_some()))
            .filter(|site| {
                let placement = plan.placements.get(&site.site).map_or(&[][..], Vec::as_slice);
                whose(&self.reports.tunnels_to(site.site), placement) == Some(self.node)
            })
            .collect();
        if mine.is_empty() {
            *silent = Silent::default();
            return wanted;
        }
        let mut heard: BTreeSet<TargetId> = self.connectors.borrow().keys().copied().collect();
        heard.extend(self.reports.targets_of_others(self.node));
        wanted.extend(silent.long_enough(Instant::now(), &mine, &heard));
        wanted
    }
}

/// The targets of local sites that a node reaches.
fn near(node: NodeId, plan: &EdgePlan) -> Wanted {
    let sites = plan.local_sites.iter().filter(|(_, site)| site.nodes.contains(&node));
    sites.flat_map(|(id, site)| site.targets.values().filter_map(|target| checked(*id, target))).collect()
}

fn checked(site: SiteId, target: &TunnelTarget) -> Option<(u64, (Check, Way))> {
    let mut check = Check::of(target)?;
    check.hc_timeout = check.hc_timeout.min(TIMEOUT_MAX);
    Some((check.id, (check, Way { site, port: target.tunnel_port })))
}

/// The one node that checks behind a tunnel what its connector says nothing of: of those that have a live one the first
/// of the placement, else the first.
fn whose(carriers: &[NodeId], placement: &[NodeId]) -> Option<NodeId> {
    placement.iter().find(|node| carriers.contains(node)).or_else(|| carriers.iter().min()).copied()
}

/// Targets of which nobody says anything, and since when.
#[derive(Debug, Default)]
struct Silent(BTreeMap<TargetId, Instant>);

impl Silent {
    /// Of the targets of these sites, those of which nobody has said anything for [`SILENCE`].
    fn long_enough(&mut self, now: Instant, sites: &[&SiteTunnel], heard: &BTreeSet<TargetId>) -> Wanted {
        let mut since = BTreeMap::new();
        let mut wanted = Wanted::new();
        for (site, target) in
            sites.iter().flat_map(|site| site.targets.iter().map(|target| (site.site, target)))
        {
            if heard.contains(&target.id) {
                continue;
            }
            let Some(check) = checked(site, target) else { continue };
            let began = self.0.get(&target.id).copied().unwrap_or(now);
            since.insert(target.id, began);
            if now.duration_since(began) >= SILENCE {
                wanted.extend([check]);
            }
        }
        self.0 = since;
        wanted
    }
}

/// The way that visitors' connections take from this node, under the same policy.
#[derive(Clone)]
struct OwnWay {
    reach: Reach,
    edge: Edge,
    ways: Arc<ArcSwap<BTreeMap<u64, Way>>>,
}

impl Dial for OwnWay {
    fn dial<'a>(
        &'a self,
        check: &'a Check,
        place: &'a Place,
    ) -> BoxFuture<'a, Result<BoxConnection, String>> {
        Box::pin(async move {
            let only_connects = check.hc_mode == "tcp";
            // Whoever chooses a target does not choose what else this node asks.
            if !only_connects && !place.is_at(&Place::of(check)) {
                return Err(format!("redirected to {}, where nodes do not follow", place.authority()));
            }
            let way = self.ways.load().get(&check.id).copied();
            let Way { site, port } = way.ok_or_else(|| "it is not checked any more".to_owned())?;
            let io = self.reach.connect_to_check(site, port).await.map_err(|error| error.reason)?;
            let io = match () {
                () if place.tls => self.edge.secure(&place.host, io).await?,
                () if only_connects && !self.reach.local_sites.is_here(site) => {
                    let half = Duration::from_secs(check.hc_timeout.into()) / 2;
                    stays(io, PROBATION.min(half)).await?
                }
                () => io,
            };
            Ok(Box::new(io) as BoxConnection)
        })
    }
}

/// The connection, if it is not ended at once.
async fn stays(mut io: BoxedIo, patience: Duration) -> Result<BoxedIo, String> {
    match timeout(patience, io.read_u8()).await {
        Ok(Err(error)) => Err(format!("the connection ended at once: {error}")),
        Ok(Ok(_)) | Err(_) => Ok(io),
    }
}

#[cfg(test)]
mod tests {
    use pangolin_core::{
        Epoch,
        plan::LocalSite,
        record::{HealthCheck, Method},
    };

    use super::*;

    fn target(id: u64, method: Method, timeout: Option<u32>) -> TunnelTarget {
        let check =
            |timeout| HealthCheck { path: Some("/up".into()), interval: 3, timeout, unhealthy_threshold: 2 };
        TunnelTarget {
            id: TargetId(id),
            method,
            tunnel_port: 40_000 + u16::try_from(id).expect("small"),
            host: "10.0.0.5".to_owned(),
            port: 80,
            health_check: timeout.map(check),
        }
    }

    #[test]
    fn a_node_checks_the_targets_that_it_reaches_itself_as_a_connector_would() {
        let site = |nodes: &[u64], targets: Vec<TunnelTarget>| LocalSite {
            nodes: nodes.iter().copied().map(NodeId).collect(),
            targets: targets.into_iter().map(|target| (target.tunnel_port, target)).collect(),
        };
        let all = vec![
            target(1, Method::Http, Some(2)),
            target(2, Method::Http, None),
            target(3, Method::Udp, Some(2)),
            target(4, Method::Tcp, Some(3600)),
        ];
        let elsewhere = vec![target(5, Method::Http, Some(2))];
        let local_sites = [(SiteId(1), site(&[1, 2], all)), (SiteId(2), site(&[3], elsewhere))].into();
        let plan = EdgePlan { local_sites, ..EdgePlan::default() };
        let wanted = near(NodeId(1), &plan);
        assert_eq!(wanted.keys().copied().collect::<Vec<_>>(), [1, 4]);
        let (check, way) = &wanted[&1];
        assert_eq!((check.hc_path.as_str(), check.hc_interval, check.hc_unhealthy_threshold), ("/up", 3, 2));
        assert_eq!(*way, Way { site: SiteId(1), port: 40_001 });
        assert_eq!(wanted[&4].0.hc_timeout, TIMEOUT_MAX, "nobody takes a place for an hour");
        assert_eq!(near(NodeId(4), &plan), Wanted::new());
    }

    #[test]
    fn one_of_those_that_have_a_tunnel_checks_home_first() {
        let nodes = |ids: &[u64]| ids.iter().copied().map(NodeId).collect::<Vec<_>>();
        for (carriers, placement, expected) in [
            (&[1, 2, 3][..], &[2, 3][..], Some(2)),
            (&[1, 3], &[2, 3], Some(3)),
            (&[3, 1], &[2], Some(1)),
            (&[3], &[], Some(3)),
            (&[], &[2], None),
        ] {
            assert_eq!(whose(&nodes(carriers), &nodes(placement)), expected.map(NodeId), "{carriers:?}");
        }
    }

    #[test]
    fn only_targets_of_which_nobody_says_anything_for_a_while_are_checked_behind_a_tunnel() {
        let site = SiteTunnel {
            site: SiteId(1),
            address: [100, 90, 1, 0].into(),
            key: None,
            multi_homed: false,
            offers: Vec::new(),
            epoch: Epoch::default(),
            config_version: 1,
            targets: vec![
                target(1, Method::Http, Some(2)),
                target(2, Method::Http, Some(2)),
                target(3, Method::Http, None),
            ],
        };
        let start = Instant::now();
        let mut silent = Silent::default();
        let mut at = |seconds, heard: &[u64]| {
            let heard = heard.iter().copied().map(TargetId).collect();
            let now = start + Duration::from_secs(seconds);
            silent.long_enough(now, &[&site], &heard).into_keys().collect::<Vec<_>>()
        };
        assert_eq!(at(0, &[]), [0_u64; 0]);
        assert_eq!(at(10, &[1]), [0_u64; 0], "its connector speaks of the first one");
        assert_eq!(at(15, &[1]), [2]);
        assert_eq!(at(20, &[]), [2], "silent again, but only since now");
        assert_eq!(at(35, &[]), [1, 2]);
        assert_eq!(at(40, &[1, 2]), [0_u64; 0], "a connector's word counts");
    }

    #[tokio::test]
    async fn a_connection_that_ends_at_once_is_none() {
        let patience = Duration::from_millis(50);
        let (near, far) = tokio::io::duplex(64);
        assert!(stays(Box::new(near), patience).await.is_ok(), "a silent one stays");
        drop(far);
        let (near, far) = tokio::io::duplex(64);
        drop(far);
        let error = stays(Box::new(near), Duration::from_secs(30)).await.map(drop).expect_err("ended");
        assert!(error.contains("ended at once"), "{error}");
    }
}
