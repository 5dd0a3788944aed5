//! What a node's DNS answers.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use ipnet::IpNet;

use super::challenges;
use crate::{
    dns::{AnswerPolicy, ZoneKey},
    id::{NodeId, ResourceId},
    name::{HostName, Slug},
    record::{AdminState, Node, NodeRole, RecordData, RecordKind, RecordSet, Sealed, Settings, Verdict},
    state::ClusterState,
};

/// Seconds that resolvers may keep name servers and their addresses, which never follow health.
pub(super) const NAME_SERVER_TTL: u32 = 3600;
/// Seconds that resolvers may keep a negative answer (RFC 2308 §5, SOA MINIMUM).
pub(super) const NEGATIVE_TTL: u32 = 30;
/// Most addresses of one family in an answer.
pub(super) const ADDRESSES_MAX: usize = 8;
/// While a node is down, addresses may be kept for the usual time divided by this: the next change is near.
const DEGRADED_DIVISOR: u32 = 2;
/// When fewer than one of this many nodes that should serve are up, all are answered: so many are hardly down at
/// once, and the judgement itself is to be doubted.
const FAIL_OPEN_BELOW: usize = 3;

/// A record set as served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedSet {
    /// Seconds that resolvers may keep it.
    pub ttl: u32,
    /// Its values, in the order in which they are answered; all of one kind, never empty.
    pub data: Vec<RecordData>,
}

/// Record sets by owner and kind.
pub type RecordSets = BTreeMap<HostName, BTreeMap<RecordKind, PlannedSet>>;

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
    pub sets: RecordSets,
    /// In the place of those in `sets`: what clients of a region are answered.
    pub regional: BTreeMap<HostName, BTreeMap<Slug, BTreeMap<RecordKind, PlannedSet>>>,
    /// In the place of those in `sets`: what secondaries are given, who do not follow health. Empty if there are none.
    pub fail_open: RecordSets,
    /// Signs the zone; none = it is not signed.
    pub key: Option<ZoneKey>,
    /// Who may transfer the zone and is told of changes: where, and the name of the key.
    pub secondaries: Vec<(SocketAddr, HostName)>,
    /// Signs beside `key` while that is being exchanged.
    pub next_key: Option<ZoneKey>,
}

impl ZonePlan {
    /// The keys that sign the zone; none if it is not signed.
    pub fn keys(&self) -> impl Iterator<Item = &ZoneKey> {
        self.key.iter().chain(self.next_key.iter().filter(|_| self.key.is_some()))
    }
}

/// All zones; none lies within another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsPlan {
    /// The zones.
    pub zones: Vec<ZonePlan>,
    /// Which region the clients of a network are in.
    pub regions: Vec<(IpNet, Slug)>,
    /// Secrets for transfers, by name.
    pub transfer_keys: BTreeMap<HostName, Sealed>,
}

/// Every node answers the same.
pub(super) fn plan(state: &ClusterState) -> DnsPlan {
    let dns = state.dns();
    let zones = state.settings().map(|settings| zones(state, settings)).unwrap_or_default();
    DnsPlan {
        zones,
        regions: dns.regions.iter().map(|(network, region)| (*network, region.clone())).collect(),
        transfer_keys: dns.transfer_keys.iter().map(|(name, key)| (name.clone(), key.clone())).collect(),
    }
}

/// The zones: the cluster's own and the organisations' domains, but for those that lie within another one.
pub(crate) fn apexes(state: &ClusterState) -> Vec<&HostName> {
    let Some(settings) = state.settings() else { return Vec::new() };
    let mut apexes: Vec<&HostName> = state.domains().values().map(|domain| &domain.name).collect();
    apexes.push(&settings.zone);
    apexes.sort_unstable();
    apexes.dedup();
    let known: BTreeSet<&HostName> = apexes.iter().copied().collect();
    apexes.retain(|apex| {
        let above = std::iter::successors(apex.parent(), HostName::parent);
        above.into_iter().all(|above| !known.contains(&above))
    });
    apexes
}

/// What stands in one zone.
#[derive(Default)]
struct Content<'a> {
    /// Names that the edge serves, each with its resource.
    published: Vec<(&'a HostName, Option<ResourceId>)>,
    /// What the operator wrote.
    written: Vec<(&'a HostName, RecordKind, &'a RecordSet)>,
    /// What proves names to issuers.
    proofs: Vec<(HostName, Vec<RecordData>)>,
}

