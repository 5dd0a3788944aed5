//! What the edge serves at one revision: immutable, swapped as a whole.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use pangolin_core::{
    ResourceId, Revision, SiteId, TargetId,
    observation::TargetHealth,
    plan::{self, EdgePlan, RouteTarget},
    traffic::{Balancing, PortKind, PortRules, Share},
};

use crate::{
    balance::{Candidate, Pick, choose},
    certificates::Certificates,
    counters::Counters,
    pool::TargetPool,
    ports::{Gate, Gates},
};

/// Where requests for one host, or connections to one port, go.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) resource: ResourceId,
    pub(crate) targets: Box<[Arc<TargetPool>]>,
    pub(crate) balancing: Balancing,
    /// One for each target.
    shares: Box<[Share]>,
    turn: AtomicUsize,
}

impl Route {
    fn build(planned: &plan::Route, pools: &Pools) -> Arc<Self> {
        let known = |target: &RouteTarget| pools.by_id.get(&target.id).cloned();
        let targets: Box<[Arc<TargetPool>]> = planned.targets.iter().filter_map(known).collect();
        let share = |pool: &Arc<TargetPool>| planned.shares.get(&pool.target.id).copied().unwrap_or_default();
        Arc::new(Self {
            resource: planned.resource,
            shares: targets.iter().map(share).collect(),
            targets,
            balancing: planned.balancing,
            // Starting at the resource's number keeps many resources from all beginning with the same target.
            turn: AtomicUsize::new(usize::try_from(planned.resource.0).unwrap_or_default()),
        })
    }

    /// What decides among targets that stand equally well, for a client with this key. A route that goes by neither
    /// cookie nor address asks for none.
    pub(crate) fn pick(&self, key: impl FnOnce() -> u64) -> Pick {
        let turn = || self.turn.fetch_add(1, Relaxed);
        match self.balancing {
            Balancing::RoundRobin => Pick::Turn(turn()),
            Balancing::LeastConnections => Pick::Load(turn()),
            Balancing::Cookie | Balancing::Address => Pick::Key(key()),
        }
    }

    /// The target to try next, by index; none only if there is no target.
    pub(crate) fn choose(&self, failed: &[usize], pick: Pick) -> Option<usize> {
        if self.targets.len() < 2 {
            return (!self.targets.is_empty()).then_some(0);
        }
        let candidate = |(pool, share): (&Arc<TargetPool>, &Share)| Candidate {
            id: pool.target.id,
            share: *share,
            standing: pool.standing(),
            load: pool.load(),
        };
        let candidates: Vec<Candidate> = self.targets.iter().zip(&self.shares).map(candidate).collect();
        choose(&candidates, failed, pick)
    }
}

/// An open port.
#[derive(Debug)]
pub(crate) struct Port {
    pub(crate) rules: PortRules,
    pub(crate) route: Arc<Route>,
    pub(crate) gate: Arc<Gate>,
}

/// Something for each host name; a wildcard stands for one label.
#[derive(Debug)]
struct ByName<T> {
    exact: HashMap<Box<str>, T>,
    /// By the name after `*.`.
    wildcards: HashMap<Box<str>, T>,
}

impl<T> Default for ByName<T> {
    fn default() -> Self {
        Self { exact: HashMap::new(), wildcards: HashMap::new() }
    }
}

impl<T> ByName<T> {
    fn insert(&mut self, host: &str, value: T) {
        match host.strip_prefix("*.") {
            Some(parent) => self.wildcards.insert(parent.into(), value),
            None => self.exact.insert(host.into(), value),
        };
    }

    /// For a lower-case name: its own, else that of the wildcard one level up.
    fn find(&self, name: &str) -> Option<&T> {
        self.exact
            .get(name)
            .or_else(|| name.split_once('.').and_then(|(_, parent)| self.wildcards.get(parent)))
    }

    fn is_exact(&self, name: &str) -> bool {
        self.exact.contains_key(name)
    }

    fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.wildcards.is_empty()
    }
}

/// All that a request needs to find its way.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    pub(crate) revision: Revision,
    pub(crate) control_host: Option<Box<str>>,
    routes: ByName<Arc<Route>>,
    /// Open ports of nodes, by number.
    pub(crate) ports: BTreeMap<PortKind, Arc<Port>>,
    /// TLS that is passed on as it is, by server name.
    tls: ByName<Arc<Port>>,
    pub(crate) certificates: Certificates,
}

impl Snapshot {
    /// The route for a lower-case host name: its own, else that of the wildcard one level up.
    pub(crate) fn route(&self, name: &str) -> Option<&Arc<Route>> {
        self.routes.find(name)
    }

    /// Whether any TLS is passed on as it is.
    pub(crate) fn passes_tls(&self) -> bool {
        !self.tls.is_empty()
    }

    /// Where TLS for a lower-case server name is passed on to. A name that is published by itself is not its
    /// wildcard's.
    pub(crate) fn tls(&self, name: &str) -> Option<&Arc<Port>> {
        self.tls.find(name).filter(|_| self.tls.is_exact(name) || !self.routes.is_exact(name))
    }

