//! What the edge serves at one revision: immutable, swapped as a whole.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use pangolin_core::{ResourceId, Revision, TargetId, plan::EdgePlan};

use crate::{certificates::Certificates, counters::Counters, pool::TargetPool};

/// Where requests for one host go.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) resource: ResourceId,
    pub(crate) targets: Box<[Arc<TargetPool>]>,
    turn: AtomicUsize,
}

impl Route {
    /// A number that grows with every request, for targets to take turns by.
    pub(crate) fn turn(&self) -> usize {
        self.turn.fetch_add(1, Relaxed)
    }
}

/// All that a request needs to find its way.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    pub(crate) revision: Revision,
    pub(crate) control_host: Option<Box<str>>,
    exact: HashMap<Box<str>, Arc<Route>>,
    /// By the name after `*.`.
    wildcards: HashMap<Box<str>, Arc<Route>>,
    pub(crate) certificates: Certificates,
}

impl Snapshot {
    /// The route for a lower-case host name: its own, else that of the wildcard one level up.
    pub(crate) fn route(&self, name: &str) -> Option<&Arc<Route>> {
        self.exact
            .get(name)
            .or_else(|| name.split_once('.').and_then(|(_, parent)| self.wildcards.get(parent)))
    }

    pub(crate) fn build(
        revision: Revision,
        plan: &EdgePlan,
        pools: &Pools,
        certificates: Certificates,
    ) -> Self {
        let mut snapshot = Self {
            revision,
            control_host: plan.control_host.as_ref().map(|host| host.as_str().into()),
            certificates,
            ..Self::default()
        };
        for (host, planned) in &plan.routes {
            let targets = planned.targets.iter().filter_map(|t| pools.0.get(&t.id).cloned()).collect();
            // Starting at the resource's number keeps many resources from all beginning with the same target.
            let turn = AtomicUsize::new(usize::try_from(planned.resource.0).unwrap_or_default());
            let route = Arc::new(Route { resource: planned.resource, targets, turn });
            match host.as_str().strip_prefix("*.") {
                Some(parent) => snapshot.wildcards.insert(parent.into(), route),
                None => snapshot.exact.insert(host.as_str().into(), route),
            };
        }
        snapshot
    }
}

/// The pools of all targets: they outlive snapshots, so that a new revision closes no connection.
#[derive(Default)]
pub(crate) struct Pools(BTreeMap<TargetId, Arc<TargetPool>>);

impl Pools {
    /// Keeps the pools of unchanged targets, makes new ones, and closes those that are gone or have changed:
    /// requests that run on them end, new ones do not come.
    pub(crate) fn update(&mut self, plan: &EdgePlan, counters: &Arc<Counters>) {
        let mut old = std::mem::take(&mut self.0);
        for target in plan.routes.values().flat_map(|route| &route.targets) {
            let pool = match old.remove(&target.id) {
                Some(pool) if pool.target == *target => pool,
                changed => {
                    let new = TargetPool::new(target.clone(), Arc::clone(counters));
                    if let Some(pool) = changed {
                        new.set_health(pool.health());
                        pool.close();
                    }
                    Arc::new(new)
                }
            };
            self.0.insert(target.id, pool);
        }
        for pool in old.into_values() {
            pool.close();
        }
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<TargetPool>> {
        self.0.values()
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
        let snapshot = Snapshot::build(Revision::default(), &plan, &pools, Certificates::default());
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
