//! What a node's DNS answers.

use std::{collections::BTreeMap, net::IpAddr};

use super::challenges;
use crate::{
    id::NodeId,
    name::HostName,
    record::{AdminState, Node, NodeRole, RecordData, RecordKind},
    state::ClusterState,
};

/// Seconds that resolvers may keep name servers and their addresses, which never follow health.
pub(super) const NAME_SERVER_TTL: u32 = 3600;
/// Seconds that resolvers may keep a negative answer (RFC 2308 §5, SOA MINIMUM).
pub(super) const NEGATIVE_TTL: u32 = 30;
/// Most addresses of one family in an answer.
pub(super) const ADDRESSES_MAX: usize = 8;

/// A record set as served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedSet {
    /// Seconds that resolvers may keep it.
    pub ttl: u32,
    /// Its values, in the order in which they are answered; all of one kind, never empty.
    pub data: Vec<RecordData>,
}

/// A zone that every node is authoritative for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZonePlan {
    /// Its name.
    pub apex: HostName,
    /// SOA MNAME: the first name server.
    pub primary: HostName,
    /// SOA RNAME as a domain name.
    pub contact: HostName,
    /// SOA SERIAL: a pure function of the log.
    pub serial: u32,
    /// SOA MINIMUM and the SOA's own TTL in negative answers.
    pub negative_ttl: u32,
    /// Record sets by owner and kind, without the SOA; NS of the apex included. Owners are within the apex and may
    /// be wildcards.
    pub sets: BTreeMap<HostName, BTreeMap<RecordKind, PlannedSet>>,
}

/// All zones; none lies within another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsPlan {
    /// The zones.
    pub zones: Vec<ZonePlan>,
}

/// Every node answers the same.
pub(super) fn plan(state: &ClusterState, _node: NodeId) -> DnsPlan {
    let Some(settings) = state.settings() else { return DnsPlan::default() };
    let mut apexes: Vec<&HostName> = state.domains().values().map(|domain| &domain.name).collect();
    apexes.push(&settings.zone);
    apexes.sort_unstable();
    let outermost =
        apexes.iter().filter(|apex| !apexes.iter().any(|other| other != *apex && apex.is_within(other)));
    let mut outermost: Vec<&HostName> = outermost.copied().collect();
    outermost.dedup();
    DnsPlan { zones: outermost.into_iter().filter_map(|apex| zone(state, apex)).collect() }
}

fn zone(state: &ClusterState, apex: &HostName) -> Option<ZonePlan> {
    let settings = state.settings()?;
    let name_servers: Vec<(&Node, HostName)> = name_server_nodes(state)
        .into_iter()
        .filter_map(|node| Some((node, settings.zone.child(node.spec.name.as_str()).ok()?)))
        .collect();
    let mut sets = Sets { apex, by_name: BTreeMap::new() };

    for (node, name) in &name_servers {
        sets.addresses(name, NAME_SERVER_TTL, std::iter::once(*node));
    }
    let in_service: Vec<&Node> = serving_nodes(state);
    sets.addresses(&settings.control_host, settings.ttl, in_service.iter().copied());
    for resource in state.resources().values().filter(|resource| resource.enabled) {
        let nodes = in_answer_order(state, resource.id, &in_service);
        sets.addresses(&resource.host, settings.ttl, nodes.into_iter());
    }
    // What the operator wrote stands above what the cluster makes.
    for ((name, kind), set) in state.record_sets() {
        if !set.data.is_empty() {
            sets.put(name, *kind, PlannedSet { ttl: set.ttl, data: set.data.clone() });
        }
    }
    challenges::add(state, apex, &mut sets.by_name);
    let servers: Vec<RecordData> =
        name_servers.iter().map(|(_, name)| RecordData::Ns(name.clone())).collect();
    if !servers.is_empty() {
        sets.put(apex, RecordKind::Ns, PlannedSet { ttl: NAME_SERVER_TTL, data: servers });
    }
    Some(ZonePlan {
        primary: name_servers.first().map_or_else(|| apex.clone(), |(_, name)| name.clone()),
        contact: apex.child("hostmaster").unwrap_or_else(|_| apex.clone()),
        // RFC 1982: the log index within the lineage, so that it never goes back.
        serial: serial(state),
        negative_ttl: NEGATIVE_TTL,
        sets: sets.by_name,
        apex: apex.clone(),
    })
}

