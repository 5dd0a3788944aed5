//! Compares what the parent of a zone says with what the zone's own servers say, and tells what to enter there.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use domain::{
    base::{Rtype, iana::Rcode, rdata::UnknownRecordData},
    rdata::AllRecordData,
};
use pangolin_core::{
    dns::ZoneKey,
    name::HostName,
    plan::{CHALLENGE_LABEL, PlannedSet, ZonePlan},
    record::{RecordData, RecordKind},
    rollover::ParentFound,
};

use crate::{
    exchange::{Reply, ask, by_tcp, by_udp, query, typed},
    sign::{delegation_signer, signer_data},
};

/// Servers of the parent that are asked: they agree, or that is another finding.
const SERVERS_MAX: usize = 3;
/// Where DNS is asked.
const PORT: u16 = 53;
/// TTL of the aliases that are to be entered, in seconds.
const ALIAS_TTL: u32 = 3600;
/// Aliases followed within the cluster's zones.
const ALIASES_MAX: usize = 8;
/// The system's resolvers.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// What was asked, and what is as it should be.
    pub good: Vec<String>,
    /// What is not.
    pub bad: Vec<String>,
    /// The records that the parent has to have, as lines of a zone file.
    pub enter: Vec<String>,
}

/// How a single name is led to the cluster without a delegation of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alias {
    /// Where the name is to point.
    pub target: HostName,
    /// Where `_acme-challenge` in front of it is to point, so that certificates are had for it.
    pub challenge: HostName,
}

impl Alias {
    /// The lines to enter at the parent.
    fn lines(&self, name: &HostName) -> [String; 2] {
        [
            format!("{name}. {ALIAS_TTL} IN CNAME {}.", self.target),
            format!("{CHALLENGE_LABEL}.{name}. {ALIAS_TTL} IN CNAME {}.", self.challenge),
        ]
    }
}

/// What a parent has to say of a zone, or says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Delegation {
    /// Servers.
    servers: BTreeSet<HostName>,
    /// Addresses of servers that lie within the zone.
    glue: BTreeMap<HostName, BTreeSet<IpAddr>>,
    /// DS data in wire form.
    signers: BTreeSet<Vec<u8>>,
    /// In the place of all that: the name is an alias.
    alias: Option<HostName>,
}

/// The record sets that the cluster serves at a name, also by a wildcard; none outside of its zones.
fn sets_at<'a>(zones: &'a [ZonePlan], name: &HostName) -> Option<&'a BTreeMap<RecordKind, PlannedSet>> {
    let within = zones.iter().filter(|zone| name.is_within(&zone.apex));
    let zone = within.max_by_key(|zone| zone.apex.as_str().len())?;
    let wildcards = std::iter::successors(name.parent(), HostName::parent);
    let wildcards = wildcards.take_while(|above| above.is_within(&zone.apex));
    let wildcards = wildcards.filter_map(|above| above.child("*").ok());
    std::iter::once(name.clone()).chain(wildcards).find_map(|name| zone.sets.get(&name))
}

/// The addresses that the cluster serves at a name, behind aliases as well.
fn addresses_at(zones: &[ZonePlan], name: &HostName) -> BTreeSet<IpAddr> {
    let mut name = name.clone();
    for _ in 0..ALIASES_MAX {
        let Some(sets) = sets_at(zones, &name) else { break };
        let data = |kind| sets.get(&kind).into_iter().flat_map(|set| &set.data);
        if let Some(RecordData::Cname(next)) = data(RecordKind::Cname).next() {
            name = next.clone();
            continue;
        }
        let addresses = data(RecordKind::A).chain(data(RecordKind::Aaaa));
        let addresses = addresses.filter_map(|data| match data {
            RecordData::A(address) => Some(IpAddr::V4(*address)),
            RecordData::Aaaa(address) => Some(IpAddr::V6(*address)),
            _ => None,
        });
        return addresses.collect();
    }
    BTreeSet::new()
}

/// What the parent of a zone has to say.
fn wanted(zone: &ZonePlan) -> Delegation {
    let mut wanted = Delegation::default();
    let servers = zone.sets.get(&zone.apex).and_then(|sets| sets.get(&RecordKind::Ns));
    for server in servers.into_iter().flat_map(|set| &set.data) {
        let RecordData::Ns(server) = server else { continue };
        wanted.servers.insert(server.clone());
        if server.is_within(&zone.apex) {
            let glue = addresses_at(std::slice::from_ref(zone), server);
            wanted.glue.insert(server.clone(), glue);
        }
    }
    wanted.signers.extend(zone.keys().map(|key| signer_data(&zone.apex, &key.public)));
    wanted
}

