//! What is told at a scrape: the counters of the layers, and what follows from the state and from Raft.
//!
//! docs/metrics.md is the table of all names; a test compares the two.

use std::{collections::BTreeMap, time::Duration};

use pangolin_core::{
    ClusterState, NodeId, Timestamp,
    decide::certificates_wanted,
    issuance::{Phase, StandingKind, standing},
    record::{Certificate, NodeRole, Verdict},
};
use pangolin_dns::DnsCounters;
use pangolin_edge::EdgeCounters;
use pangolin_raft::{RaftStatus, ServerState};
use pangolin_tunnel::SiteStats;
use pangolin_wire::QuorumStatus;

use super::page::Page;

/// How a peer looks from here.
#[derive(Clone, Debug)]
pub(super) struct PeerSeen {
    pub(super) name: String,
    pub(super) up: bool,
    pub(super) rtt: Option<Duration>,
}

/// A tunnel that ends here, or may.
#[derive(Clone, Debug)]
pub(super) struct TunnelSeen {
    pub(super) up: bool,
    pub(super) stats: Option<SiteStats>,
}

/// What carries traffic; a witness has none of it.
#[derive(Clone, Debug)]
pub(super) struct Traffic {
    pub(super) dns: DnsCounters,
    pub(super) edge: EdgeCounters,
    /// By name of the site.
    pub(super) tunnels: BTreeMap<String, TunnelSeen>,
    /// Packets from sites that were not let in; none where that is not counted.
    pub(super) refused_packets: Option<u64>,
    /// The KEK that this node seals with.
    pub(super) keyring_active: u32,
}

/// A node at one moment.
pub(super) struct Look<'a> {
    pub(super) node: NodeId,
    pub(super) now: Timestamp,
    pub(super) started: Timestamp,
    pub(super) state: &'a ClusterState,
    pub(super) raft: RaftStatus,
    pub(super) in_contact: bool,
    pub(super) peers: Vec<PeerSeen>,
    pub(super) traffic: Option<Traffic>,
}

/// The answer to a scrape.
pub(super) fn text(look: &Look<'_>) -> Result<Vec<u8>, prometheus::Error> {
    let page = Page::default();
    node(&page, look)?;
    raft(&page, look)?;
    cluster(&page, look)?;
    certificates(&page, look)?;
    if let Some(traffic) = &look.traffic {
        dns(&page, &traffic.dns)?;
        edge(&page, look.state, &traffic.edge)?;
        tunnels(&page, &traffic.tunnels, traffic.refused_packets)?;
        page.gauge(
            "pangolin_keyring_active_key",
            "Number of the key-encryption key that this node seals with.",
            f64::from(traffic.keyring_active),
        )?;
    }
    page.finish()
}

fn seconds(at: Timestamp) -> f64 {
    at.0 as f64 / 1000.0
}

fn flag(value: bool) -> f64 {
    f64::from(u8::from(value))
}

fn node(page: &Page, look: &Look<'_>) -> Result<(), prometheus::Error> {
    let own = look.state.nodes().get(&look.node);
    let (id, name) = (look.node.to_string(), own.map(|node| node.spec.name.to_string()).unwrap_or_default());
    let role = match own.map(|node| node.spec.role) {
        Some(NodeRole::Data) => "data",
        Some(NodeRole::Witness) => "witness",
        None => "",
    };
    page.gauges(
        "pangolin_node_info",
        "Always 1; the labels say which node this is and what it runs.",
        &["node", "name", "role", "version"],
        vec![(vec![&id, &name, role, crate::VERSION], 1.0)],
    )?;
    page.gauge(
        "pangolin_node_start_time_seconds",
        "When this node's program was started, in seconds since 1970.",
        seconds(look.started),
    )
}