/// What stands in each zone, by apex. Everything is looked at once, however many zones there are: this runs for every
/// revision.
fn contents<'a>(state: &'a ClusterState, apexes: &[&'a HostName]) -> BTreeMap<&'a str, Content<'a>> {
    let mut contents: BTreeMap<&str, Content<'_>> =
        apexes.iter().map(|apex| (apex.as_str(), Content::default())).collect();
    for (host, resource) in published(state) {
        if let Some(content) = holding(&mut contents, host) {
            content.published.push((host, resource));
        }
    }
    for ((name, kind), set) in state.record_sets() {
        if let Some(content) = holding(&mut contents, name) {
            content.written.push((name, *kind, set));
        }
    }
    for (name, data) in challenges::proofs(state) {
        if let Some(content) = holding(&mut contents, &name) {
            content.proofs.push((name, data));
        }
    }
    contents
}

/// The content of the zone that a name lies in: zones do not lie within each other.
fn holding<'c, 'a>(
    contents: &'c mut BTreeMap<&'a str, Content<'a>>,
    name: &HostName,
) -> Option<&'c mut Content<'a>> {
    let mut names = std::iter::successors(Some(name.as_str()), |name| Some(name.split_once('.')?.1));
    let apex = names.find(|name| contents.contains_key(*name))?;
    contents.get_mut(apex)
}

/// What all zones have in common.
struct Common<'a> {
    state: &'a ClusterState,
    name_servers: Vec<(&'a Node, HostName)>,
    serving: Serving<'a>,
    everybody: Serving<'a>,
    /// TTL of addresses: the usual one, and that of now.
    usual_ttl: u32,
    ttl: u32,
    /// Who may issue certificates.
    issuers: Vec<RecordData>,
}

fn zones(state: &ClusterState, settings: &Settings) -> Vec<ZonePlan> {
    let apexes = apexes(state);
    let mut contents = contents(state, &apexes);
    let named = |node: &Node| settings.zone.child(node.spec.name.as_str()).ok();
    let name_servers = name_server_nodes(state).into_iter();
    let serving = Serving::of(state);
    let common = Common {
        state,
        name_servers: name_servers.filter_map(|node| Some((node, named(node)?))).collect(),
        usual_ttl: settings.ttl,
        ttl: serving.ttl(settings.ttl),
        serving,
        everybody: Serving::everybody(state),
        issuers: challenges::issuers_allowed(state.issuance()),
    };
    let planned = apexes.into_iter().map(|apex| {
        let content = contents.remove(apex.as_str()).unwrap_or_default();
        common.zone(apex, content)
    });
    planned.collect()
}

impl Common<'_> {
    fn zone(&self, apex: &HostName, content: Content<'_>) -> ZonePlan {
        let state = self.state;
        let dns = state.dns();
        let secondaries: Vec<(SocketAddr, HostName)> =
            dns.secondaries_of(apex).map(|(address, key)| (address, key.clone())).collect();
        let mut sets = Sets { apex, by_name: BTreeMap::new() };
        let mut fail_open = Sets { apex, by_name: BTreeMap::new() };
        let mut regional: BTreeMap<HostName, BTreeMap<Slug, BTreeMap<RecordKind, PlannedSet>>> =
            BTreeMap::new();

        for (node, name) in &self.name_servers {
            sets.addresses(name, NAME_SERVER_TTL, &[*node]);
        }
        for (host, resource) in content.published {
            sets.service(host, self.ttl, &nodes_in_order(state, resource, &self.serving));
            if !secondaries.is_empty() {
                fail_open.service(host, self.usual_ttl, &nodes_in_order(state, resource, &self.everybody));
            }
            for (region, nodes) in nodes_by_region(state, resource, &self.serving) {
                let mut near = Sets { apex, by_name: BTreeMap::new() };
                near.service(host, self.ttl, &nodes);
                if let Some(near) = near.by_name.remove(host) {
                    regional.entry(host.clone()).or_default().insert(region, near);
                }
            }
        }
        let mut servers: Vec<RecordData> =
            self.name_servers.iter().map(|(_, name)| RecordData::Ns(name.clone())).collect();
        // What the operator wrote stands above what the cluster makes.
        for (name, kind, set) in content.written {
            if set.data.is_empty() {
                continue;
            }
            if kind == RecordKind::Ns && name == apex {
                // Servers beside the nodes: secondaries.
                servers.extend(
                    set.data.iter().filter(|server| !servers.contains(server)).cloned().collect::<Vec<_>>(),
                );
                continue;
            }
            let set = PlannedSet { ttl: set.ttl, data: set.data.clone() };
            if fail_open.by_name.contains_key(name) {
                fail_open.overrule(name, kind, set.clone());
            }
            sets.overrule(name, kind, set);
            regional.remove(name);
        }
        challenges::add_proofs(content.proofs, &mut sets.by_name);
        challenges::add_issuers(apex, self.usual_ttl, &self.issuers, &mut sets.by_name);
        if !servers.is_empty() {
            sets.put(apex, RecordKind::Ns, PlannedSet { ttl: NAME_SERVER_TTL, data: servers });
        }
        let primary = self.name_servers.first().map_or_else(|| apex.clone(), |(_, name)| name.clone());
        ZonePlan {
            primary,
            contact: apex.child("hostmaster").unwrap_or_else(|_| apex.clone()),
            // RFC 1982: the log index within the lineage, so that it never goes back.
            serial: serial(state),
            negative_ttl: NEGATIVE_TTL,
            sets: sets.by_name,
            regional,
            fail_open: fail_open.by_name,
            key: dns.zone_keys.get(apex).cloned(),
            secondaries,
            next_key: state.rollovers().zone_keys.get(apex).cloned(),
            apex: apex.clone(),
        }
    }
}

