//! What the connector of a site has to know, as the messages carry it, and how it changes. Pure.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
};

use pangolin_core::{
    NodeId,
    plan::{SiteTunnel, TunnelNode, TunnelTarget},
    record::Method,
};

use super::messages::{
    Check, CheckIds, CheckList, Connect, ExitNode, FromNode, OfferedNode, PingResult, Sync, TargetList,
    TargetStrings, key_text,
};

/// A Newt wants to see a port for hole punching in `connect`. This is the one it knows; nothing listens there.
const RELAY_PORT: u16 = 21_820;
/// Most nodes to choose from: each costs a connector three requests.
const CHOICE_MAX: usize = 4;
/// The longest distance that is believed, in milliseconds: a request is given 5 s.
const DISTANCE_MAX: f64 = 60_000.0;

/// The targets and checks of a site.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SiteConfig {
    tcp: BTreeMap<u16, String>,
    udp: BTreeMap<u16, String>,
    checks: BTreeMap<u64, Check>,
}

impl SiteConfig {
    pub(super) fn of(site: &SiteTunnel) -> Self {
        let mut config = Self::default();
        for target in &site.targets {
            let ports = if target.method == Method::Udp { &mut config.udp } else { &mut config.tcp };
            ports.insert(target.tunnel_port, target_text(target));
            config.checks.extend(Check::of(target).map(|check| (check.id, check)));
        }
        config
    }

    fn targets(&self) -> TargetStrings {
        TargetStrings { tcp: self.tcp.values().cloned().collect(), udp: self.udp.values().cloned().collect() }
    }

    fn checks(&self) -> Vec<Check> {
        self.checks.values().cloned().collect()
    }

    /// The messages that lead from this to `new`: what goes first, so that a port that changes its protocol is free.
    pub(super) fn changes(&self, new: &Self) -> Vec<FromNode> {
        let (tcp_gone, tcp_new) = difference(&self.tcp, &new.tcp);
        let (udp_gone, udp_new) = difference(&self.udp, &new.udp);
        let ids: Vec<u64> = self.checks.keys().filter(|id| !new.checks.contains_key(id)).copied().collect();
        let checks: Vec<Check> =
            new.checks.values().filter(|check| self.checks.get(&check.id) != Some(check)).cloned().collect();
        let lists = [
            (tcp_gone, FromNode::TcpRemove as fn(TargetList) -> FromNode),
            (udp_gone, FromNode::UdpRemove),
            (tcp_new, FromNode::TcpAdd),
            (udp_new, FromNode::UdpAdd),
        ];
        let mut messages: Vec<FromNode> = lists
            .into_iter()
            .filter(|(targets, _)| !targets.is_empty())
            .map(|(targets, message)| message(TargetList { targets }))
            .collect();
        if !ids.is_empty() {
            messages.push(FromNode::HealthRemove(CheckIds { ids }));
        }
        if !checks.is_empty() {
            messages.push(FromNode::HealthAdd(CheckList { targets: checks }));
        }
        messages
    }

    /// All of it, for a connector that has missed a change. In a `sync` Newt cuts targets at every colon and drops
    /// those that do not give three parts, so that IPv6 targets follow as additions.
    pub(super) fn sync(&self) -> Vec<FromNode> {
        let sync =
            Sync { proxy_targets: self.targets(), health_check_targets: self.checks(), ..Sync::default() };
        let bracketed = |ports: &BTreeMap<u16, String>| {
            let targets: Vec<String> = ports.values().filter(|text| text.contains('[')).cloned().collect();
            (!targets.is_empty()).then_some(TargetList { targets })
        };
        let mut messages = vec![FromNode::Sync(sync)];
        messages.extend(bracketed(&self.tcp).map(FromNode::TcpAdd));
        messages.extend(bracketed(&self.udp).map(FromNode::UdpAdd));
        messages
    }

    /// The message that brings a tunnel up. `nodes` is for multi-homed connectors only.
    pub(super) fn connect(
        &self,
        site: &SiteTunnel,
        (id, node): (NodeId, &TunnelNode),
        nodes: Option<Vec<OfferedNode>>,
        chain_id: String,
    ) -> FromNode {
        FromNode::Connect(Connect {
            endpoint: node.endpoint.clone(),
            relay_port: RELAY_PORT,
            public_key: key_text(node.key),
            server_ip: node.address.to_string(),
            tunnel_ip: site.address.to_string(),
            targets: self.targets(),
            health_check_targets: self.checks(),
            browser_gateway_targets: Vec::new(),
            remote_exit_node_subnets: Vec::new(),
            chain_id,
            node_id: id.0,
            control: node.control.clone(),
            nodes,
        })
    }
}