fn raft(page: &Page, look: &Look<'_>) -> Result<(), prometheus::Error> {
    let raft = &look.raft;
    page.gauge("pangolin_raft_term", "Raft term.", raft.term as f64)?;
    let leads = raft.state == ServerState::Leader;
    page.gauge("pangolin_raft_leader", "Whether this node leads.", flag(leads))?;
    page.gauge(
        "pangolin_raft_contact",
        "Whether this node is in contact with the leader, or as leader with a majority.",
        flag(look.in_contact),
    )?;
    for (name, help, index) in [
        ("pangolin_raft_last_log_index", "Last index in this node's log.", raft.last_log),
        ("pangolin_raft_committed_index", "Last index that this node knows to be committed.", raft.committed),
        ("pangolin_raft_applied_index", "Last index that this node has applied.", raft.applied),
        ("pangolin_raft_snapshot_index", "Index of this node's last snapshot.", raft.snapshot),
    ] {
        page.gauge(name, help, index.unwrap_or(0) as f64)?;
    }
    page.gauge("pangolin_raft_voters", "Number of voters.", raft.voters.len() as f64)?;
    page.gauge("pangolin_raft_learners", "Number of learners.", raft.learners.len() as f64)
}

fn cluster(page: &Page, look: &Look<'_>) -> Result<(), prometheus::Error> {
    let state = look.state;
    let count = |verdict| state.nodes().values().filter(|node| node.verdict == verdict).count() as f64;
    page.gauges(
        "pangolin_cluster_nodes",
        "Number of nodes by what the cluster has decided of them.",
        &["verdict"],
        vec![(vec!["up"], count(Verdict::Up)), (vec!["down"], count(Verdict::Down))],
    )?;
    let up = |id: &NodeId| {
        let name = state.nodes().get(id).map(|node| node.spec.name.as_str());
        *id == look.node || look.peers.iter().any(|peer| peer.up && Some(peer.name.as_str()) == name)
    };
    let voters_up = look.raft.voters.iter().filter(|id| up(id)).count();
    page.gauge(
        "pangolin_cluster_failure_tolerance",
        "How many more voters may fail before changes stop, as this node sees it.",
        QuorumStatus::new(look.raft.voters.len(), voters_up).failure_tolerance as f64,
    )?;
    page.gauge(
        "pangolin_cluster_changes_possible",
        "Whether a majority of the voters answers, as this node sees it.",
        flag(voters_up > look.raft.voters.len() / 2),
    )?;
    page.gauges(
        "pangolin_peer_up",
        "Whether another node answers this one.",
        &["peer"],
        look.peers.iter().map(|peer| (vec![&*peer.name], flag(peer.up))).collect(),
    )?;
    let rtt = look.peers.iter().filter_map(|peer| Some((vec![&*peer.name], peer.rtt?.as_secs_f64())));
    page.gauges("pangolin_peer_rtt_seconds", "Round trip time to another node.", &["peer"], rtt.collect())?;
    page.gauges(
        "pangolin_state_objects",
        "Number of objects in the replicated state.",
        &["kind"],
        [
            ("orgs", state.orgs().len()),
            ("sites", state.sites().len()),
            ("domains", state.domains().len()),
            ("resources", state.resources().len()),
            ("targets", state.targets().len()),
            ("record_sets", state.record_sets().len()),
            ("certificates", state.certificates().len()),
        ]
        .into_iter()
        .map(|(kind, count)| (vec![kind], count as f64))
        .collect(),
    )
}