    pub(crate) fn build(
        revision: Revision,
        plan: &EdgePlan,
        pools: &Pools,
        gates: &Gates,
        certificates: Certificates,
    ) -> Self {
        let mut snapshot = Self {
            revision,
            control_host: plan.control_host.as_ref().map(|host| host.as_str().into()),
            certificates,
            ..Self::default()
        };
        for (host, planned) in &plan.routes {
            snapshot.routes.insert(host.as_str(), Route::build(planned, pools));
        }
        for planned in &plan.ports {
            let route = Route::build(&planned.route, pools);
            let gate = gates.get(&(planned.kind, route.resource)).cloned().unwrap_or_else(Gate::new);
            let port = Arc::new(Port { rules: planned.rules.clone(), route, gate });
            match planned.kind {
                PortKind::Tls => snapshot.tls.insert(planned.host.as_str(), port),
                kind => drop(snapshot.ports.insert(kind, port)),
            }
        }
        snapshot
    }
}

/// The pools of all targets: they outlive snapshots, so that a new revision closes no connection.
#[derive(Default)]
pub(crate) struct Pools {
    by_id: BTreeMap<TargetId, Arc<TargetPool>>,
    /// What was told last, for targets that come later.
    health: BTreeMap<TargetId, TargetHealth>,
    unreachable: BTreeSet<SiteId>,
}

impl Pools {
    /// Keeps the pools of unchanged targets, makes new ones, and closes those that are gone or have changed:
    /// requests that run on them end, new ones do not come.
    pub(crate) fn update(&mut self, plan: &EdgePlan, counters: &Arc<Counters>) {
        let mut old = std::mem::take(&mut self.by_id);
        let routes = plan.routes.values().chain(plan.ports.iter().map(|port| &port.route));
        for target in routes.flat_map(|route| &route.targets) {
            // A target may serve several ports.
            if self.by_id.contains_key(&target.id) {
                continue;
            }
            let pool = match old.remove(&target.id) {
                Some(pool) if pool.target == *target => pool,
                changed => {
                    let new = TargetPool::new(target.clone(), Arc::clone(counters));
                    new.set_health(self.health.get(&target.id).copied().unwrap_or_default());
                    new.set_reachable(!self.unreachable.contains(&target.site));
                    if let Some(pool) = changed {
                        pool.close();
                    }
                    Arc::new(new)
                }
            };
            self.by_id.insert(target.id, pool);
        }
        for pool in old.into_values() {
            pool.close();
        }
    }

    /// Takes what is known of the targets' health; those not named are unknown.
    pub(crate) fn set_health(&mut self, health: BTreeMap<TargetId, TargetHealth>) {
        self.health = health;
        for pool in self.by_id.values() {
            pool.set_health(self.health.get(&pool.target.id).copied().unwrap_or_default());
        }
    }

    /// Takes the sites to which no node has a live tunnel.
    pub(crate) fn set_unreachable(&mut self, sites: BTreeSet<SiteId>) {
        self.unreachable = sites;
        for pool in self.by_id.values() {
            pool.set_reachable(!self.unreachable.contains(&pool.target.site));
        }
    }

    pub(crate) fn get(&self, target: TargetId) -> Option<&Arc<TargetPool>> {
        self.by_id.get(&target)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<TargetPool>> {
        self.by_id.values()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use pangolin_core::{
        SiteId,
        plan::{Route as PlannedRoute, RouteTarget},
        record::Method,
    };

    use super::*;

    fn plan(hosts: &[(&str, u16)]) -> EdgePlan {
        let route = |n: u64, port| PlannedRoute {
            resource: ResourceId(n),
            targets: vec![RouteTarget {
                id: TargetId(n),
                site: SiteId(1),
                method: Method::Http,
                address: Ipv4Addr::LOCALHOST,
                port,
                host: "t".into(),
            }],
            ..PlannedRoute::default()
        };
        let routes = hosts
            .iter()
            .zip(1..)
            .map(|((host, port), n)| (host.parse().expect("a host"), route(n, *port)))
            .collect();
        EdgePlan { routes, ..EdgePlan::default() }
    }

    #[test]
    fn a_host_finds_its_own_route_before_the_wildcard() {
        let plan = plan(&[("x.a.example", 1), ("*.a.example", 2)]);
        let mut pools = Pools::default();
        pools.update(&plan, &Arc::default());
        let snapshot =
            Snapshot::build(Revision::default(), &plan, &pools, &Gates::new(), Certificates::default());
        let resource = |host: &str| snapshot.route(host).map(|route| route.resource.0);
        assert_eq!(resource("x.a.example"), Some(1));
        assert_eq!(resource("y.a.example"), Some(2));
        assert_eq!(resource("a.example"), None);
        assert_eq!(resource("z.y.a.example"), None);
    }

    #[test]
    fn unchanged_targets_keep_their_pools() {
        let mut pools = Pools::default();
        pools.update(&plan(&[("a.example", 1), ("b.example", 2)]), &Arc::default());
        let before: Vec<_> = pools.all().cloned().collect();
        pools.update(&plan(&[("a.example", 1), ("b.example", 3)]), &Arc::default());
        let after: Vec<_> = pools.all().cloned().collect();
        assert!(Arc::ptr_eq(&before[0], &after[0]));
        assert!(!Arc::ptr_eq(&before[1], &after[1]));
    }
}