/// What is no longer in `new`, and what is new or different in it.
fn difference(old: &BTreeMap<u16, String>, new: &BTreeMap<u16, String>) -> (Vec<String>, Vec<String>) {
    let gone = old.iter().filter(|(port, _)| !new.contains_key(port)).map(|(_, text)| text.clone()).collect();
    let added =
        new.iter().filter(|(port, text)| old.get(port) != Some(text)).map(|(_, text)| text.clone()).collect();
    (gone, added)
}

/// `port on the tunnel address:host:port`.
fn target_text(target: &TunnelTarget) -> String {
    let TunnelTarget { tunnel_port, host, port, .. } = target;
    match host.parse::<Ipv6Addr>() {
        Ok(address) => format!("{tunnel_port}:[{address}]:{port}"),
        Err(_) => format!("{tunnel_port}:{host}:{port}"),
    }
}

impl Check {
    /// How a target is checked, if it is. Datagrams cannot be checked by a connection, and Newt speaks no HTTP/2
    /// without TLS, so that such a target is fine when it accepts connections.
    #[must_use]
    pub fn of(target: &TunnelTarget) -> Option<Self> {
        let check = target.health_check.as_ref()?;
        if target.method == Method::Udp {
            return None;
        }
        let path = check.path.as_deref().filter(|_| target.method != Method::H2c);
        Some(Self {
            id: target.id.0,
            hc_enabled: true,
            hc_mode: if path.is_some() { "http" } else { "tcp" }.into(),
            hc_scheme: if target.method == Method::Https { "https" } else { "http" }.into(),
            hc_hostname: target.host.clone(),
            hc_port: target.port,
            hc_path: path.unwrap_or_default().to_owned(),
            hc_method: "GET".into(),
            hc_interval: check.interval,
            hc_unhealthy_interval: check.interval,
            hc_timeout: check.timeout,
            hc_headers: BTreeMap::new(),
            hc_follow_redirects: true,
            hc_status: 0,
            hc_tls_server_name: String::new(),
            hc_healthy_threshold: 1,
            hc_unhealthy_threshold: check.unhealthy_threshold,
        })
    }
}

/// The nodes offered to a site, best first.
pub(super) fn offered(site: &SiteTunnel, nodes: &BTreeMap<NodeId, TunnelNode>) -> Vec<OfferedNode> {
    site.offers
        .iter()
        .filter_map(|id| nodes.get(id).map(|node| (id, node)))
        .map(|(id, node)| OfferedNode {
            node_id: id.0,
            name: node.name.clone(),
            endpoint: node.endpoint.clone(),
            public_key: key_text(node.key),
            server_ip: node.address.to_string(),
            control: node.control.clone(),
        })
        .collect()
}

/// The nodes that a Newt may choose from, the one first where its tunnel should end. It asks each of several three times
/// over plain HTTP, one after the other, which takes a moment, and up to 15 s for one that is dead: so it is given a
/// choice only where it may make a difference, between regions, and only of nodes that answer.
pub(super) fn choice(
    end: NodeId,
    usable: &[NodeId],
    nodes: &BTreeMap<NodeId, TunnelNode>,
    before: Option<NodeId>,
) -> Vec<ExitNode> {
    let others = usable.iter().copied().filter(|id| *id != end);
    let known: Vec<(NodeId, &TunnelNode)> =
        std::iter::once(end).chain(others).filter_map(|id| Some((id, nodes.get(&id)?))).collect();
    let first = known.first().map(|(_, node)| &node.region);
    let one_region = known.iter().all(|(_, node)| Some(&node.region) == first);
    let most = if one_region { 1 } else { CHOICE_MAX };
    known.into_iter().take(most).map(|(id, node)| exit_node(id, node, before == Some(id))).collect()
}

/// Milliseconds to the nodes that a connector has measured.
pub(super) fn distances(
    results: &[PingResult],
    nodes: &BTreeMap<NodeId, TunnelNode>,
) -> BTreeMap<NodeId, u32> {
    let sane = |result: &&PingResult| {
        let reached = result.error.as_ref().is_none_or(String::is_empty);
        reached && (0.0..=DISTANCE_MAX).contains(&result.latency_ms)
    };
    let known = results.iter().take(nodes.len()).filter(sane).filter_map(|result| {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it was looked at above")]
        let distance = result.latency_ms.round() as u32;
        let id = NodeId(result.exit_node_id);
        nodes.contains_key(&id).then_some((id, distance))
    });
    known.collect()
}

/// A node as a Newt may choose it.
fn exit_node(id: NodeId, node: &TunnelNode, before: bool) -> ExitNode {
    let host = node.endpoint.rsplit_once(':').map_or(node.endpoint.as_str(), |(host, _)| host);
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let host = if bare.parse::<IpAddr>().is_ok_and(|address| address.is_ipv6()) { host } else { bare };
    ExitNode {
        exit_node_id: id.0,
        exit_node_name: node.name.clone(),
        endpoint: host.to_owned(),
        weight: 1.0,
        was_previously_connected: before,
    }
}