/// The names that the edge serves, each with its resource; the control host has none.
fn published(state: &ClusterState) -> impl Iterator<Item = (&HostName, Option<ResourceId>)> {
    let control = state.settings().map(|settings| (&settings.control_host, None));
    let enabled = state.resources().values().filter(|resource| resource.enabled);
    control.into_iter().chain(enabled.map(|resource| (&resource.host, Some(resource.id))))
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

/// The nodes that answers name.
pub(crate) struct Serving<'a> {
    /// Those in service; or more, when too few are left.
    pub(crate) nodes: Vec<&'a Node>,
    /// A node that should serve is down.
    pub(crate) degraded: bool,
    /// Too few nodes are in service: others are named as well, because an answer that may work is better than none.
    pub(crate) open: bool,
}

impl<'a> Serving<'a> {
    pub(crate) fn of(state: &'a ClusterState) -> Self {
        let data = || state.nodes().values().filter(|node| node.spec.role == NodeRole::Data);
        let wanted = data().filter(|node| node.admin == AdminState::Active).count();
        let up: Vec<&Node> = data().filter(|node| node.in_service()).collect();
        let degraded = up.len() < wanted;
        if !up.is_empty() && up.len() * FAIL_OPEN_BELOW >= wanted {
            return Self { nodes: up, degraded, open: false };
        }
        // Those that are up or should be; all of them if that is nobody.
        let some: Vec<&Node> =
            data().filter(|node| node.verdict == Verdict::Up || node.admin == AdminState::Active).collect();
        let nodes = if some.is_empty() { data().collect() } else { some };
        Self { nodes, degraded, open: true }
    }

    /// Every node that carries data: what those are told who do not follow health.
    fn everybody(state: &'a ClusterState) -> Self {
        let nodes = state.nodes().values().filter(|node| node.spec.role == NodeRole::Data).collect();
        Self { nodes, degraded: false, open: true }
    }

    /// How long addresses may be kept, given the usual time.
    pub(crate) fn ttl(&self, usual: u32) -> u32 {
        if self.degraded { usual.div_ceil(DEGRADED_DIVISOR) } else { usual }
    }
}

/// The nodes that answers for a resource name, in the order of the answer; for the control host with none.
pub(crate) fn nodes_in_order<'a>(
    state: &ClusterState,
    resource: Option<ResourceId>,
    serving: &Serving<'a>,
) -> Vec<&'a Node> {
    let Some(resource) = resource else { return serving.nodes.clone() };
    match state.dns().policy(resource) {
        AnswerPolicy::HomeFirst | AnswerPolicy::Nearest => home_first(state, resource, serving),
        AnswerPolicy::Home => {
            let mut nodes = home_first(state, resource, serving);
            let home = preferred(state, resource).next();
            if nodes.first().is_some_and(|first| Some(first.id) == home && first.in_service()) {
                nodes.truncate(1);
            }
            nodes
        }
        AnswerPolicy::All => {
            let mut nodes = serving.nodes.clone();
            if !nodes.is_empty() {
                let turn = resource.0 % nodes.len() as u64;
                nodes.rotate_left(turn as usize);
            }
            nodes
        }
    }
}

