//! What the cluster wants of this connector: built up from its messages. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use pangolin_core::{NodeId, record::TunnelKey};
use pangolin_tunnel::control::messages::{
    Check, Connect, FromNode, OfferedNode, Sync, TargetStrings, parse_key,
};

/// Where a flow goes that comes in through the tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Host name or address.
    pub host: String,
    /// Port there.
    pub port: u16,
}

/// A node to have a tunnel to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// Its name.
    pub name: String,
    /// Where WireGuard datagrams go: `host:port`.
    pub endpoint: String,
    /// Its WireGuard key.
    pub key: TunnelKey,
    /// Its address inside the tunnels.
    pub address: Ipv4Addr,
    /// Where its control channel is reached: `host:port`; empty = not known.
    pub control: String,
}

/// All that the cluster wants of this connector.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The site's address inside the tunnels; none = no tunnel is wanted.
    pub address: Option<Ipv4Addr>,
    /// The nodes offered, best first.
    pub nodes: Vec<Node>,
    /// TCP targets by the port on the site's address.
    pub tcp: BTreeMap<u16, Target>,
    /// UDP targets by the port on the site's address.
    pub udp: BTreeMap<u16, Target>,
    /// Health checks by id.
    pub checks: BTreeMap<u64, Check>,
}

impl Wanted {
    /// Takes up a message. Returns what of it makes no sense and was left out.
    pub fn take(&mut self, message: FromNode) -> Vec<String> {
        let mut complaints = Vec::new();
        match message {
            FromNode::Connect(connect) => self.connect(connect, &mut complaints),
            FromNode::Terminate(_) => *self = Self::default(),
            FromNode::TcpAdd(list) => add(&mut self.tcp, &list.targets, &mut complaints),
            FromNode::UdpAdd(list) => add(&mut self.udp, &list.targets, &mut complaints),
            FromNode::TcpRemove(list) => remove(&mut self.tcp, &list.targets, &mut complaints),
            FromNode::UdpRemove(list) => remove(&mut self.udp, &list.targets, &mut complaints),
            FromNode::HealthAdd(list) => self.checks.extend(by_id(list.targets)),
            FromNode::HealthRemove(list) => self.checks.retain(|id, _| !list.ids.contains(id)),
            FromNode::Sync(Sync { proxy_targets, health_check_targets, .. }) => {
                self.set(&proxy_targets, health_check_targets, &mut complaints);
            }
            FromNode::Nodes(list) => self.nodes = nodes(list.nodes, &mut complaints),
            FromNode::Pong(_)
            | FromNode::ExitNodes(_)
            | FromNode::HealthWanted(_)
            | FromNode::BlueprintResult(_)
            | FromNode::Refused(_) => {}
        }
        complaints
    }

    /// The ports to listen on, TCP and UDP.
    #[must_use]
    pub fn ports(&self) -> (BTreeSet<u16>, BTreeSet<u16>) {
        (self.tcp.keys().copied().collect(), self.udp.keys().copied().collect())
    }

    fn connect(&mut self, connect: Connect, complaints: &mut Vec<String>) {
        let Ok(address) = connect.tunnel_ip.parse() else {
            complaints.push(format!("the tunnelIP {:?} is not an IPv4 address", connect.tunnel_ip));
            return;
        };
        self.address = Some(address);
        // A connector that keeps one tunnel is offered the one node that the message is about.
        let offered = connect.nodes.unwrap_or_else(|| {
            vec![OfferedNode {
                node_id: connect.node_id,
                control: connect.control,
                endpoint: connect.endpoint,
                public_key: connect.public_key,
                server_ip: connect.server_ip,
                ..OfferedNode::default()
            }]
        });
        self.nodes = nodes(offered, complaints);
        self.set(&connect.targets, connect.health_check_targets, complaints);
    }

