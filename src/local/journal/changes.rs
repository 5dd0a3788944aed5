//! What has happened between two looks. Pure.

use pangolin_core::{ClusterState, NodeId, Report, SiteId, Timestamp, observation::Seen};
use pangolin_wire::{JournalEvent, Moment, NamedNode, NamedSite};

/// An event and when it happened.
pub type Happened = (Timestamp, JournalEvent);

/// What has happened between two states, in order of time: by the log's clock, and at the later state's time where
/// the state does not tell.
///
/// A first state tells who is there and who leads: sites and certificates that were there before this node are no
/// news.
#[must_use]
pub fn events_between(before: &ClusterState, after: &ClusterState) -> Vec<Happened> {
    let mut events = Vec::new();
    node_events(before, after, &mut events);
    if let Some(leadership) = after.leadership()
        && before
            .leadership()
            .is_none_or(|known| (known.node, known.term) != (leadership.node, leadership.term))
    {
        let leader = named_node(after, leadership.node);
        events.push((leadership.since, JournalEvent::LeaderChanged { leader, term: leadership.term }));
    }
    if before.cluster().is_some() {
        placement_events(before, after, &mut events);
        connector_events(before, after, &mut events);
        certificate_events(before, after, &mut events);
    }
    events.sort_by_key(|(at, _)| *at);
    events
}

fn node_events(before: &ClusterState, after: &ClusterState, events: &mut Vec<Happened>) {
    if before.nodes().ptr_eq(after.nodes()) {
        return;
    }
    for (id, node) in after.nodes() {
        let name = || named_node(after, *id);
        let known = before.nodes().get(id);
        if known.is_none() {
            let told = node.verdict_at == node.admitted_at;
            let cause = told.then(|| node.verdict_cause.to_string());
            events.push((node.admitted_at, JournalEvent::NodeJoined { node: name(), cause }));
        }
        // A judgement may have been given and taken back between two looks; then its time tells.
        // With its admission a node is taken as down until it is seen at work: no news.
        if known.map_or(node.admitted_at, |known| known.verdict_at) != node.verdict_at {
            let cause = node.verdict_cause.to_string();
            let event = JournalEvent::VerdictChanged { node: name(), verdict: node.verdict, cause };
            events.push((node.verdict_at, event));
        }
        if known.is_some_and(|known| known.admin != node.admin) {
            events.push((after.time(), JournalEvent::AdminChanged { node: name(), admin: node.admin }));
        }
    }
    for id in before.nodes().keys().filter(|id| !after.nodes().contains_key(*id)) {
        events.push((after.time(), JournalEvent::NodeLeft { node: named_node(before, *id) }));
    }
}

fn placement_events(before: &ClusterState, after: &ClusterState, events: &mut Vec<Happened>) {
    if before.placements().ptr_eq(after.placements()) {
        return;
    }
    for (id, placement) in after.placements() {
        let known = before.placements().get(id).map(|placement| placement.home);
        if known == Some(placement.home) {
            continue;
        }
        let event = JournalEvent::SitePlaced {
            site: named_site(after, *id),
            home: named_node(after, placement.home),
            // The old home may have left the cluster.
            from: known.map(|home| named_node(before, home)),
            cause: placement.cause.to_string(),
        };
        events.push((placement.since, event));
    }
}

fn connector_events(before: &ClusterState, after: &ClusterState, events: &mut Vec<Happened>) {
    if before.connectors().ptr_eq(after.connectors()) {
        return;
    }
    for (id, connector) in after.connectors() {
        let known = before.connectors().get(id).map(|connector| connector.tunnel_key);
        if known == Some(connector.tunnel_key) {
            continue;
        }
        let event = JournalEvent::ConnectorRegistered {
            site: named_site(after, *id),
            version: connector.version.clone(),
            replaced: known.is_some(),
        };
        events.push((connector.since, event));
    }
}

