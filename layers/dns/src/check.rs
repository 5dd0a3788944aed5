//! Compares what the parent of a zone says with what the zone's own servers say, and tells what to enter there.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use domain::{
    base::{
        Message, MessageBuilder, Name, Rtype,
        iana::{Class, Rcode},
        rdata::UnknownRecordData,
    },
    rdata::AllRecordData,
};
use pangolin_core::{
    dns::ZoneKey,
    name::HostName,
    plan::ZonePlan,
    record::{RecordData, RecordKind},
    rollover::ParentFound,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

use crate::sign::{delegation_signer, signer_data};

/// How long a server may take for one answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// Servers of the parent that are asked: they agree, or that is another finding.
const SERVERS_MAX: usize = 3;
/// Where DNS is asked.
const PORT: u16 = 53;
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

/// What a parent has to say of a zone, or says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Delegation {
    /// Servers.
    servers: BTreeSet<HostName>,
    /// Addresses of servers that lie within the zone.
    glue: BTreeMap<HostName, BTreeSet<IpAddr>>,
    /// DS data in wire form.
    signers: BTreeSet<Vec<u8>>,
}

/// What the parent of a zone has to say.
fn wanted(zone: &ZonePlan) -> Delegation {
    let of = |name: &HostName, kind: RecordKind| {
        let set = zone.sets.get(name).and_then(|sets| sets.get(&kind));
        set.into_iter().flat_map(|set| &set.data)
    };
    let mut wanted = Delegation::default();
    for server in of(&zone.apex, RecordKind::Ns) {
        let RecordData::Ns(server) = server else { continue };
        wanted.servers.insert(server.clone());
        if !server.is_within(&zone.apex) {
            continue;
        }
        let addresses = of(server, RecordKind::A).chain(of(server, RecordKind::Aaaa));
        let addresses = addresses.filter_map(|data| match data {
            RecordData::A(address) => Some(IpAddr::V4(*address)),
            RecordData::Aaaa(address) => Some(IpAddr::V6(*address)),
            _ => None,
        });
        wanted.glue.insert(server.clone(), addresses.collect());
    }
    wanted.signers.extend(zone.keys().map(|key| signer_data(&zone.apex, &key.public)));
    wanted
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

/// Checks a zone: what its parent says, and whether each of the zone's servers answers by UDP and TCP.
///
/// `parent` is a server of the parent to ask; without one they are looked for with the system's resolver. `port` is
/// where the zone's own servers are asked.
pub async fn check_zone(zone: &ZonePlan, parent: Option<SocketAddr>, port: Option<u16>) -> Checked {
    let wanted = wanted(zone);
    let mut checked = Checked { enter: lines(zone, &wanted), ..Checked::default() };
    let parents = match parent {
        Some(parent) => Ok(vec![parent]),
        None => parents_of(&zone.apex).await,
    };
    match parents {
        Ok(parents) => {
            for parent in parents.into_iter().take(SERVERS_MAX) {
                match delegation(&zone.apex, parent).await {
                    Ok(found) => {
                        let bad = compare(&wanted, &found);
                        if bad.is_empty() {
                            checked
                                .good
                                .push(format!("the parent's server {parent} says what the zone says"));
                        }
                        checked.bad.extend(
                            bad.into_iter().map(|bad| format!("at the parent's server {parent}: {bad}")),
                        );
                    }
                    Err(why) => checked.bad.push(format!("the parent's server {parent}: {why}")),
                }
            }
        }
        Err(why) => checked.bad.push(why),
    }
    let addresses: BTreeSet<(&HostName, IpAddr)> =
        wanted.glue.iter().flat_map(|(name, all)| all.iter().map(move |address| (name, *address))).collect();
    for (server, address) in addresses {
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

/// What a server of the parent says of a zone.
async fn delegation(apex: &HostName, server: SocketAddr) -> Result<Delegation, String> {
    let mut found = Delegation::default();
    let reply = ask(server, apex.as_str(), Rtype::NS, false).await?;
    match reply.header().rcode() {
        Rcode::NOERROR => {}
        Rcode::NXDOMAIN => return Err(format!("it says that there is no {apex}: nothing is delegated")),
        rcode => return Err(format!("it answers {rcode}")),
    }
    for (owner, data) in typed(&reply) {
        match data {
            AllRecordData::Ns(ns) if owner == *apex => {
                found.servers.extend(ns.nsdname().to_string().parse::<HostName>().ok());
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

/// The servers of the zone above a name, found with the system's resolvers.
async fn parents_of(apex: &HostName) -> Result<Vec<SocketAddr>, String> {
    let conf = std::fs::read_to_string(RESOLV_CONF).unwrap_or_default();
    let words =
        conf.lines().filter_map(|line| line.strip_prefix("nameserver")?.trim().parse::<IpAddr>().ok());
    let resolvers: Vec<SocketAddr> = words.map(|address| SocketAddr::new(address, PORT)).collect();
    let cannot = |why: &str| {
        format!("the parent's servers cannot be found: {why}; name one of them with --server ADDRESS:53")
    };
    let resolver = *resolvers.first().ok_or_else(|| cannot(&format!("{RESOLV_CONF} names no resolver")))?;
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

type Reply = Message<Vec<u8>>;

/// The records of a reply that can be read, in all sections.
fn typed(
    reply: &Reply,
) -> impl Iterator<Item = (HostName, AllRecordData<&[u8], domain::base::ParsedName<&[u8]>>)> {
    let records = reply.iter().filter_map(Result::ok);
    records.filter_map(|(record, _)| {
        let owner = record.owner().to_string().parse().ok()?;
        let data = record.to_any_record::<AllRecordData<_, _>>().ok()?.into_data();
        Some((owner, data))
    })
}

fn query(name: &str, kind: Rtype, recurse: bool) -> Result<Vec<u8>, String> {
    let bad = |_| format!("{name} is no name that can be asked for");
    let name: Name<Vec<u8>> = name.parse().map_err(|_| format!("{name} is no domain name"))?;
    let mut builder = MessageBuilder::new_vec();
    builder.header_mut().set_random_id();
    builder.header_mut().set_rd(recurse);
    let mut question = builder.question();
    question.push((name, kind, Class::IN)).map_err(bad)?;
    let mut message = question.additional();
    let with_size = message.opt(|opt| {
        opt.set_udp_payload_size(crate::reply::UDP_PAYLOAD);
        Ok(())
    });
    with_size.map_err(bad)?;
    Ok(message.finish())
}

async fn ask(server: SocketAddr, name: &str, kind: Rtype, recurse: bool) -> Result<Reply, String> {
    let query = query(name, kind, recurse)?;
    let reply = by_udp(server, &query).await?;
    if reply.header().tc() { by_tcp(server, &query).await } else { Ok(reply) }
}

async fn by_udp(server: SocketAddr, query: &[u8]) -> Result<Reply, String> {
    let exchange = async {
        let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any).await?;
        socket.connect(server).await?;
        socket.send(query).await?;
        loop {
            let mut reply = vec![0; usize::from(crate::reply::UDP_PAYLOAD)];
            let length = socket.recv(&mut reply).await?;
            reply.truncate(length);
            if let Some(reply) = answer_to(query, reply) {
                return Ok(reply);
            }
        }
    };
    within_patience(exchange).await
}

async fn by_tcp(server: SocketAddr, query: &[u8]) -> Result<Reply, String> {
    let exchange = async {
        let mut stream = TcpStream::connect(server).await?;
        // A query with one question is short.
        let framed = [&(query.len() as u16).to_be_bytes(), query].concat();
        stream.write_all(&framed).await?;
        let mut reply = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut reply).await?;
        answer_to(query, reply).ok_or_else(|| std::io::Error::other("the reply is to another question"))
    };
    within_patience(exchange).await
}

async fn within_patience(exchange: impl Future<Output = std::io::Result<Reply>>) -> Result<Reply, String> {
    match timeout(PATIENCE, exchange).await {
        Ok(reply) => reply.map_err(|error| error.to_string()),
        Err(_) => Err(format!("it did not answer within {} s", PATIENCE.as_secs())),
    }
}

/// The reply, if it is one to this query.
fn answer_to(query: &[u8], reply: Vec<u8>) -> Option<Reply> {
    let reply = Message::from_octets(reply).ok()?;
    let query = Message::from_octets(query).ok()?;
    let same = reply.header().qr()
        && reply.header().id() == query.header().id()
        && reply.first_question()? == query.first_question()?;
    same.then_some(reply)
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