fn certificates(page: &Page, look: &Look<'_>) -> Result<(), prometheus::Error> {
    let (state, now) = (look.state, look.now);
    let of =
        |certificate: &Certificate| certificate.names.first().map(ToString::to_string).unwrap_or_default();
    let known: Vec<(String, String, f64)> = state
        .certificates()
        .values()
        .map(|c| (c.id.to_string(), of(c), seconds(c.not_after) - seconds(now)))
        .collect();
    page.gauges(
        "pangolin_certificate_remaining_seconds",
        "Time until a certificate ends; negative once it has.",
        &["certificate", "name"],
        known.iter().map(|(id, name, left)| (vec![&**id, &**name], *left)).collect(),
    )?;
    let mut names: Vec<_> = state.certificates().values().map(|c| c.names.clone()).collect();
    names.extend(certificates_wanted(state));
    names.sort();
    names.dedup();
    let kinds: Vec<StandingKind> = names.iter().map(|names| standing(state, names, now).kind).collect();
    let count = |wanted| kinds.iter().filter(|kind| **kind == wanted).count() as f64;
    page.gauges(
        "pangolin_certificates",
        "Number of certificates by how they stand.",
        &["state"],
        [
            ("valid", StandingKind::Valid),
            ("renewing", StandingKind::Renewing),
            ("overdue", StandingKind::Overdue),
            ("pending", StandingKind::Pending),
            ("waiting", StandingKind::Waiting),
            ("expired", StandingKind::Expired),
            ("parked", StandingKind::Parked),
        ]
        .map(|(name, kind)| (vec![name], count(kind)))
        .to_vec(),
    )?;
    let upkeeps = || state.issuance().upkeeps.values();
    let phases: Vec<Phase> = upkeeps().filter_map(|u| Some(u.order.as_ref()?.phase)).collect();
    let count = |wanted| phases.iter().filter(|phase| **phase == wanted).count() as f64;
    page.gauges(
        "pangolin_certificate_orders",
        "Number of orders at public authorities by phase.",
        &["phase"],
        [
            ("planned", Phase::Planned),
            ("key_ready", Phase::KeyReady),
            ("ordered", Phase::Ordered),
            ("txt_published", Phase::TxtPublished),
            ("triggered", Phase::Triggered),
            ("finalizing", Phase::Finalizing),
        ]
        .map(|(name, phase)| (vec![name], count(phase)))
        .to_vec(),
    )?;
    let failures: u32 = upkeeps().map(|upkeep| upkeep.failures).sum();
    page.gauge(
        "pangolin_certificate_failed_attempts",
        "Attempts in a row that failed, of all certificates together.",
        f64::from(failures),
    )?;
    let surplus: u32 = upkeeps().map(|upkeep| upkeep.surplus).sum();
    page.gauge(
        "pangolin_certificate_surplus_orders",
        "Orders that an authority took and that were given up.",
        f64::from(surplus),
    )
}

fn dns(page: &Page, dns: &DnsCounters) -> Result<(), prometheus::Error> {
    page.counters(
        "pangolin_dns_queries_total",
        "DNS messages received.",
        &["transport"],
        vec![(vec!["udp"], dns.udp_queries), (vec!["tcp"], dns.tcp_queries)],
    )?;
    page.counters(
        "pangolin_dns_answers_total",
        "DNS answers by response code.",
        &["rcode"],
        [
            ("NOERROR", dns.noerror),
            ("NXDOMAIN", dns.nxdomain),
            ("SERVFAIL", dns.servfail),
            ("REFUSED", dns.refused),
            ("FORMERR", dns.formerr),
            ("NOTIMP", dns.notimp),
            ("BADVERS", dns.badvers),
        ]
        .map(|(code, count)| (vec![code], count))
        .to_vec(),
    )?;
    page.counters(
        "pangolin_dns_limited_total",
        "Answers beyond the rate limit: not sent, or sent empty and truncated.",
        &["action"],
        vec![(vec!["dropped"], dns.limited), (vec!["slipped"], dns.slipped)],
    )?;
    for (name, help, count) in [
        (
            "pangolin_dns_dropped_total",
            "DNS messages that get no answer: too short, too long, replies.",
            dns.dropped,
        ),
        ("pangolin_dns_truncated_total", "Answers by UDP that did not fit.", dns.truncated),
        ("pangolin_dns_send_failures_total", "Answers that the system did not take.", dns.send_failures),
        ("pangolin_dns_tcp_connections_total", "TCP connections accepted.", dns.tcp_connections),
        (
            "pangolin_dns_tcp_refused_total",
            "TCP connections closed at once because of a limit.",
            dns.tcp_refused,
        ),
        (
            "pangolin_dns_tcp_cut_total",
            "TCP connections ended by a limit or by what the client sent.",
            dns.tcp_cut,
        ),
    ] {
        page.counter(name, help, count)?;
    }
    page.gauge("pangolin_dns_tcp_open", "TCP connections open now.", dns.tcp_open as f64)
}