/// Of a resource that is answered with the nearest nodes: who is named to clients of each region.
fn nodes_by_region<'a>(
    state: &ClusterState,
    resource: Option<ResourceId>,
    serving: &Serving<'a>,
) -> BTreeMap<Slug, Vec<&'a Node>> {
    let mut regions: BTreeMap<Slug, Vec<&Node>> = BTreeMap::new();
    let Some(resource) = resource.filter(|id| state.dns().policy(*id) == AnswerPolicy::Nearest) else {
        return regions;
    };
    for node in home_first(state, resource, serving).into_iter().filter(|node| node.in_service()) {
        if let Some(region) = &node.spec.region {
            regions.entry(region.clone()).or_default().push(node);
        }
    }
    regions
}

/// The addresses that an answer naming these nodes has: IPv4 first, as many of a family as fit.
pub(crate) fn addresses_of(nodes: &[&Node]) -> Vec<IpAddr> {
    let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) =
        nodes.iter().flat_map(|node| node.spec.public_addresses.iter().copied()).partition(IpAddr::is_ipv4);
    v4.into_iter().take(ADDRESSES_MAX).chain(v6.into_iter().take(ADDRESSES_MAX)).collect()
}

/// The zone that a name is answered from, if it lies in one.
#[must_use]
pub fn served_below<'a>(state: &'a ClusterState, name: &HostName) -> Option<&'a HostName> {
    let domains = state.domains().values().map(|domain| &domain.name);
    let zones = state.settings().map(|settings| &settings.zone).into_iter().chain(domains);
    zones.filter(|zone| name.is_within(zone)).min_by_key(|zone| zone.as_str().len())
}

/// Where a resource's tunnels end and may end next.
fn preferred(state: &ClusterState, resource: ResourceId) -> impl Iterator<Item = NodeId> {
    state
        .targets_of(resource)
        .filter_map(|target| state.placements().get(&target.site))
        .flat_map(|placement| std::iter::once(placement.home).chain(placement.standbys.iter().copied()))
}

/// Home first, then standbys, then the rest: the order is a hint that saves a relay. Nodes that are down come last.
fn home_first<'a>(state: &ClusterState, resource: ResourceId, serving: &Serving<'a>) -> Vec<&'a Node> {
    let preferred: Vec<NodeId> = preferred(state, resource).collect();
    let rank = |id: NodeId| preferred.iter().position(|other| *other == id).unwrap_or(usize::MAX);
    let mut nodes = serving.nodes.clone();
    nodes.sort_by_key(|node| (node.verdict == Verdict::Down, rank(node.id), node.id));
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

    /// Puts what the operator wrote in the place of what the cluster makes and cannot stand beside it.
    fn overrule(&mut self, name: &HostName, kind: RecordKind, set: PlannedSet) {
        if let Some(sets) = self.by_name.get_mut(name) {
            match kind {
                RecordKind::Cname => sets.clear(),
                // Where the operator's addresses lead, other protocols may be spoken.
                RecordKind::A | RecordKind::Aaaa => {
                    sets.remove(&RecordKind::HTTPS);
                }
                _ => {}
            }
        }
        self.put(name, kind, set);
    }

    /// Addresses and service binding of a name that the edge of these nodes serves.
    fn service(&mut self, name: &HostName, ttl: u32, nodes: &[&Node]) {
        self.addresses(name, ttl, nodes);
        if let Some(binding) = service_binding(nodes) {
            self.put(name, RecordKind::HTTPS, PlannedSet { ttl, data: vec![binding] });
        }
    }

    fn addresses(&mut self, name: &HostName, ttl: u32, nodes: &[&Node]) {
        let (v4, v6): (Vec<RecordData>, Vec<RecordData>) = addresses_of(nodes)
            .into_iter()
            .map(|address| match address {
                IpAddr::V4(address) => RecordData::A(address),
                IpAddr::V6(address) => RecordData::Aaaa(address),
            })
            .partition(|data| data.kind() == RecordKind::A);
        for (kind, data) in [(RecordKind::A, v4), (RecordKind::Aaaa, v6)] {
            if !data.is_empty() {
                self.put(name, kind, PlannedSet { ttl, data });
            }
        }
    }
}

