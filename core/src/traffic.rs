//! How traffic comes in for a resource beside HTTPS requests for its name, and how it is shared among its targets.

use std::{fmt, net::IpAddr, str::FromStr};

use imbl::{OrdMap, OrdSet};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::id::{NodeId, ResourceId, SiteId, TargetId};

/// Most open ports of a cluster: each is a listener per address on every node.
pub const PORTS_MAX: usize = 1024;
/// Most networks that a port lets in, and most that it keeps out.
pub const NETWORKS_MAX: usize = 64;
/// Largest weight of a target.
pub const WEIGHT_MAX: u16 = 256;
/// Most connections of a port at once on each node.
pub const CONNECTIONS_MAX: u32 = 65_536;
/// Longest time without a byte that may be allowed, in seconds: a week.
pub const IDLE_MAX: u32 = 7 * 86_400;

/// Which of the targets that are equally well gets the next request, connection or UDP flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Balancing {
    /// In turn, as often as their weights say.
    #[default]
    RoundRobin,
    /// The one with the fewest requests or connections under way on this node, by weight.
    LeastConnections,
    /// The same one for each browser, told by a cookie; in turn for what knows no cookies.
    Cookie,
    /// The same one for each client address, on every node.
    Address,
}

impl Balancing {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::RoundRobin, Self::LeastConnections, Self::Cookie, Self::Address];

    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RoundRobin => "round-robin",
            Self::LeastConnections => "least-connections",
            Self::Cookie => "cookie",
            Self::Address => "address",
        }
    }
}

impl fmt::Display for Balancing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Balancing {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|balancing| balancing.as_str() == text);
        found.ok_or_else(|| format!("{text:?} is none of round-robin, least-connections, cookie, address"))
    }
}

/// A target's share of the traffic of its resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Share {
    /// How much of it, in proportion to the weights of the others: 1 to [`WEIGHT_MAX`].
    pub weight: u16,
    /// Targets of a priority get traffic only while none of a lower number can: 0 serves, 1 is the backup, 2 the
    /// backup's backup.
    pub priority: u8,
}

impl Default for Share {
    fn default() -> Self {
        Self { weight: 1, priority: 0 }
    }
}

impl Share {
    /// What is wrong with it.
    ///
    /// # Errors
    /// The weight is out of range.
    pub fn check(self) -> Result<(), String> {
        if (1..=WEIGHT_MAX).contains(&self.weight) {
            return Ok(());
        }
        Err(format!("a weight lies between 1 and {WEIGHT_MAX}: to give a target nothing, disable it"))
    }
}

/// What a resource is reached by beside HTTPS: written `25565/tcp`, `53/udp`, `tls`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum PortKind {
    /// TCP connections to this port of any node go to its targets of the method `tcp`.
    Tcp(u16),
    /// UDP datagrams to this port of any node go to its targets of the method `udp`.
    Udp(u16),
    /// TLS connections for its name to the HTTPS port of any node go to its targets of the method `tcp` as they are:
    /// the nodes do not decrypt them.
    Tls,
}

impl fmt::Display for PortKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(port) => write!(f, "{port}/tcp"),
            Self::Udp(port) => write!(f, "{port}/udp"),
            Self::Tls => f.write_str("tls"),
        }
    }
}

impl FromStr for PortKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = match text.split_once('/') {
            None if text == "tls" => return Ok(Self::Tls),
            Some((port, "tcp")) => port.parse().map(Self::Tcp).ok(),
            Some((port, "udp")) => port.parse().map(Self::Udp).ok(),
            _ => None,
        };
        parsed.ok_or_else(|| format!("{text:?} is no port: write 25565/tcp, 53/udp or tls"))
    }
}

/// The versions of the PROXY protocol, which tells a target who connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProxyProtocol {
    /// A line of text.
    V1,
    /// Binary.
    V2,
    /// The second version in front of each datagram: what it is on a UDP port, whose rules once had none.
    V2Datagrams,
}

/// Who may use a port, and how much.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRules {
    /// Each connection to a target begins with a header that tells the client's address; with UDP, each datagram does.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// Clients that may come; empty = all.
    pub allow: Vec<IpNet>,
    /// Clients that may not, also if they are among the former.
    pub deny: Vec<IpNet>,
    /// Connections or UDP flows at once on each node.
    pub connections: u32,
    /// Of them, from one IPv4 address or one IPv6 /64.
    pub per_source: u32,
    /// Seconds without a byte in either direction until one is ended.
    pub idle: u32,
}