fn edge(page: &Page, state: &ClusterState, edge: &EdgeCounters) -> Result<(), prometheus::Error> {
    let classes = ["1xx", "2xx", "3xx", "4xx", "5xx"];
    page.counters(
        "pangolin_edge_requests_total",
        "Requests answered, by status class.",
        &["class"],
        classes.iter().zip(edge.by_class).map(|(class, count)| (vec![*class], count)).collect(),
    )?;
    let mut ways: BTreeMap<(String, &str), u64> = BTreeMap::new();
    for ((site, via), count) in &edge.paths {
        let name = site_name(state, *site);
        let way = match via {
            pangolin_edge::Via::Local => "local",
            pangolin_edge::Via::Relay(_) => "relay",
        };
        *ways.entry((name, way)).or_default() += count;
    }
    page.counters(
        "pangolin_edge_forwarded_total",
        "Requests sent to sites, by the way there: this node's own tunnel, or another node's.",
        &["site", "way"],
        ways.iter().map(|((site, way), count)| (vec![&**site, *way], *count)).collect(),
    )?;
    for (name, help, count) in [
        (
            "pangolin_edge_upstream_errors_total",
            "Connections to targets that could not be made, or broke before their response had ended.",
            edge.upstream_errors,
        ),
        ("pangolin_edge_retries_total", "Requests sent again after such an error.", edge.retries),
        (
            "pangolin_edge_refused_connections_total",
            "Client connections refused by a limit.",
            edge.refused_connections,
        ),
        (
            "pangolin_edge_failed_handshakes_total",
            "TLS handshakes that failed, unknown server names among them.",
            edge.failed_handshakes,
        ),
    ] {
        page.counter(name, help, count)?;
    }
    page.gauge("pangolin_edge_connections", "Client connections open now.", edge.active_connections as f64)
}

fn tunnels(
    page: &Page,
    tunnels: &BTreeMap<String, TunnelSeen>,
    refused_packets: Option<u64>,
) -> Result<(), prometheus::Error> {
    if let Some(count) = refused_packets {
        page.counter(
            "pangolin_tunnel_refused_packets_total",
            "Packets from sites that are not for this node, or that it has not asked for.",
            count,
        )?;
    }
    page.gauges(
        "pangolin_tunnel_up",
        "Whether the tunnel between this node and a site answers.",
        &["site"],
        tunnels.iter().map(|(site, tunnel)| (vec![&**site], flag(tunnel.up))).collect(),
    )?;
    let stats = || tunnels.iter().filter_map(|(site, tunnel)| Some((site, tunnel.stats.as_ref()?)));
    page.counters(
        "pangolin_tunnel_received_bytes_total",
        "Bytes received from a site.",
        &["site"],
        stats().map(|(site, stats)| (vec![&**site], stats.received)).collect(),
    )?;
    page.counters(
        "pangolin_tunnel_sent_bytes_total",
        "Bytes sent to a site.",
        &["site"],
        stats().map(|(site, stats)| (vec![&**site], stats.sent)).collect(),
    )?;
    let age = stats().filter_map(|(site, stats)| Some((vec![&**site], stats.last_handshake?.as_secs_f64())));
    page.gauges(
        "pangolin_tunnel_handshake_age_seconds",
        "Time since the last WireGuard handshake with a site.",
        &["site"],
        age.collect(),
    )
}

/// A site as operators write it: organisation and short name.
pub(super) fn site_name(state: &ClusterState, id: pangolin_core::SiteId) -> String {
    let site = state.sites().get(&id);
    site.map_or_else(|| id.to_string(), |site| format!("{}/{}", site.org, site.nice_id))
}