/// The addresses of a zone's servers: those that the cluster serves itself, and for others, those that resolvers find.
async fn servers_of(zones: &[ZonePlan], wanted: &Delegation) -> (BTreeSet<(HostName, IpAddr)>, Vec<String>) {
    let (mut found, mut bad) = (BTreeSet::new(), Vec::new());
    for server in &wanted.servers {
        let ours = zones.iter().any(|zone| server.is_within(&zone.apex));
        let addresses = match ours {
            true => Ok(addresses_at(zones, server)),
            false => resolved(server).await,
        };
        match addresses {
            Ok(addresses) if addresses.is_empty() => bad.push(format!("the server {server} has no address")),
            Ok(addresses) => found.extend(addresses.into_iter().map(|address| (server.clone(), address))),
            Err(why) => bad.push(format!("the addresses of the server {server} are not found: {why}")),
        }
    }
    (found, bad)
}

/// The addresses of a name of others.
async fn resolved(name: &HostName) -> Result<BTreeSet<IpAddr>, String> {
    let resolver = resolver()?;
    let mut addresses = BTreeSet::new();
    for kind in [Rtype::A, Rtype::AAAA] {
        let reply = ask(resolver, name.as_str(), kind, true).await?;
        addresses.extend(typed(&reply).filter_map(|(_, data)| match data {
            AllRecordData::A(data) => Some(IpAddr::V4(data.addr())),
            AllRecordData::Aaaa(data) => Some(IpAddr::V6(data.addr())),
            _ => None,
        }));
    }
    Ok(addresses.into_iter().filter(|address| has_route(SocketAddr::new(*address, PORT))).collect())
}

/// The lines to enter at the parent.
fn lines(zone: &ZonePlan, wanted: &Delegation) -> Vec<String> {
    let mut lines: Vec<String> =
        wanted.servers.iter().map(|server| format!("{}. 3600 IN NS {server}.", zone.apex)).collect();
    for (server, addresses) in &wanted.glue {
        for address in addresses {
            let kind = if address.is_ipv4() { "A" } else { "AAAA" };
            lines.push(format!("{server}. 3600 IN {kind} {address}"));
        }
    }
    lines.extend(zone.keys().map(|key| delegation_signer(&zone.apex, &key.public)));
    lines
}

/// What is wrong with what a parent says.
fn compare(wanted: &Delegation, found: &Delegation) -> Vec<String> {
    let mut bad = Vec::new();
    for server in wanted.servers.difference(&found.servers) {
        bad.push(format!("the server {server} is missing"));
    }
    for server in found.servers.difference(&wanted.servers) {
        bad.push(format!("the server {server} is named, but the zone does not name it"));
    }
    for (server, addresses) in &wanted.glue {
        let said = found.glue.get(server).cloned().unwrap_or_default();
        if !found.servers.contains(server) {
            continue;
        }
        for address in addresses.difference(&said) {
            bad.push(format!("the address {address} of {server} is missing (glue)"));
        }
        for address in said.difference(addresses) {
            bad.push(format!("{server} has the address {address} there, which is not its own"));
        }
    }
    match (wanted.signers.is_empty(), found.signers.is_empty()) {
        (true, false) => bad.push(
            "there is a DS record, but the zone is not signed: resolvers that validate refuse its answers"
                .to_owned(),
        ),
        (false, true) => bad.push("there is no DS record: the signatures count for nothing yet".to_owned()),
        (false, false) if found.signers.is_disjoint(&wanted.signers) => bad.push(
            "no DS record belongs to the zone's key: resolvers that validate refuse its answers".to_owned(),
        ),
        (false, false) if !wanted.signers.is_subset(&found.signers) => {
            bad.push("the key is being exchanged, and one of the two has no DS record".to_owned());
        }
        _ => {}
    }
    bad
}