impl PortRules {
    /// What holds if nothing is said: a thousand connections, a hundred from one source, ended after an hour without
    /// a byte, and UDP flows after a minute.
    #[must_use]
    pub fn usual(kind: PortKind) -> Self {
        let idle = if matches!(kind, PortKind::Udp(_)) { 60 } else { 3600 };
        Self {
            proxy_protocol: None,
            allow: Vec::new(),
            deny: Vec::new(),
            connections: 1000,
            per_source: 100,
            idle,
        }
    }

    /// Whether a client of this address may come.
    #[must_use]
    pub fn admits(&self, client: IpAddr) -> bool {
        let client = client.to_canonical();
        let among = |networks: &[IpNet]| networks.iter().any(|network| network.contains(&client));
        !among(&self.deny) && (self.allow.is_empty() || among(&self.allow))
    }

    /// What is wrong with them.
    ///
    /// # Errors
    /// A value is out of range, or does not go with this kind of port.
    pub fn check(&self, kind: PortKind) -> Result<(), String> {
        if matches!(kind, PortKind::Tcp(0) | PortKind::Udp(0)) {
            return Err("a port lies between 1 and 65535".to_owned());
        }
        match (kind, self.proxy_protocol) {
            (PortKind::Udp(_), Some(ProxyProtocol::V1)) => {
                return Err("version 1 of the PROXY protocol knows no datagrams: use v2 with UDP".to_owned());
            }
            // As it was when UDP ports had none: what has been refused once is refused by every version.
            (PortKind::Udp(_), Some(ProxyProtocol::V2)) => {
                return Err("the PROXY protocol goes with TCP only".to_owned());
            }
            (PortKind::Tcp(_) | PortKind::Tls, Some(ProxyProtocol::V2Datagrams)) => {
                return Err("only UDP has datagrams for the PROXY protocol to go in front of".to_owned());
            }
            _ => {}
        }
        for network in self.allow.iter().chain(&self.deny) {
            if *network != network.trunc() {
                return Err(format!("{network} has bits behind its prefix: write {}", network.trunc()));
            }
        }
        if self.allow.len() > NETWORKS_MAX || self.deny.len() > NETWORKS_MAX {
            return Err(format!("a port lets in, and keeps out, {NETWORKS_MAX} networks at most"));
        }
        if !(1..=CONNECTIONS_MAX).contains(&self.connections)
            || !(1..=self.connections).contains(&self.per_source)
        {
            return Err(format!(
                "a port takes 1 to {CONNECTIONS_MAX} connections at once, and from one source no more than in all"
            ));
        }
        if !(1..=IDLE_MAX).contains(&self.idle) {
            return Err(format!("a connection may be idle for 1 to {IDLE_MAX} seconds"));
        }
        Ok(())
    }
}

/// What is kept about traffic beside resources and targets themselves. What is as usual has no entry: equal states
/// are equal bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// How a resource's targets are chosen, where it is not in turn.
    pub balancing: OrdMap<ResourceId, Balancing>,
    /// Shares of targets that are not the usual ones.
    pub shares: OrdMap<TargetId, Share>,
    /// Open ports, by the resource that they belong to.
    pub ports: OrdMap<(ResourceId, PortKind), PortRules>,
    /// Sites whose targets nodes reach by themselves, without a connector, and which nodes do; none named = every one
    /// with data.
    pub local_sites: OrdMap<SiteId, OrdSet<NodeId>>,
}

impl Traffic {
    /// How the targets of a resource are chosen.
    #[must_use]
    pub fn balancing(&self, resource: ResourceId) -> Balancing {
        self.balancing.get(&resource).copied().unwrap_or_default()
    }

    /// A target's share.
    #[must_use]
    pub fn share(&self, target: TargetId) -> Share {
        self.shares.get(&target).copied().unwrap_or_default()
    }

    /// The open ports of a resource.
    pub fn ports_of(&self, resource: ResourceId) -> impl Iterator<Item = (PortKind, &PortRules)> {
        let (first, last) = ((resource, PortKind::Tcp(0)), (resource, PortKind::Tls));
        self.ports.range(first..=last).map(|((_, kind), rules)| (*kind, rules))
    }

    /// Nothing is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.balancing.is_empty()
            && self.shares.is_empty()
            && self.ports.is_empty()
            && self.local_sites.is_empty()
    }
}