    fn set(&mut self, targets: &TargetStrings, checks: Vec<Check>, complaints: &mut Vec<String>) {
        self.tcp.clear();
        self.udp.clear();
        add(&mut self.tcp, &targets.tcp, complaints);
        add(&mut self.udp, &targets.udp, complaints);
        self.checks = by_id(checks).collect();
    }
}

fn by_id(checks: Vec<Check>) -> impl Iterator<Item = (u64, Check)> {
    checks.into_iter().filter(|check| check.hc_enabled).map(|check| (check.id, check))
}

fn nodes(offered: Vec<OfferedNode>, complaints: &mut Vec<String>) -> Vec<Node> {
    let mut nodes = Vec::new();
    for node in offered {
        match (parse_key(&node.public_key), node.server_ip.parse()) {
            (Some(key), Ok(address)) => nodes.push(Node {
                id: NodeId(node.node_id),
                name: node.name,
                endpoint: node.endpoint,
                key,
                address,
                control: node.control,
            }),
            _ => complaints.push(format!("node {} has no usable key or address", node.node_id)),
        }
    }
    nodes
}

fn add(ports: &mut BTreeMap<u16, Target>, texts: &[String], complaints: &mut Vec<String>) {
    for text in texts {
        match parse_target(text) {
            Some((port, target)) => drop(ports.insert(port, target)),
            None => complaints.push(format!("{text:?} is not a target PORT:HOST:PORT")),
        }
    }
}

/// A removal names the whole target, but only its first port counts.
fn remove(ports: &mut BTreeMap<u16, Target>, texts: &[String], complaints: &mut Vec<String>) {
    for text in texts {
        match text.split(':').next().and_then(|port| port.parse().ok()) {
            Some(port) => drop(ports.remove::<u16>(&port)),
            None => complaints.push(format!("{text:?} does not start with a port")),
        }
    }
}

/// Reads `listen port:host:port`; an IPv6 host is in brackets.
fn parse_target(text: &str) -> Option<(u16, Target)> {
    let (listen, rest) = text.split_once(':')?;
    let (host, port) = rest.rsplit_once(':')?;
    let bare = host.strip_prefix('[').map_or(Some(host), |host| host.strip_suffix(']'))?;
    let (listen, port) = (listen.parse().ok()?, port.parse().ok()?);
    let ambiguous = bare.len() == host.len() && host.contains(':');
    if bare.is_empty() || ambiguous || listen == 0 || port == 0 {
        return None;
    }
    Some((listen, Target { host: bare.to_owned(), port }))
}

#[cfg(test)]
mod tests {
    use pangolin_tunnel::control::messages::{CheckIds, CheckList, NodeList, Nothing, TargetList, key_text};

    use super::*;

    fn check(id: u64, interval: u32) -> Check {
        Check { id, hc_enabled: true, hc_interval: interval, ..Check::default() }
    }

    fn offered(id: u64) -> OfferedNode {
        OfferedNode {
            node_id: id,
            name: format!("n{id}"),
            endpoint: format!("192.0.2.{id}:51820"),
            public_key: key_text(TunnelKey([1; 32])),
            server_ip: format!("100.89.0.{id}"),
            control: format!("192.0.2.{id}:443"),
        }
    }

    fn connected() -> Wanted {
        let mut wanted = Wanted::default();
        let connect = Connect {
            tunnel_ip: "100.89.4.17".into(),
            targets: TargetStrings {
                tcp: vec!["40001:10.0.0.5:8080".into()],
                udp: vec!["40002:[fd00::5]:53".into()],
            },
            health_check_targets: vec![check(7, 10)],
            nodes: Some(vec![offered(1), offered(2)]),
            ..Connect::default()
        };
        assert!(wanted.take(FromNode::Connect(connect)).is_empty());
        wanted
    }

    fn list(targets: &[&str]) -> TargetList {
        TargetList { targets: targets.iter().map(|text| (*text).to_owned()).collect() }
    }

