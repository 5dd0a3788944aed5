//! Changes of how traffic comes in and is shared.

use imbl::OrdMap;

use super::{Applied, ClusterState, dns::retain};
use crate::{
    id::{NodeId, ResourceId, SiteId, TargetId},
    outcome::{Object, Refusal},
    traffic::{Balancing, PORTS_MAX, PortKind, PortRules, Share, Traffic, TrafficChange},
};

/// Ports that every node keeps for itself beside those that it tells: DNS, and plain HTTP.
const DNS_PORT: u16 = 53;
const HTTP_PORT: u16 = 80;

impl ClusterState {
    pub(super) fn change_traffic(&mut self, change: &TrafficChange) -> Applied {
        match change {
            TrafficChange::BalancingSet { resource, balancing } => self.set_balancing(*resource, *balancing),
            TrafficChange::ShareSet { target, share } => self.set_share(*target, *share),
            TrafficChange::PortOpened { resource, kind, rules } => self.open_port(*resource, *kind, rules),
            TrafficChange::PortClosed { resource, kind } => self.close_port(*resource, *kind),
            TrafficChange::LocalSiteSet { site, nodes } => self.set_local_site(*site, nodes.as_deref()),
        }
    }

    fn set_balancing(&mut self, resource: ResourceId, balancing: Balancing) -> Applied {
        if !self.resources.contains_key(&resource) {
            return Err(Refusal::NotFound(Object::Resource(resource)));
        }
        set(&mut self.traffic.balancing, resource, balancing);
        Ok(None)
    }

    fn set_share(&mut self, target: TargetId, share: Share) -> Applied {
        if !self.targets.contains_key(&target) {
            return Err(Refusal::NotFound(Object::Target(target)));
        }
        share.check().map_err(Refusal::Invalid)?;
        set(&mut self.traffic.shares, target, share);
        Ok(None)
    }

    fn open_port(&mut self, resource: ResourceId, kind: PortKind, rules: &PortRules) -> Applied {
        if !self.resources.contains_key(&resource) {
            return Err(Refusal::NotFound(Object::Resource(resource)));
        }
        rules.check(kind).map_err(Refusal::Invalid)?;
        if !self.traffic.ports.contains_key(&(resource, kind)) {
            if self.traffic.ports.len() >= PORTS_MAX {
                return Err(Refusal::Limit { what: "open ports".to_owned(), limit: PORTS_MAX as u64 });
            }
            if let Some(other) = holder(&self.traffic, kind) {
                return Err(Refusal::NameTaken { name: kind.to_string(), by: Object::Resource(other) });
            }
            if let Some(user) = self.own_listener(kind) {
                return Err(Refusal::Invalid(format!("{kind} cannot be opened: {user}")));
            }
        }
        self.traffic.ports.insert((resource, kind), rules.clone());
        Ok(None)
    }

    fn close_port(&mut self, resource: ResourceId, kind: PortKind) -> Applied {
        let closed = self.traffic.ports.remove(&(resource, kind));
        closed
            .map(|_| None)
            .ok_or_else(|| Refusal::Invalid(format!("{kind} is not open for resource {resource}")))
    }

    fn set_local_site(&mut self, site: SiteId, nodes: Option<&[NodeId]>) -> Applied {
        if !self.sites.contains_key(&site) {
            return Err(Refusal::NotFound(Object::Site(site)));
        }
        let Some(nodes) = nodes else {
            self.traffic.local_sites.remove(&site);
            return Ok(None);
        };
        if let Some(unknown) = nodes.iter().find(|id| !self.nodes.contains_key(*id)) {
            return Err(Refusal::NotFound(Object::Node(*unknown)));
        }
        self.traffic.local_sites.insert(site, nodes.iter().copied().collect());
        Ok(None)
    }

    /// What nodes themselves listen for on a port.
    fn own_listener(&self, kind: PortKind) -> Option<String> {
        let of_all = |what: &str| format!("the nodes keep it for {what}");
        let of_one = |what: &str, used: &dyn Fn(&crate::record::NodeSpec) -> bool| {
            let node = self.nodes.values().find(|node| used(&node.spec))?;
            Some(format!("node {} uses it for {what}", node.spec.name))
        };
        match kind {
            PortKind::Tcp(DNS_PORT) | PortKind::Udp(DNS_PORT) => Some(of_all("DNS")),
            PortKind::Tcp(HTTP_PORT) => Some(of_all("plain HTTP")),
            PortKind::Tcp(port) => of_one("HTTPS", &|spec| spec.https_port == port)
                .or_else(|| of_one("the other nodes", &|spec| spec.peer_address.port() == port)),
            PortKind::Udp(port) => of_one("its tunnels", &|spec| {
                let told = spec.tunnel_endpoint.rsplit_once(':').map(|(_, told)| told);
                told.is_some_and(|told| told.parse() == Ok(port))
            }),
            PortKind::Tls => None,
        }
    }

    /// Forgets what hangs on a resource that is gone.
    pub(super) fn forget_traffic_of(&mut self, resource: ResourceId) {
        self.traffic.balancing.remove(&resource);
        let kinds: Vec<PortKind> = self.traffic.ports_of(resource).map(|(kind, _)| kind).collect();
        for kind in kinds {
            self.traffic.ports.remove(&(resource, kind));
        }
    }

    /// Forgets what hangs on resources and targets that are gone.
    pub(super) fn tidy_traffic(&mut self) {
        let (resources, targets, sites) = (&self.resources, &self.targets, &self.sites);
        retain(&mut self.traffic.balancing, |resource| resources.contains_key(resource));
        retain(&mut self.traffic.shares, |target| targets.contains_key(target));
        retain(&mut self.traffic.ports, |(resource, _)| resources.contains_key(resource));
        retain(&mut self.traffic.local_sites, |site| sites.contains_key(site));
    }
}

/// The resource that has a port; TLS is told apart by name, so that each may have it.
fn holder(traffic: &Traffic, kind: PortKind) -> Option<ResourceId> {
    let mut holders = traffic.ports.keys().filter(|(_, other)| *other == kind && kind != PortKind::Tls);
    holders.next().map(|(resource, _)| *resource)
}

/// Whether everything kept about traffic is as it could have been set.
pub(super) fn check(traffic: &Traffic) -> Result<(), Refusal> {
    for share in traffic.shares.values() {
        share.check().map_err(Refusal::Invalid)?;
    }
    for ((resource, kind), rules) in &traffic.ports {
        rules.check(*kind).map_err(Refusal::Invalid)?;
        if let Some(other) = holder(traffic, *kind).filter(|other| other != resource) {
            return Err(Refusal::NameTaken { name: kind.to_string(), by: Object::Resource(other) });
        }
    }
    if traffic.ports.len() > PORTS_MAX {
        return Err(Refusal::Limit { what: "open ports".to_owned(), limit: PORTS_MAX as u64 });
    }
    Ok(())
}

/// The usual value needs no entry: equal states are equal bytes.
fn set<K: Ord + Clone, V: Clone + PartialEq + Default>(map: &mut OrdMap<K, V>, key: K, value: V) {
    if value == V::default() {
        map.remove(&key);
    } else {
        map.insert(key, value);
    }
}