/// Checks a zone of the cluster's `zones`: what its parent says, and whether each of the zone's servers answers by UDP and
/// TCP. `alias` is how the zone's own name would be led here without a delegation, if it is published.
///
/// `parent` is a server of the parent to ask; without one they are looked for with the system's resolver. `port` is
/// where the zone's own servers are asked.
pub async fn check_zone(
    zone: &ZonePlan,
    zones: &[ZonePlan],
    alias: Option<&Alias>,
    parent: Option<SocketAddr>,
    port: Option<u16>,
) -> Checked {
    let wanted = wanted(zone);
    let mut checked = Checked { enter: lines(zone, &wanted), ..Checked::default() };
    if let Some(alias) = alias {
        checked.enter.push("; or in the place of all that, for the name itself alone:".to_owned());
        checked.enter.extend(alias.lines(&zone.apex));
    }
    let parents = match parent {
        Some(parent) => Ok(vec![parent]),
        None => parents_of(&zone.apex).await,
    };
    let mut is_alias = false;
    match parents {
        Ok(parents) => {
            for parent in parents.into_iter().take(SERVERS_MAX) {
                let at = |bad: String| format!("at the parent's server {parent}: {bad}");
                match delegation(&zone.apex, parent).await {
                    Ok(Delegation { alias: Some(target), .. }) => {
                        is_alias = true;
                        let bad = compare_alias(zone, zones, alias, &target, parent).await;
                        if bad.is_empty() {
                            checked
                                .good
                                .push(at(format!("{} is an alias of {target}, which leads here", zone.apex)));
                        }
                        checked.bad.extend(bad.into_iter().map(at));
                    }
                    Ok(found) => {
                        let bad = compare(&wanted, &found);
                        if bad.is_empty() {
                            checked
                                .good
                                .push(format!("the parent's server {parent} says what the zone says"));
                        }
                        checked.bad.extend(bad.into_iter().map(at));
                    }
                    Err(why) => checked.bad.push(format!("the parent's server {parent}: {why}")),
                }
            }
        }
        Err(why) => checked.bad.push(why),
    }
    if is_alias {
        // Nobody asks the zone's servers for a name that is an alias.
        checked.enter = alias.map(|alias| alias.lines(&zone.apex).to_vec()).unwrap_or(checked.enter);
        return checked;
    }
    let (servers, bad) = servers_of(zones, &wanted).await;
    checked.bad.extend(bad);
    for (server, address) in servers {
        let at = SocketAddr::new(address, port.unwrap_or(PORT));
        match answers_for(&zone.apex, at).await {
            Ok(serial) => {
                checked.good.push(format!("{server} ({at}) answers by UDP and TCP, serial {serial}"))
            }
            Err(why) => checked.bad.push(format!("{server} ({at}): {why}")),
        }
    }
    checked
}

/// What is wrong with a name that is an alias at its parent.
async fn compare_alias(
    zone: &ZonePlan,
    zones: &[ZonePlan],
    alias: Option<&Alias>,
    target: &HostName,
    parent: SocketAddr,
) -> Vec<String> {
    let apex = &zone.apex;
    let Some(alias) = alias else {
        return vec![format!(
            "{apex} is an alias of {target}, but nothing is published at {apex}: delegate it"
        )];
    };
    let mut bad = Vec::new();
    // The name servers are the nodes.
    let nodes: BTreeSet<IpAddr> = wanted(zone).servers.iter().flat_map(|s| addresses_at(zones, s)).collect();
    if addresses_at(zones, target).is_disjoint(&nodes) {
        bad.push(format!("{apex} is an alias of {target}, which does not lead to the nodes"));
    }
    let challenge = format!("{CHALLENGE_LABEL}.{apex}");
    match alias_of(&challenge, parent).await {
        Ok(Some(found)) if found == alias.challenge => {}
        Ok(Some(found)) => bad.push(format!(
            "{challenge} is an alias of {found}: certificates for {apex} are proved at {} only",
            alias.challenge
        )),
        Ok(None) => bad.push(format!("{challenge} is no alias: no certificate can be had for {apex}")),
        Err(why) => bad.push(why),
    }
    bad
}

/// Where a name points at a server of its parent.
async fn alias_of(name: &str, server: SocketAddr) -> Result<Option<HostName>, String> {
    let reply = ask(server, name, Rtype::CNAME, false).await?;
    let found = typed(&reply).find_map(|(owner, data)| match data {
        AllRecordData::Cname(cname) if owner.as_str() == name => cname.cname().to_string().parse().ok(),
        _ => None,
    });
    Ok(found)
}

/// What a server of the parent says of a zone.
async fn delegation(apex: &HostName, server: SocketAddr) -> Result<Delegation, String> {
    let mut found = Delegation::default();
    let reply = ask(server, apex.as_str(), Rtype::NS, false).await?;
    for (owner, data) in typed(&reply) {
        match data {
            AllRecordData::Ns(ns) if owner == *apex => {
                found.servers.extend(ns.nsdname().to_string().parse::<HostName>().ok());
            }
            AllRecordData::Cname(cname) if owner == *apex => {
                found.alias = cname.cname().to_string().parse::<HostName>().ok();
            }
            AllRecordData::A(data) => {
                found.glue.entry(owner).or_default().insert(IpAddr::V4(data.addr()));
            }
            AllRecordData::Aaaa(data) => {
                found.glue.entry(owner).or_default().insert(IpAddr::V6(data.addr()));
            }
            _ => {}
        }
    }
    // The code of an alias is about the name where it ends (RFC 6604 §3).
    if found.alias.is_some() {
        return Ok(found);
    }
    match reply.header().rcode() {
        Rcode::NOERROR => {}
        Rcode::NXDOMAIN => return Err(format!("it says that there is no {apex}: nothing is delegated")),
        rcode => return Err(format!("it answers {rcode}")),
    }
    if found.servers.is_empty() {
        return Err(format!("it names no servers for {apex}: nothing is delegated"));
    }
    let reply = ask(server, apex.as_str(), Rtype::DS, false).await?;
    found.signers = signers_in(&reply).map(|(data, _)| data).collect();
    Ok(found)
}