/// The HTTPS record of a name that these nodes serve (RFC 9460): what the edge speaks, its port, and the addresses as
/// hints. None if the nodes differ in their port, or have no address.
fn service_binding(nodes: &[&Node]) -> Option<RecordData> {
    const HTTPS_PORT: u16 = 443;
    let port = nodes.first()?.spec.https_port;
    if nodes.iter().any(|node| node.spec.https_port != port) {
        return None;
    }
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for address in addresses_of(nodes) {
        match address {
            IpAddr::V4(address) => v4.extend(address.octets()),
            IpAddr::V6(address) => v6.extend(address.octets()),
        }
    }
    // RFC 9460 §2.2: priority 1, the owner's own name (the root), then parameters in the order of their keys.
    let mut data = vec![0, 1, 0];
    let mut parameter = |key: u16, value: &[u8]| {
        if !value.is_empty() {
            data.extend(key.to_be_bytes());
            // Addresses are few and ALPN is fixed: far below 64 KiB.
            data.extend((value.len() as u16).to_be_bytes());
            data.extend(value);
        }
    };
    parameter(1, b"\x02h2\x08http/1.1");
    if port != HTTPS_PORT {
        parameter(3, &port.to_be_bytes());
    }
    parameter(4, &v4);
    parameter(6, &v6);
    (!v4.is_empty() || !v6.is_empty()).then(|| RecordData::Other(RecordKind::HTTPS.number(), data))
}

/// Puts these addresses last among the hints of a service binding, as they are in the answers beside it. What cannot be
/// read is left as it is.
fn hints_last(binding: &mut [u8], own: &[IpAddr]) {
    const V4: usize = 4;
    const V6: usize = 16;
    let is_own = |bytes: &[u8]| match *bytes {
        [a, b, c, d] => own.contains(&IpAddr::from([a, b, c, d])),
        _ => <[u8; V6]>::try_from(bytes).is_ok_and(|bytes| own.contains(&IpAddr::from(bytes))),
    };
    // Behind the priority, the target's labels, and then parameters: key, length, value.
    let mut at = 2;
    while let Some(length) = binding.get(at).filter(|length| **length > 0) {
        at += 1 + usize::from(*length);
    }
    at += 1;
    while let Some([k, key, l, length]) = binding.get(at..).and_then(|rest| rest.first_chunk::<4>()).copied()
    {
        let (key, length) = (u16::from_be_bytes([k, key]), usize::from(u16::from_be_bytes([l, length])));
        let Some(value) = binding.get_mut(at + 4..at + 4 + length) else { return };
        let size = match key {
            4 => V4,
            6 => V6,
            _ => length.max(1),
        };
        let mut hints: Vec<Vec<u8>> = value.chunks(size).map(<[u8]>::to_vec).collect();
        hints.sort_by_key(|hint| is_own(hint));
        value.copy_from_slice(&hints.concat());
        at += 4 + length;
    }
}

impl DnsPlan {
    /// The plan of a node that hears from no leader: for the names in `without_tunnel`, whose sites it has no tunnel
    /// to, it puts its own addresses last. Nobody is left out, because what it believes of others may be old.
    #[must_use]
    pub fn alone(&self, own: &[IpAddr], without_tunnel: &BTreeSet<HostName>) -> Self {
        let is_own = |data: &RecordData| match data {
            RecordData::A(address) => own.contains(&IpAddr::V4(*address)),
            RecordData::Aaaa(address) => own.contains(&IpAddr::V6(*address)),
            _ => false,
        };
        let own_last = |sets: &mut BTreeMap<RecordKind, PlannedSet>| {
            for set in sets.values_mut() {
                set.data.sort_by_key(is_own);
                for data in &mut set.data {
                    if let RecordData::Other(kind, binding) = data
                        && *kind == RecordKind::HTTPS.number()
                    {
                        hints_last(binding, own);
                    }
                }
            }
        };
        let mut plan = self.clone();
        for zone in &mut plan.zones {
            let apart = |name: &HostName| without_tunnel.contains(name);
            for (_, sets) in zone.sets.iter_mut().filter(|(name, _)| apart(name)) {
                own_last(sets);
            }
            let regional = zone.regional.iter_mut().filter(|(name, _)| apart(name));
            for sets in regional.flat_map(|(_, by_region)| by_region.values_mut()) {
                own_last(sets);
            }
        }
        plan
    }
}