fn certificate_events(before: &ClusterState, after: &ClusterState, events: &mut Vec<Happened>) {
    if before.certificates().ptr_eq(after.certificates()) {
        return;
    }
    for (id, certificate) in after.certificates() {
        if before.certificates().get(id).is_some_and(|known| known.generation == certificate.generation) {
            continue;
        }
        let event = JournalEvent::CertificateIssued {
            names: certificate.names.clone(),
            generation: certificate.generation,
            not_after: Moment(certificate.not_after),
        };
        events.push((after.time(), event));
    }
}

/// What has happened between two of this node's own reports, in order of time. What has never been alive is not
/// told as dead.
#[must_use]
pub fn sights_between(before: &Report, after: &Report, state: &ClusterState) -> Vec<Happened> {
    let mut events = Vec::new();
    for (id, seen) in &after.peers {
        if turned(before.peers.get(id), *seen) {
            let event = JournalEvent::PeerSeen { node: named_node(state, *id), alive: seen.alive };
            events.push((seen.since, event));
        }
    }
    for (id, seen) in &after.tunnels {
        if turned(before.tunnels.get(id), *seen) {
            let event = JournalEvent::TunnelSeen { site: named_site(state, *id), alive: seen.alive };
            events.push((seen.since, event));
        }
    }
    for (id, seen) in &before.tunnels {
        if seen.alive && !after.tunnels.contains_key(id) {
            events.push((after.at, JournalEvent::TunnelSeen { site: named_site(state, *id), alive: false }));
        }
    }
    for (from, to, attached) in
        [(&before.sockets, &after.sockets, true), (&after.sockets, &before.sockets, false)]
    {
        for id in to.difference(from) {
            events.push((after.at, JournalEvent::SocketSeen { site: named_site(state, *id), attached }));
        }
    }
    events.sort_by_key(|(at, _)| *at);
    events
}

fn turned(before: Option<&Seen>, after: Seen) -> bool {
    before.is_some_and(|seen| seen.alive) != after.alive
}

fn named_node(state: &ClusterState, node_id: NodeId) -> NamedNode {
    let name = state.nodes().get(&node_id).map(|node| node.spec.name.to_string()).unwrap_or_default();
    NamedNode { node_id, name }
}