/// DS data in a reply, with the seconds that it may be kept.
fn signers_in(reply: &Reply) -> impl Iterator<Item = (Vec<u8>, u32)> {
    let records = reply.answer().into_iter().flatten().filter_map(Result::ok);
    records.filter(|record| record.rtype() == Rtype::DS).filter_map(|record| {
        let ttl = record.ttl().as_secs();
        let record = record.to_record::<UnknownRecordData<_>>().ok()??;
        Some((record.data().data().to_vec(), ttl))
    })
}

/// Asks the parent of a signed zone which DS records it has: all of the servers that are found for it, or `parent`
/// alone.
///
/// # Errors
/// One of them cannot be asked, or does not speak for the zone above: what it says means nothing then.
pub async fn ask_parent(zone: &ZonePlan, parent: Option<SocketAddr>) -> Result<ParentFound, String> {
    let parents = match parent {
        Some(parent) => vec![parent],
        None => parents_of(&zone.apex).await?,
    };
    let mut said = Vec::new();
    for parent in parents.into_iter().take(SERVERS_MAX) {
        let signers = signers_at(&zone.apex, parent).await;
        said.push(signers.map_err(|why| format!("the parent's server {parent}: {why}"))?);
    }
    let has = |key: Option<&ZoneKey>| {
        let data = key.map(|key| signer_data(&zone.apex, &key.public));
        data.is_some_and(|data| !said.is_empty() && said.iter().all(|signers| signers.contains_key(&data)))
    };
    Ok(ParentFound {
        current: has(zone.key.as_ref()),
        next: has(zone.next_key.as_ref()),
        any: said.iter().any(|signers| !signers.is_empty()),
        ttl: said.iter().flat_map(BTreeMap::values).copied().max(),
    })
}

/// The DS data of a zone at a server of its parent, with the seconds that each may be kept.
async fn signers_at(apex: &HostName, server: SocketAddr) -> Result<BTreeMap<Vec<u8>, u32>, String> {
    let reply = ask(server, apex.as_str(), Rtype::DS, false).await?;
    let header = reply.header();
    if header.rcode() != Rcode::NOERROR || !header.aa() {
        return Err(format!("it does not speak for the zone above {apex}: it answers {}", header.rcode()));
    }
    let signers: BTreeMap<Vec<u8>, u32> = signers_in(&reply).collect();
    // That there is none counts if the zone above says so, whose SOA record stands beside it (RFC 2308 §2.2).
    let above = |(owner, data): (HostName, AllRecordData<_, _>)| {
        matches!(data, AllRecordData::Soa(_)) && owner != *apex && apex.is_within(&owner)
    };
    if signers.is_empty() && !typed(&reply).any(above) {
        return Err(format!("it does not speak for the zone above {apex}"));
    }
    Ok(signers)
}

/// Asks a server for a zone's SOA by UDP and by TCP: the serial, or what is wrong.
async fn answers_for(apex: &HostName, server: SocketAddr) -> Result<u32, String> {
    let query = query(apex.as_str(), Rtype::SOA, false)?;
    let mut serial = 0;
    for (protocol, reply) in [("UDP", by_udp(server, &query).await), ("TCP", by_tcp(server, &query).await)] {
        let reply = reply.map_err(|why| format!("no answer by {protocol}: {why}"))?;
        let header = reply.header();
        if header.rcode() != Rcode::NOERROR || !header.aa() {
            return Err(format!("it does not answer for the zone by {protocol}: {}", header.rcode()));
        }
        serial = typed(&reply)
            .find_map(|(_, data)| match data {
                AllRecordData::Soa(soa) => Some(soa.serial().into_int()),
                _ => None,
            })
            .ok_or_else(|| format!("its answer by {protocol} has no SOA record"))?;
    }
    Ok(serial)
}