    #[test]
    fn a_connect_says_everything() {
        let wanted = connected();
        assert_eq!(wanted.address, Some(Ipv4Addr::new(100, 89, 4, 17)));
        assert_eq!(wanted.nodes.iter().map(|node| node.id.0).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(wanted.tcp[&40_001], Target { host: "10.0.0.5".into(), port: 8080 });
        assert_eq!(wanted.udp[&40_002], Target { host: "fd00::5".into(), port: 53 });
        assert_eq!(wanted.checks.len(), 1);
        assert_eq!(wanted.ports(), (BTreeSet::from([40_001]), BTreeSet::from([40_002])));
    }

    #[test]
    fn a_server_without_multi_homing_offers_one_node() {
        let mut wanted = Wanted::default();
        let OfferedNode { endpoint, public_key, server_ip, .. } = offered(9);
        let tunnel_ip = "100.89.4.17".into();
        let connect = Connect { endpoint, public_key, server_ip, tunnel_ip, ..Connect::default() };
        assert!(wanted.take(FromNode::Connect(connect)).is_empty());
        assert_eq!(wanted.nodes[0].endpoint, "192.0.2.9:51820");
    }

    #[test]
    fn changes_are_taken_up_one_by_one() {
        struct Case {
            what: &'static str,
            message: FromNode,
            expected: fn(&mut Wanted),
        }
        let cases = [
            Case {
                what: "one more",
                message: FromNode::TcpAdd(list(&["40003:db.local:5432"])),
                expected: |wanted| {
                    wanted.tcp.insert(40_003, Target { host: "db.local".into(), port: 5432 });
                },
            },
            Case {
                what: "another behind the same port",
                message: FromNode::TcpAdd(list(&["40001:10.0.0.6:80"])),
                expected: |wanted| {
                    wanted.tcp.insert(40_001, Target { host: "10.0.0.6".into(), port: 80 });
                },
            },
            Case {
                what: "one less, named as it was before",
                message: FromNode::UdpRemove(list(&["40002:elsewhere:1"])),
                expected: |wanted| wanted.udp.clear(),
            },
            Case {
                what: "a check replaced and one more",
                message: FromNode::HealthAdd(CheckList { targets: vec![check(7, 99), check(8, 5)] }),
                expected: |wanted| wanted.checks = [(7, check(7, 99)), (8, check(8, 5))].into(),
            },
            Case {
                what: "a check removed",
                message: FromNode::HealthRemove(CheckIds { ids: vec![7, 55] }),
                expected: |wanted| wanted.checks.clear(),
            },
            Case {
                what: "other nodes",
                message: FromNode::Nodes(NodeList { nodes: vec![offered(2)] }),
                expected: |wanted| drop(wanted.nodes.remove(0)),
            },
            Case {
                what: "everything anew",
                message: FromNode::Sync(Sync::default()),
                expected: |wanted| {
                    wanted.tcp.clear();
                    wanted.udp.clear();
                    wanted.checks.clear();
                },
            },
            Case {
                what: "the end",
                message: FromNode::Terminate(Nothing {}),
                expected: |wanted| *wanted = Wanted::default(),
            },
        ];
        for case in cases {
            let (mut wanted, mut expected) = (connected(), connected());
            assert!(wanted.take(case.message).is_empty(), "{}", case.what);
            (case.expected)(&mut expected);
            assert_eq!(wanted, expected, "{}", case.what);
        }
    }

    #[test]
    fn targets_that_make_no_sense_are_left_out_and_named() {
        for text in ["", "40001", "40001:host", "x:host:1", "40001::80", "0:host:80", "1:host:0", "1:[::1:80"]
        {
            assert_eq!(parse_target(text), None, "{text}");
        }
        assert_eq!(parse_target("1:::1:80"), None, "an IPv6 address without brackets");
        let mut wanted = connected();
        let complaints = wanted.take(FromNode::TcpAdd(list(&["nonsense", "40009:ok:1"])));
        assert_eq!(complaints.len(), 1);
        assert!(wanted.tcp.contains_key(&40_009));
    }
}