fn named_site(state: &ClusterState, site_id: SiteId) -> NamedSite {
    let name =
        state.sites().get(&site_id).map(|site| format!("{}/{}", site.org, site.nice_id)).unwrap_or_default();
    NamedSite { site_id, name }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeSet;

    use pangolin_core::{
        Actor, Body, CatalogChange, Cause, ClusterId, Command, Fence, TokenId,
        command::{CertificateIssued, ClusterCreated, NodeAdmitted},
        record::{
            AdminState, Authority, Digest, JoinToken, NodeRole, NodeSpec, Sealed, Settings, TunnelKey,
            Verdict,
        },
    };

    use super::*;

    /// A state and the log that makes it; one entry a second.
    #[derive(Clone, Default)]
    pub(in super::super) struct Life(pub(in super::super) ClusterState, u64);

    impl Life {
        pub(in super::super) fn goes_on(mut self, bodies: impl IntoIterator<Item = Body>) -> Self {
            for body in bodies {
                self.1 += 1;
                let command = Command {
                    request: None,
                    at: Timestamp(self.1 * 1000),
                    cause: Cause::new(Actor::Operator("root".to_owned()), "as asked"),
                    fence: Fence::None,
                    body,
                };
                let outcome = self.0.apply(self.1, &command);
                outcome.into_result().expect("a fact that fits");
            }
            self
        }
    }

    fn sealed() -> Sealed {
        Sealed { kek: 1, wrapped_key: vec![], content: vec![] }
    }

    fn spec(n: u8) -> NodeSpec {
        NodeSpec {
            name: format!("n{n}").parse().expect("a short name"),
            role: NodeRole::Data,
            peer_address: ([192, 0, 2, n], 7420).into(),
            spki: Digest([n; 32]),
            public_addresses: vec![[192, 0, 2, n].into()],
            https_port: 443,
            tunnel_endpoint: format!("192.0.2.{n}:51820"),
            tunnel_key: TunnelKey([n; 32]),
            region: None,
            version: "1".to_owned(),
            feature_level: pangolin_core::feature::NEWEST,
        }
    }

    pub(in super::super) fn created() -> Body {
        let authority = || Authority { certificate: vec![1], key: sealed() };
        Body::ClusterCreated(Box::new(ClusterCreated {
            id: ClusterId([7; 16]),
            name: "lab".parse().expect("a short name"),
            authority: authority(),
            issuer: authority(),
            settings: Settings {
                zone: "lab.test".parse().expect("a zone"),
                control_host: "control.lab.test".parse().expect("a host"),
                tunnel_network: "100.90.0.0/16".parse().expect("a network"),
                ttl: 30,
            },
            node: NodeId(1),
            spec: spec(1),
        }))
    }

    fn token() -> Body {
        Body::TokenCreated(Box::new(JoinToken {
            id: TokenId([1; 8]),
            secret: sealed(),
            role: NodeRole::Data,
            expires_at: Timestamp(1_000_000),
            replaces: None,
            created_at: Timestamp(0),
            used: None,
        }))
    }

    fn admitted() -> Body {
        let admitted = NodeAdmitted { token: TokenId([1; 8]), csr: Digest([2; 32]), spec: spec(2) };
        Body::NodeAdmitted(Box::new(admitted))
    }

    fn verdict(verdict: Verdict) -> Body {
        Body::NodeVerdict { node: NodeId(3), verdict }
    }

    fn site() -> [Body; 2] {
        let org = "lab".parse::<pangolin_core::Slug>().expect("a short name");
        [
            Body::Catalog(Box::new(CatalogChange::OrgCreated { id: org.clone(), name: "Lab".to_owned() })),
            Body::Catalog(Box::new(CatalogChange::SiteCreated {
                id: Some(SiteId(4)),
                org,
                nice_id: Some("home".parse().expect("a short name")),
                name: "Home".to_owned(),
                connector_id: "abcdefghijklmno".to_owned(),
                connector_secret: Digest([4; 32]),
            })),
        ]
    }

    fn placed(home: u64) -> Body {
        Body::SitePlaced { site: SiteId(4), home: NodeId(home), standbys: vec![] }
    }

    fn registered(key: u8) -> Body {
        let (tunnel_key, version) = (TunnelKey([key; 32]), "9".to_owned());
        Body::ConnectorRegistered { site: SiteId(4), tunnel_key, version, multi_homed: true }
    }

    fn told(events: &[Happened]) -> Vec<String> {
        let why = |event: &JournalEvent| event.why().map(|why| format!(" ({why})")).unwrap_or_default();
        events.iter().map(|(at, event)| format!("{} {event}{}", at.0 / 1000, why(event))).collect()
    }

    #[test]
    fn what_changed_between_two_states_is_told_with_its_time_and_cause() {
        let leads = |term, node| Body::LeaderStarted { term, node: NodeId(node) };
        // Ends at 7 s with nodes 1 and 3, leader 1, site 4 on node 1.
        let begun = Life::default().goes_on([created(), token(), admitted(), leads(1, 1)]);
        let lived = begun.clone().goes_on(site()).goes_on([placed(1), registered(1)]);
        // One second later the second node has been seen at work.
        let both_up = lived.clone().goes_on([verdict(Verdict::Up)]);
        let certificate = Body::CertificateIssued(Box::new(CertificateIssued {
            names: vec!["wiki.lab.test".parse().expect("a name")],
            chain: vec![vec![1]],
            key: sealed(),
            not_before: Timestamp(0),
            not_after: Timestamp(1_795_243_745_123),
        }));
        let root = "operator root: as asked";
        let cases: Vec<(&Life, Vec<Body>, Vec<String>)> = vec![
            (&lived, vec![], vec![]),
            (&begun, site().to_vec(), vec![]),
            (&lived, vec![leads(2, 3)], vec!["9 node n2 (id 3) leads in term 2".into()]),
            (&lived, vec![verdict(Verdict::Up)], vec![format!("9 node n2 (id 3) is up ({root})")]),
            (&both_up, vec![verdict(Verdict::Down)], vec![format!("10 node n2 (id 3) is down ({root})")]),
            (
                &both_up,
                vec![verdict(Verdict::Down), verdict(Verdict::Up)],
                vec![format!("11 node n2 (id 3) is up ({root})")],
            ),
            (
                &lived,
                vec![Body::NodeAdmin { node: NodeId(3), admin: AdminState::Drained }],
                vec!["9 node n2 (id 3) gives its work away".into()],
            ),
            (
                &lived,
                vec![Body::NodeRemoved(NodeId(3))],
                vec!["9 node n2 (id 3) has left the cluster".into()],
            ),
            (
                &both_up,
                vec![placed(3), verdict(Verdict::Down)],
                vec![
                    format!("10 site lab/home (id 4) moves from node n1 (id 1) to node n2 (id 3) ({root})"),
                    format!("11 node n2 (id 3) is down ({root})"),
                ],
            ),
            (
                &lived,
                vec![registered(2)],
                vec!["9 the connector of site lab/home (id 4) registered with another key, version 9".into()],
            ),
            (
                &lived,
                vec![certificate],
                vec!["9 certificate 1 of wiki.lab.test issued, good until 2026-11-21T06:49:05.123Z".into()],
            ),
        ];
        for (before, bodies, expected) in cases {
            let after = before.clone().goes_on(bodies);
            assert_eq!(told(&events_between(&before.0, &after.0)), expected);
        }
        let first_site = lived.0;
        assert_eq!(
            told(&events_between(&begun.0, &first_site)),
            [
                format!("7 site lab/home (id 4) is placed on node n1 (id 1) ({root})"),
                "8 the connector of site lab/home (id 4) registered with its first key, version 9".into(),
            ]
        );
        assert_eq!(
            told(&events_between(&ClusterState::default(), &first_site)),
            [
                format!("1 node n1 (id 1) is in the cluster ({root})"),
                format!("3 node n2 (id 3) is in the cluster ({root})"),
                "4 node n1 (id 1) leads in term 1".into(),
            ]
        );
    }

    #[test]
    fn what_turned_between_two_reports_is_told() {
        let state = Life::default().goes_on([created()]).goes_on(site()).0;
        let seen = |alive, second: u64| Seen { alive, since: Timestamp(second * 1000) };
        let report = |peer: Option<Seen>, tunnel: Option<Seen>, socket: bool| Report {
            at: Timestamp(9000),
            peers: peer.map(|seen| (NodeId(1), seen)).into_iter().collect(),
            tunnels: tunnel.map(|seen| (SiteId(4), seen)).into_iter().collect(),
            sockets: if socket { BTreeSet::from([SiteId(4)]) } else { BTreeSet::new() },
            ..Report::default()
        };
        let none = || report(None, None, false);
        let all = || report(Some(seen(true, 1)), Some(seen(true, 2)), true);
        let dead = || report(Some(seen(false, 5)), Some(seen(false, 4)), false);
        let gone = "9 the connector of site lab/home (id 4) is gone from this node";
        let cases: [(Report, Report, &[&str]); 5] = [
            (none(), dead(), &[]),
            (
                none(),
                all(),
                &[
                    "1 node n1 (id 1) answers this node",
                    "2 the tunnel from site lab/home (id 4) carries here",
                    "9 the connector of site lab/home (id 4) attached to this node",
                ],
            ),
            (all(), all(), &[]),
            (
                all(),
                dead(),
                &[
                    "4 the tunnel from site lab/home (id 4) is dead here",
                    "5 node n1 (id 1) does not answer this node",
                    gone,
                ],
            ),
            (all(), none(), &["9 the tunnel from site lab/home (id 4) is dead here", gone]),
        ];
        for (before, after, expected) in cases {
            assert_eq!(told(&sights_between(&before, &after, &state)), expected);
        }
    }
}