/// A change of how traffic comes in or is shared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TrafficChange {
    /// How a resource's targets are chosen.
    BalancingSet {
        /// The resource.
        resource: ResourceId,
        /// How.
        balancing: Balancing,
    },
    /// A target's share.
    ShareSet {
        /// The target.
        target: TargetId,
        /// Its share.
        share: Share,
    },
    /// A port of a resource is open from here on, or open by other rules.
    PortOpened {
        /// The resource.
        resource: ResourceId,
        /// Which port.
        kind: PortKind,
        /// Who may use it, and how much.
        rules: PortRules,
    },
    /// A port of a resource is closed.
    PortClosed {
        /// The resource.
        resource: ResourceId,
        /// Which port.
        kind: PortKind,
    },
    /// Nodes reach the targets of a site by themselves from here on, or its connector does again.
    LocalSiteSet {
        /// The site.
        site: SiteId,
        /// The nodes that do, an empty list = every one with data; none = the connector.
        nodes: Option<Vec<NodeId>>,
    },
}

impl TrafficChange {
    /// The variant's name, for logs.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::BalancingSet { .. } => "BalancingSet",
            Self::ShareSet { .. } => "ShareSet",
            Self::PortOpened { .. } => "PortOpened",
            Self::PortClosed { .. } => "PortClosed",
            Self::LocalSiteSet { .. } => "LocalSiteSet",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_written_as_services_write_them() {
        for (text, kind) in
            [("25565/tcp", PortKind::Tcp(25565)), ("53/udp", PortKind::Udp(53)), ("tls", PortKind::Tls)]
        {
            assert_eq!(text.parse(), Ok(kind));
            assert_eq!(kind.to_string(), text);
        }
        for bad in ["", "tcp", "25565", "70000/tcp", "1/sctp", "tls/tcp", "-1/udp"] {
            assert!(bad.parse::<PortKind>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_denied_network_stays_out_and_an_empty_list_lets_all_in() {
        let rules = |allow: &[&str], deny: &[&str]| {
            let networks = |list: &[&str]| list.iter().map(|text| text.parse().expect("a network")).collect();
            PortRules { allow: networks(allow), deny: networks(deny), ..PortRules::usual(PortKind::Tcp(1)) }
        };
        for (allow, deny, client, admitted) in [
            (&[][..], &[][..], "192.0.2.1", true),
            (&["192.0.2.0/24"], &[], "192.0.2.1", true),
            (&["192.0.2.0/24"], &[], "::ffff:192.0.2.1", true),
            (&["192.0.2.0/24"], &[], "198.51.100.1", false),
            (&["192.0.2.0/24"], &["192.0.2.1/32"], "192.0.2.1", false),
            (&[], &["2001:db8::/32"], "2001:db8::1", false),
            (&[], &["2001:db8::/32"], "192.0.2.1", true),
        ] {
            let client = client.parse().expect("an address");
            assert_eq!(rules(allow, deny).admits(client), admitted, "{client}: {allow:?} but {deny:?}");
        }
    }

    #[test]
    fn rules_out_of_range_are_refused() {
        let tcp = PortKind::Tcp(22);
        let usual = PortRules::usual(tcp);
        assert_eq!(usual.check(tcp), Ok(()));
        assert!(usual.check(PortKind::Tcp(0)).is_err());
        for bad in [
            PortRules { connections: 0, ..usual.clone() },
            PortRules { per_source: 0, ..usual.clone() },
            PortRules { per_source: 1001, ..usual.clone() },
            PortRules { idle: 0, ..usual.clone() },
            PortRules { idle: IDLE_MAX + 1, ..usual.clone() },
            PortRules { allow: vec!["192.0.2.1/24".parse().expect("a network")], ..usual.clone() },
            PortRules { deny: vec!["::/0".parse().expect("a network"); NETWORKS_MAX + 1], ..usual.clone() },
        ] {
            assert!(bad.check(tcp).is_err(), "{bad:?}");
        }
        let (udp, tls) = (PortKind::Udp(22), PortKind::Tls);
        for (version, kind, fine) in [
            (ProxyProtocol::V1, tcp, true),
            (ProxyProtocol::V1, tls, true),
            (ProxyProtocol::V1, udp, false),
            (ProxyProtocol::V2, tcp, true),
            (ProxyProtocol::V2, tls, true),
            (ProxyProtocol::V2, udp, false),
            (ProxyProtocol::V2Datagrams, tcp, false),
            (ProxyProtocol::V2Datagrams, tls, false),
            (ProxyProtocol::V2Datagrams, udp, true),
        ] {
            let told = PortRules { proxy_protocol: Some(version), ..usual.clone() };
            assert_eq!(told.check(kind).is_ok(), fine, "{version:?} with {kind}");
        }
    }
}