/// The first of the system's resolvers.
fn resolver() -> Result<SocketAddr, String> {
    let conf = std::fs::read_to_string(RESOLV_CONF).unwrap_or_default();
    let mut words =
        conf.lines().filter_map(|line| line.strip_prefix("nameserver")?.trim().parse::<IpAddr>().ok());
    let address = words.next().ok_or_else(|| format!("{RESOLV_CONF} names no resolver"))?;
    Ok(SocketAddr::new(address, PORT))
}

/// The servers of the zone above a name, found with the system's resolvers.
async fn parents_of(apex: &HostName) -> Result<Vec<SocketAddr>, String> {
    let cannot = |why: &str| {
        format!("the parent's servers cannot be found: {why}; name one of them with --server ADDRESS:53")
    };
    let resolver = resolver().map_err(|why| cannot(&why))?;
    for above in std::iter::successors(apex.parent(), HostName::parent) {
        let reply = ask(resolver, above.as_str(), Rtype::NS, true).await.map_err(|why| cannot(&why))?;
        let names: Vec<String> = typed(&reply)
            .filter(|(owner, _)| *owner == above)
            .filter_map(|(_, data)| match data {
                AllRecordData::Ns(ns) => Some(ns.nsdname().to_string()),
                _ => None,
            })
            .collect();
        let mut servers = Vec::new();
        for name in names.iter().take(SERVERS_MAX) {
            for kind in [Rtype::A, Rtype::AAAA] {
                let reply = ask(resolver, name, kind, true).await.map_err(|why| cannot(&why))?;
                let address = typed(&reply).find_map(|(_, data)| match data {
                    AllRecordData::A(data) => Some(IpAddr::V4(data.addr())),
                    AllRecordData::Aaaa(data) => Some(IpAddr::V6(data.addr())),
                    _ => None,
                });
                servers.extend(address.map(|ip| SocketAddr::new(ip, PORT)).filter(|at| has_route(*at)));
            }
        }
        if !names.is_empty() {
            let none = || cannot("this host has no way to any of their addresses");
            return if servers.is_empty() { Err(none()) } else { Ok(servers) };
        }
    }
    Err(cannot("no zone above it has servers"))
}

/// Whether the host has a way to an address, as far as it knows: many have IPv4 alone. Nothing is sent.
fn has_route(server: SocketAddr) -> bool {
    let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    std::net::UdpSocket::bind(any).and_then(|socket| socket.connect(server)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str) -> HostName {
        name.parse().expect("a host name")
    }

    fn delegation(servers: &[&str], glue: &[(&str, &str)], signers: &[&[u8]]) -> Delegation {
        let mut made = Delegation {
            servers: servers.iter().map(|name| host(name)).collect(),
            signers: signers.iter().map(|data| data.to_vec()).collect(),
            ..Delegation::default()
        };
        for (name, address) in glue {
            made.glue.entry(host(name)).or_default().insert(address.parse().expect("an address"));
        }
        made
    }

    #[test]
    fn what_differs_between_parent_and_zone_is_told() {
        let wanted = delegation(
            &["n1.z.test", "n2.z.test"],
            &[("n1.z.test", "192.0.2.1"), ("n2.z.test", "192.0.2.2")],
            &[b"ds"],
        );
        assert_eq!(compare(&wanted, &wanted), Vec::<String>::new());
        let cases: [(Delegation, &[&str]); 4] = [
            (
                delegation(&["n1.z.test"], &[("n1.z.test", "192.0.2.1")], &[b"ds"]),
                &["the server n2.z.test is missing"],
            ),
            (
                delegation(
                    &["n1.z.test", "n2.z.test", "old.z.test"],
                    &[("n1.z.test", "192.0.2.9"), ("n2.z.test", "192.0.2.2")],
                    &[b"ds"],
                ),
                &["old.z.test is named", "192.0.2.1 of n1.z.test is missing", "has the address 192.0.2.9"],
            ),
            (Delegation { signers: BTreeSet::new(), ..wanted.clone() }, &["there is no DS record"]),
            (
                Delegation { signers: [b"other".to_vec()].into(), ..wanted.clone() },
                &["no DS record belongs to the zone's key"],
            ),
        ];
        for (found, expected) in cases {
            let bad = compare(&wanted, &found);
            assert_eq!(bad.len(), expected.len(), "{bad:?}");
            for part in expected {
                assert!(bad.iter().any(|line| line.contains(part)), "{part}: {bad:?}");
            }
        }
        let unsigned = Delegation { signers: BTreeSet::new(), ..wanted.clone() };
        assert!(compare(&unsigned, &wanted)[0].contains("not signed"));
    }
}