/// The nodes that answer for the zones, up or down; those that are on their way out are named only if nobody else is
/// left.
fn name_server_nodes(state: &ClusterState) -> Vec<&Node> {
    let data = || state.nodes().values().filter(|node| node.spec.role == NodeRole::Data);
    let staying: Vec<&Node> = data().filter(|node| node.admin != AdminState::Leaving).collect();
    if staying.is_empty() { data().collect() } else { staying }
}

/// The low 32 bits of the count of changes; a lineage advances it by far more than a secondary could lag behind.
fn serial(state: &ClusterState) -> u32 {
    let revision = state.revision();
    let serial = revision.index.wrapping_add(revision.lineage.wrapping_sub(1).wrapping_mul(1 << 24));
    (serial & u64::from(u32::MAX)) as u32
}

/// The nodes that answers name: those in service, or all that carry data when none is left, because an answer that
/// may work is better than none.
pub(super) fn serving_nodes(state: &ClusterState) -> Vec<&Node> {
    let up: Vec<&Node> = state.nodes().values().filter(|node| node.in_service()).collect();
    if !up.is_empty() {
        return up;
    }
    state.nodes().values().filter(|node| node.spec.role == NodeRole::Data).collect()
}

/// The nodes that answers for a resource name, in the order of the answer; for the control host with none.
pub(crate) fn nodes_for(state: &ClusterState, resource: Option<crate::id::ResourceId>) -> Vec<&Node> {
    let serving = serving_nodes(state);
    match resource {
        Some(resource) => in_answer_order(state, resource, &serving),
        None => serving,
    }
}

/// The addresses that an answer naming these nodes has: IPv4 first, as many of a family as fit.
pub(crate) fn addresses_of(nodes: &[&Node]) -> Vec<IpAddr> {
    let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) =
        nodes.iter().flat_map(|node| node.spec.public_addresses.iter().copied()).partition(IpAddr::is_ipv4);
    v4.into_iter().take(ADDRESSES_MAX).chain(v6.into_iter().take(ADDRESSES_MAX)).collect()
}

/// The zone that a name is answered from, if it lies in one.
pub(crate) fn served_below<'a>(state: &'a ClusterState, name: &HostName) -> Option<&'a HostName> {
    let domains = state.domains().values().map(|domain| &domain.name);
    let zones = state.settings().map(|settings| &settings.zone).into_iter().chain(domains);
    zones.filter(|zone| name.is_within(zone)).min_by_key(|zone| zone.as_str().len())
}

/// Home first, then standbys, then the rest: the order is a hint that saves a relay.
fn in_answer_order<'a>(
    state: &ClusterState,
    resource: crate::id::ResourceId,
    in_service: &[&'a Node],
) -> Vec<&'a Node> {
    let preferred: Vec<NodeId> = state
        .targets_of(resource)
        .filter_map(|target| state.placements().get(&target.site))
        .flat_map(|placement| std::iter::once(placement.home).chain(placement.standbys.iter().copied()))
        .collect();
    let rank = |id: NodeId| preferred.iter().position(|other| *other == id).unwrap_or(usize::MAX);
    let mut nodes = in_service.to_vec();
    nodes.sort_by_key(|node| (rank(node.id), node.id));
    nodes
}

struct Sets<'a> {
    apex: &'a HostName,
    by_name: BTreeMap<HostName, BTreeMap<RecordKind, PlannedSet>>,
}

impl Sets<'_> {
    fn put(&mut self, name: &HostName, kind: RecordKind, set: PlannedSet) {
        if name.is_within(self.apex) {
            self.by_name.entry(name.clone()).or_default().insert(kind, set);
        }
    }

    fn addresses<'n>(&mut self, name: &HostName, ttl: u32, nodes: impl Iterator<Item = &'n Node>) {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for address in nodes.flat_map(|node| node.spec.public_addresses.iter()) {
            match address {
                IpAddr::V4(a) if v4.len() < ADDRESSES_MAX => v4.push(RecordData::A(*a)),
                IpAddr::V6(a) if v6.len() < ADDRESSES_MAX => v6.push(RecordData::Aaaa(*a)),
                _ => {}
            }
        }
        if !v4.is_empty() {
            self.put(name, RecordKind::A, PlannedSet { ttl, data: v4 });
        }
        if !v6.is_empty() {
            self.put(name, RecordKind::Aaaa, PlannedSet { ttl, data: v6 });
        }
    }
}
