//! What nodes do with a state: DNS, edge and tunnels, on a small cluster that people can picture.

#[allow(dead_code, reason = "each test file uses its own part of the made-up facts")]
mod facts;

use std::{collections::BTreeMap, net::Ipv4Addr};

use facts::{admitted, beginning, certificate, command, host, slug, spec, token};
use pangolin_core::{
    Body, CatalogChange as C, ClusterState, DomainId, NodeId, Outcome, Plan, ResourceId, SiteId, TargetId,
    Timestamp,
    dns::{AnswerPolicy, DnsChange},
    plan,
    plan::{PlannedSet, ZonePlan},
    record::{AdminState, Method, NodeRole, NodeSpec, RecordData, RecordKind, RecordSet, TunnelKey, Verdict},
    traffic::{Balancing, PortKind, PortRules, Share, TrafficChange},
};

const SITE: SiteId = SiteId(2);

struct Cluster {
    state: ClusterState,
    index: u64,
    n: [NodeId; 3],
}

impl Cluster {
    /// Three nodes; `hello.demo.test` is served by a target behind a site that is at the second node.
    fn new() -> Self {
        let mut it = Self { state: ClusterState::default(), index: 0, n: [NodeId(0); 3] };
        for command in beginning() {
            it.index += 1;
            it.state.apply(it.index, &command);
        }
        it.tell(Body::TokenCreated(Box::new(token(3, Timestamp(u64::MAX)))));
        it.tell(admitted(3, spec("n3", 3)));
        let ids: Vec<NodeId> = it.state.nodes().keys().copied().collect();
        it.n.copy_from_slice(&ids);
        // Nodes are down until they have been seen at work.
        it.judge(1, Verdict::Up);
        it.judge(2, Verdict::Up);
        it.tell(Body::SitePlaced { site: SITE, home: it.n[1], standbys: vec![it.n[2], it.n[0]] });
        it
    }

    fn tell(&mut self, body: Body) {
        self.index += 1;
        let outcome = self.state.apply(self.index, &command(self.index, body));
        assert!(matches!(outcome, Outcome::Done(_)), "{outcome:?}");
    }

    fn catalog(&mut self, change: C) {
        self.tell(Body::Catalog(Box::new(change)));
    }

    fn traffic(&mut self, change: TrafficChange) {
        self.tell(Body::Traffic(Box::new(change)));
    }

    fn dns(&mut self, change: DnsChange) {
        self.tell(Body::Dns(Box::new(change)));
    }

    /// One more node, numbered `n`.
    fn join(&mut self, n: u8) -> NodeId {
        self.tell(Body::TokenCreated(Box::new(token(n, Timestamp(u64::MAX)))));
        self.tell(admitted(n, spec(&format!("n{n}"), n)));
        *self.state.nodes().keys().next_back().expect("a node")
    }

    fn judge(&mut self, n: usize, verdict: Verdict) {
        self.tell(Body::NodeVerdict { node: self.n[n], verdict });
    }

    fn plan(&self) -> Plan {
        plan(&self.state, self.n[0])
    }

    fn zone(&self) -> ZonePlan {
        let plan = self.plan();
        assert_eq!(plan.dns.zones.len(), 1);
        plan.dns.zones[0].clone()
    }

    /// The last octets of the addresses that a name has.
    fn answers(&self, name: &str) -> Vec<u8> {
        let zone = self.zone();
        let set = zone.sets.get(&host(name)).and_then(|sets| sets.get(&RecordKind::A));
        let data = set.into_iter().flat_map(|set| &set.data);
        data.map(|d| if let RecordData::A(a) = d { a.octets()[3] } else { 0 }).collect()
    }
}

#[test]
fn dns_answers_with_the_home_first_then_the_standbys() {
    assert_eq!(Cluster::new().answers("hello.demo.test"), [2, 3, 1]);
}

#[test]
fn dns_leaves_out_a_node_that_is_down_and_takes_it_back_when_it_is_up() {
    let mut cluster = Cluster::new();
    cluster.judge(1, Verdict::Down);
    assert_eq!(cluster.answers("hello.demo.test"), [3, 1]);
    assert_eq!(cluster.answers("control.demo.test"), [1, 3]);
    cluster.judge(1, Verdict::Up);
    assert_eq!(cluster.answers("hello.demo.test"), [2, 3, 1]);
}

#[test]
fn dns_names_every_node_when_none_is_left_rather_than_nobody() {
    let mut cluster = Cluster::new();
    for n in 0..3 {
        cluster.judge(n, Verdict::Down);
    }
    assert_eq!(cluster.answers("hello.demo.test"), [2, 3, 1]);
}

#[test]
fn dns_answers_everybody_when_too_few_are_left_the_living_first() {
    let mut cluster = Cluster::new();
    for n in 4..=6 {
        let joined = cluster.join(n);
        cluster.tell(Body::NodeVerdict { node: joined, verdict: Verdict::Up });
    }
    for n in 0..3 {
        cluster.judge(n, Verdict::Down);
    }
    assert_eq!(cluster.answers("hello.demo.test"), [4, 5, 6], "half of them");
    let nodes: Vec<NodeId> = cluster.state.nodes().keys().copied().collect();
    cluster.tell(Body::NodeVerdict { node: nodes[4], verdict: Verdict::Down });
    assert_eq!(cluster.answers("hello.demo.test"), [4, 6], "a third");
    cluster.tell(Body::NodeVerdict { node: nodes[5], verdict: Verdict::Down });
    assert_eq!(cluster.answers("hello.demo.test"), [4, 2, 3, 1, 5, 6], "one of six cannot be right");
}

#[test]
fn while_a_node_is_down_answers_are_kept_for_half_the_time() {
    let mut cluster = Cluster::new();
    let ttl = |cluster: &Cluster, name: &str| cluster.zone().sets[&host(name)][&RecordKind::A].ttl;
    assert_eq!(ttl(&cluster, "hello.demo.test"), 30);
    cluster.judge(2, Verdict::Down);
    assert_eq!((ttl(&cluster, "hello.demo.test"), ttl(&cluster, "control.demo.test")), (15, 15));
    assert_eq!(ttl(&cluster, "n1.demo.test"), 3600);
    cluster.judge(2, Verdict::Up);
    cluster.tell(Body::NodeAdmin { node: cluster.n[2], admin: AdminState::Drained });
    assert_eq!(ttl(&cluster, "hello.demo.test"), 30, "a drained node is wanted to be away");
}

#[test]
fn each_policy_names_its_nodes() {
    let mut cluster = Cluster::new();
    let with = |cluster: &mut Cluster, policy| {
        cluster.dns(DnsChange::PolicySet { resource: ResourceId(4), policy });
        cluster.answers("hello.demo.test")
    };
    assert_eq!(with(&mut cluster, AnswerPolicy::Home), [2]);
    assert_eq!(with(&mut cluster, AnswerPolicy::All), [2, 3, 1], "in turn, by the resource's number");
    assert_eq!(with(&mut cluster, AnswerPolicy::Nearest), [2, 3, 1], "of no known region");
    assert_eq!(with(&mut cluster, AnswerPolicy::HomeFirst), [2, 3, 1]);
    cluster.judge(1, Verdict::Down);
    assert_eq!(with(&mut cluster, AnswerPolicy::Home), [3, 1], "the home is down");
    assert_eq!(with(&mut cluster, AnswerPolicy::All), [1, 3]);
}

#[test]
fn clients_of_a_region_are_answered_with_its_nodes() {
    let mut cluster = Cluster::new();
    for (n, region) in [(1, "eu"), (2, "eu"), (3, "us")] {
        let spec = NodeSpec { region: Some(slug(region)), ..spec(&format!("n{n}"), n) };
        let node = cluster.n[usize::from(n) - 1];
        cluster.tell(Body::NodeChanged { node, spec: Box::new(spec) });
    }
    cluster.dns(DnsChange::PolicySet { resource: ResourceId(4), policy: AnswerPolicy::Nearest });
    let near = |cluster: &Cluster, region: &str| {
        let zone = cluster.zone();
        let sets = zone.regional.get(&host("hello.demo.test")).and_then(|regions| regions.get(&slug(region)));
        let data = sets.into_iter().flat_map(|sets| sets[&RecordKind::A].data.clone());
        data.map(|d| d.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(near(&cluster, "eu"), ["192.0.2.2", "192.0.2.1"], "home first");
    assert_eq!(near(&cluster, "us"), ["192.0.2.3"]);
    // A node alone goes on by region, and puts itself last there as well.
    let own = ["192.0.2.2".parse().expect("an address")];
    let alone = cluster.plan().dns.alone(&own, &[host("hello.demo.test")].into());
    let zone = alone.zones.iter().find(|zone| zone.apex == host("demo.test")).expect("a zone");
    let sets = &zone.regional[&host("hello.demo.test")][&slug("eu")];
    let eu: Vec<String> = sets[&RecordKind::A].data.iter().map(ToString::to_string).collect();
    assert_eq!(eu, ["192.0.2.1", "192.0.2.2"]);
    cluster.judge(2, Verdict::Down);
    assert_eq!(near(&cluster, "us"), Vec::<String>::new(), "then everybody is answered");
    assert_eq!(cluster.answers("hello.demo.test"), [2, 1]);
}

#[test]
fn a_published_name_has_a_service_binding_that_follows_its_addresses() {
    let mut cluster = Cluster::new();
    let binding = |cluster: &Cluster| {
        let sets = cluster.zone().sets[&host("hello.demo.test")].clone();
        sets.get(&RecordKind::HTTPS).map(|set| set.data[0].clone())
    };
    let expected = |last: &[u8]| {
        let mut data = vec![0, 1, 0, 0, 1, 0, 12];
        data.extend(b"\x02h2\x08http/1.1");
        data.extend([0, 4, 0, last.len() as u8 * 4]);
        last.iter().for_each(|last| data.extend([192, 0, 2, *last]));
        RecordData::Other(65, data)
    };
    assert_eq!(binding(&cluster), Some(expected(&[2, 3, 1])));
    cluster.judge(1, Verdict::Down);
    assert_eq!(binding(&cluster), Some(expected(&[3, 1])));
    let data = RecordData::A(Ipv4Addr::new(203, 0, 113, 9));
    cluster.dns(DnsChange::RecordAdded { name: host("hello.demo.test"), ttl: None, data });
    assert_eq!(binding(&cluster), None, "the operator's addresses speak what they speak");
}

/// A service binding as RFC 9460 §2.2 has it: priority, target, and the parameters by key.
type Binding = (u16, Vec<u8>, Vec<(u16, Vec<u8>)>);

fn read_binding(data: &RecordData) -> Binding {
    let RecordData::Other(65, bytes) = data else { panic!("{data:?}") };
    let number = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let mut at = 2;
    while bytes[at] > 0 {
        at += 1 + usize::from(bytes[at]);
    }
    let target = bytes[2..=at].to_vec();
    at += 1;
    let mut parameters = Vec::new();
    while at < bytes.len() {
        let (key, length) = (number(at), usize::from(number(at + 2)));
        parameters.push((key, bytes[at + 4..at + 4 + length].to_vec()));
        at += 4 + length;
    }
    (number(0), target, parameters)
}

/// What a name's HTTPS record says, and that it is what its address records say.
fn binding_beside_addresses(sets: &BTreeMap<RecordKind, PlannedSet>) -> Vec<(u16, Vec<u8>)> {
    let set = &sets[&RecordKind::HTTPS];
    assert_eq!(set.data.len(), 1);
    let (priority, target, parameters) = read_binding(&set.data[0]);
    assert_eq!((priority, target), (1, vec![0]), "the owner's own name");
    assert!(parameters.is_sorted_by(|a, b| a.0 < b.0), "in the order of their keys: {parameters:?}");
    let of = |key: u16| parameters.iter().find(|(other, _)| *other == key).map(|(_, value)| value.clone());
    assert_eq!(of(1).as_deref(), Some(&b"\x02h2\x08http/1.1"[..]), "what the edge offers");
    for (key, kind) in [(4, RecordKind::A), (6, RecordKind::Aaaa)] {
        let beside = sets.get(&kind);
        let addresses = beside.map(|set| {
            let bytes = set.data.iter().flat_map(|data| match data {
                RecordData::A(address) => address.octets().to_vec(),
                RecordData::Aaaa(address) => address.octets().to_vec(),
                other => panic!("{other:?}"),
            });
            bytes.collect::<Vec<u8>>()
        });
        assert_eq!(of(key), addresses, "the hints are the addresses");
        assert!(beside.is_none_or(|beside| beside.ttl == set.ttl), "kept as long");
    }
    parameters
}

#[test]
fn service_bindings_say_what_the_addresses_beside_them_say_wherever_something_is_published() {
    let mut cluster = Cluster::new();
    for n in 0..3 {
        let mut spec = spec(&format!("n{}", n + 1), n as u8 + 1);
        spec.region = Some(slug(if n == 2 { "us" } else { "eu" }));
        spec.public_addresses.push(format!("2001:db8::{}", n + 1).parse().expect("an address"));
        cluster.tell(Body::NodeChanged { node: cluster.n[n], spec: Box::new(spec) });
    }
    // The control host, a resource, one at the top of a zone, and one for all names below another.
    cluster.catalog(C::DomainCreated { id: None, org: slug("acme"), name: host("apex.test") });
    for (name, domain) in [("apex.test", "apex.test"), ("*.apps.demo.test", "demo.test")] {
        let mut domains = cluster.state.domains().values();
        let domain = domains.find(|known| known.name == host(domain)).expect("a domain").id;
        cluster.catalog(C::ResourceCreated {
            id: None,
            org: slug("acme"),
            nice_id: None,
            name: name.to_owned(),
            domain,
            host: host(name),
        });
    }
    cluster.dns(DnsChange::PolicySet { resource: ResourceId(4), policy: AnswerPolicy::Nearest });
    let look = |cluster: &Cluster, ttl: u32, count: usize| {
        let dns = cluster.plan().dns;
        for name in ["hello.demo.test", "control.demo.test", "apex.test", "*.apps.demo.test"] {
            let zone = dns.zones.iter().find(|zone| host(name).is_within(&zone.apex)).expect("a zone");
            let sets = &zone.sets[&host(name)];
            let parameters = binding_beside_addresses(sets);
            let keys: Vec<u16> = parameters.iter().map(|(key, _)| *key).collect();
            assert_eq!(keys, [1, 4, 6], "{name}: the port is the usual one");
            assert_eq!(
                (sets[&RecordKind::HTTPS].ttl, sets[&RecordKind::A].data.len()),
                (ttl, count),
                "{name}"
            );
        }
        for near in dns.zones.iter().flat_map(|zone| zone.regional.values()).flat_map(BTreeMap::values) {
            binding_beside_addresses(near);
        }
        // Who publishes nothing there has none.
        for name in ["n1.demo.test", "n2.demo.test", "demo.test"] {
            let zone = dns.zones.iter().find(|zone| zone.apex == host("demo.test")).expect("a zone");
            assert!(!zone.sets[&host(name)].contains_key(&RecordKind::HTTPS), "{name}");
        }
    };
    look(&cluster, 30, 3);
    cluster.judge(1, Verdict::Down);
    look(&cluster, 15, 2);
    // So many are hardly down: everybody is named.
    cluster.judge(0, Verdict::Down);
    cluster.judge(2, Verdict::Down);
    look(&cluster, 15, 3);
    for n in 0..3 {
        cluster.judge(n, Verdict::Up);
    }
    // Without a leader a node puts itself last, in the hints as well.
    let own = ["192.0.2.2".parse().expect("an address"), "2001:db8::2".parse().expect("an address")];
    let alone = cluster.plan().dns.alone(&own, &[host("hello.demo.test")].into());
    let zone = alone.zones.iter().find(|zone| zone.apex == host("demo.test")).expect("a zone");
    let parameters = binding_beside_addresses(&zone.sets[&host("hello.demo.test")]);
    assert!(parameters[1].1.ends_with(&[192, 0, 2, 2]), "{parameters:?}");
    // Another port than the usual one, and then two.
    let on = |cluster: &mut Cluster, n: usize, port: u16| {
        let spec = cluster.state.nodes()[&cluster.n[n]].spec.clone();
        let spec = Box::new(NodeSpec { https_port: port, ..spec });
        cluster.tell(Body::NodeChanged { node: cluster.n[n], spec });
    };
    (0..3).for_each(|n| on(&mut cluster, n, 8443));
    let dns = cluster.plan().dns;
    let zone = dns.zones.iter().find(|zone| zone.apex == host("demo.test")).expect("a zone");
    let parameters = binding_beside_addresses(&zone.sets[&host("hello.demo.test")]);
    assert_eq!(parameters[1], (3, 8443_u16.to_be_bytes().to_vec()));
    on(&mut cluster, 0, 443);
    let dns = cluster.plan().dns;
    let zone = dns.zones.iter().find(|zone| zone.apex == host("demo.test")).expect("a zone");
    let sets = &zone.sets[&host("hello.demo.test")];
    assert!(sets.contains_key(&RecordKind::A) && !sets.contains_key(&RecordKind::HTTPS), "no one port");
}

#[test]
fn secondaries_are_given_what_does_not_follow_health_and_may_be_named_as_servers() {
    let mut cluster = Cluster::new();
    cluster.judge(1, Verdict::Down);
    assert!(cluster.zone().fail_open.is_empty(), "nobody would take it");
    let key = host("transfer.key");
    cluster.dns(DnsChange::TransferKeySet { name: key.clone(), secret: Some(facts::sealed()) });
    let address = "192.0.2.53:53".parse().expect("an address");
    cluster.dns(DnsChange::SecondarySet { zone: host("demo.test"), address, key: Some(key) });
    cluster.dns(DnsChange::RecordAdded {
        name: host("demo.test"),
        ttl: None,
        data: RecordData::Ns(host("ns.else.test")),
    });
    let zone = cluster.zone();
    assert_eq!(zone.secondaries.len(), 1);
    assert_eq!(zone.fail_open[&host("hello.demo.test")][&RecordKind::A].data.len(), 3);
    assert_eq!(zone.fail_open[&host("hello.demo.test")][&RecordKind::A].ttl, 30);
    assert_eq!(cluster.answers("hello.demo.test"), [3, 1]);
    assert_eq!(zone.sets[&host("demo.test")][&RecordKind::Ns].data.len(), 4);
}

#[test]
fn a_node_that_hears_from_no_leader_puts_itself_last_where_it_has_no_tunnel() {
    let cluster = Cluster::new();
    let own = ["192.0.2.2".parse().expect("an address")];
    let alone = cluster.plan().dns.alone(&own, &[host("hello.demo.test")].into());
    let of = |name: &str| {
        let data = &alone.zones[0].sets[&host(name)][&RecordKind::A].data;
        data.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(of("hello.demo.test"), ["192.0.2.3", "192.0.2.1", "192.0.2.2"]);
    assert_eq!(of("control.demo.test").len(), 3, "nobody is left out");
}

#[test]
fn what_hangs_on_a_zone_or_a_resource_goes_with_it() {
    let mut cluster = Cluster::new();
    cluster.catalog(C::DomainCreated {
        id: Some(DomainId(30)),
        org: slug("acme"),
        name: host("example.org"),
    });
    let zone = host("example.org");
    cluster.dns(DnsChange::SigningStarted { zone, public: vec![1; 64], private: facts::sealed() });
    cluster.dns(DnsChange::PolicySet { resource: ResourceId(4), policy: AnswerPolicy::All });
    assert!(cluster.plan().dns.zones[1].key.is_some());
    cluster.catalog(C::DomainRemoved(DomainId(30)));
    cluster.catalog(C::ResourceRemoved(ResourceId(4)));
    assert_eq!(*cluster.state.dns(), pangolin_core::dns::Dns::default());
}

#[test]
fn dns_sends_nobody_to_a_drained_node_or_a_witness() {
    let mut cluster = Cluster::new();
    cluster.tell(Body::NodeAdmin { node: cluster.n[1], admin: AdminState::Drained });
    let witness =
        pangolin_core::record::JoinToken { role: NodeRole::Witness, ..token(4, Timestamp(u64::MAX)) };
    cluster.tell(Body::TokenCreated(Box::new(witness)));
    cluster.tell(admitted(4, spec("w", 4)));
    assert_eq!(cluster.answers("hello.demo.test"), [3, 1]);
    for n in 0..3 {
        cluster.judge(n, Verdict::Down);
    }
    assert!(!cluster.answers("hello.demo.test").contains(&4), "not even when all others are down");
}

#[test]
fn name_servers_and_their_addresses_do_not_follow_health() {
    let mut cluster = Cluster::new();
    let before = cluster.zone();
    cluster.judge(1, Verdict::Down);
    let after = cluster.zone();
    for name in ["n1.demo.test", "n2.demo.test", "n3.demo.test"] {
        assert_eq!(before.sets.get(&host(name)), after.sets.get(&host(name)));
    }
    let servers = |zone: &ZonePlan| zone.sets[&host("demo.test")][&RecordKind::Ns].clone();
    assert_eq!(servers(&before).data.len(), 3);
    assert_eq!(servers(&before), servers(&after));
    assert!(after.serial > before.serial, "a change has a later serial");
}

#[test]
fn a_switched_off_resource_is_neither_in_dns_nor_routed() {
    let mut cluster = Cluster::new();
    assert!(cluster.plan().edge.routes.contains_key(&host("hello.demo.test")));
    cluster.catalog(C::ResourceChanged { id: ResourceId(4), name: "Hello".to_owned(), enabled: false });
    assert!(cluster.answers("hello.demo.test").is_empty());
    assert!(!cluster.plan().edge.routes.contains_key(&host("hello.demo.test")));
}

#[test]
fn what_the_operator_wrote_stands_above_what_the_cluster_makes() {
    let mut cluster = Cluster::new();
    let set = RecordSet { ttl: 77, data: vec![RecordData::A(Ipv4Addr::new(203, 0, 113, 9))] };
    let name = host("hello.demo.test");
    cluster.catalog(C::RecordSetSet { name: name.clone(), kind: RecordKind::A, set: Some(set) });
    assert_eq!(cluster.answers("hello.demo.test"), [9]);
    cluster.catalog(C::RecordSetSet { name, kind: RecordKind::A, set: None });
    assert_eq!(cluster.answers("hello.demo.test"), [2, 3, 1]);
}

#[test]
fn a_domain_within_another_is_no_zone_of_its_own() {
    let mut cluster = Cluster::new();
    cluster.catalog(C::DomainCreated { id: None, org: slug("acme"), name: host("lab.demo.test") });
    assert_eq!(cluster.plan().dns.zones.len(), 1);
    cluster.catalog(C::DomainCreated { id: None, org: slug("acme"), name: host("example.org") });
    let apexes: Vec<String> = cluster.plan().dns.zones.iter().map(|z| z.apex.to_string()).collect();
    assert_eq!(apexes, ["demo.test", "example.org"]);
}

#[test]
fn the_edge_routes_to_the_site_address_and_knows_where_to_relay() {
    let plan = Cluster::new().plan();
    let route = &plan.edge.routes[&host("hello.demo.test")];
    assert_eq!(route.targets.len(), 1);
    let target = &route.targets[0];
    assert_eq!((target.id, target.site, target.method), (TargetId(5), SITE, Method::Http));
    assert_eq!(target.address, plan.tunnel.sites[&SITE].address);
    assert_eq!(target.port, plan.tunnel.sites[&SITE].targets[0].tunnel_port);
    assert_eq!(plan.edge.control_host, Some(host("control.demo.test")));
    assert_eq!(plan.edge.placements[&SITE].len(), 3);
}

#[test]
fn the_edge_gets_no_tcp_targets_no_disabled_ones_and_none_behind_a_disabled_site() {
    let mut cluster = Cluster::new();
    cluster.catalog(C::TargetCreated {
        id: None,
        resource: ResourceId(4),
        site: SITE,
        method: Method::Tcp,
        host: "127.0.0.1".to_owned(),
        port: 22,
        health_check: None,
    });
    let targets = |cluster: &Cluster| cluster.plan().edge.routes[&host("hello.demo.test")].targets.len();
    assert_eq!(targets(&cluster), 1);
    assert_eq!(cluster.plan().tunnel.sites[&SITE].targets.len(), 2, "the connector gets both");
    cluster.catalog(C::SiteChanged { id: SITE, name: "Home".to_owned(), enabled: false });
    assert_eq!(targets(&cluster), 0);
    assert!(cluster.plan().tunnel.sites.is_empty(), "no tunnel for a site that is switched off");
}

#[test]
fn the_edge_swaps_a_certificate_when_its_generation_grows() {
    let mut cluster = Cluster::new();
    let names = vec![host("*.demo.test"), host("demo.test")];
    cluster.tell(certificate(names.clone()));
    let first = cluster.plan().edge.certificates;
    cluster.tell(certificate(names));
    let second = cluster.plan().edge.certificates;
    assert_eq!((first.len(), second.len()), (1, 1));
    assert_eq!(first[0].id, second[0].id);
    assert_eq!((first[0].generation, second[0].generation), (1, 2));
}

#[test]
fn connectors_are_offered_the_home_first_then_standbys_then_the_rest() {
    let mut cluster = Cluster::new();
    let offers = |cluster: &Cluster| cluster.plan().tunnel.sites[&SITE].offers.clone();
    let [a, b, c] = cluster.n;
    assert_eq!(offers(&cluster), [b, c, a]);
    cluster.judge(1, Verdict::Down);
    assert_eq!(offers(&cluster), [c, a, b], "a node that is down comes last");
    cluster.judge(1, Verdict::Up);
    cluster.tell(Body::SitePlaced { site: SITE, home: c, standbys: vec![] });
    assert_eq!(offers(&cluster), [c, a, b]);
    cluster.judge(0, Verdict::Down);
    cluster.tell(Body::NodeAdmin { node: c, admin: AdminState::Drained });
    assert_eq!(offers(&cluster), [b, a, c], "a tunnel to a drained node is given up for another one only");
    cluster.tell(Body::NodeAdmin { node: c, admin: AdminState::Leaving });
    assert_eq!(offers(&cluster), [b, a]);
}

#[test]
fn the_home_of_a_single_homed_site_stays_first_while_it_is_placed_there() {
    let mut cluster = Cluster::new();
    let offers = |cluster: &Cluster| cluster.plan().tunnel.sites[&SITE].offers.clone();
    let [a, b, c] = cluster.n;
    cluster.tell(Body::ConnectorRegistered {
        site: SITE,
        tunnel_key: TunnelKey([9; 32]),
        version: "1.13.0".to_owned(),
        multi_homed: false,
    });
    cluster.judge(1, Verdict::Down);
    assert_eq!(offers(&cluster), [b, c, a], "its only tunnel may live there all the same");
    cluster.tell(Body::NodeAdmin { node: b, admin: AdminState::Drained });
    assert_eq!(offers(&cluster), [c, a, b]);
}

#[test]
fn every_node_has_every_peer_so_that_a_failover_sets_nothing_up() {
    let mut cluster = Cluster::new();
    cluster.tell(Body::ConnectorRegistered {
        site: SITE,
        tunnel_key: TunnelKey([9; 32]),
        version: "1.0.0".to_owned(),
        multi_homed: true,
    });
    let tunnels: Vec<_> =
        cluster.n.iter().map(|n| plan(&cluster.state, *n).tunnel.sites[&SITE].clone()).collect();
    assert!(tunnels.iter().all(|t| t.key == Some(TunnelKey([9; 32])) && t.multi_homed));
    assert_eq!(tunnels[0], tunnels[1]);
    assert_eq!(tunnels[1], tunnels[2]);
    let addresses: Vec<_> = cluster.n.iter().map(|n| plan(&cluster.state, *n).tunnel.address).collect();
    assert!(addresses.iter().all(Option::is_some));
    assert!(addresses[0] != addresses[1] && addresses[1] != addresses[2]);
}

#[test]
fn a_change_of_targets_moves_the_config_version_of_their_site_only() {
    let mut cluster = Cluster::new();
    let version = |cluster: &Cluster| cluster.plan().tunnel.sites[&SITE].config_version;
    let before = version(&cluster);
    cluster.catalog(C::DomainCreated { id: None, org: slug("acme"), name: host("example.org") });
    assert_eq!(version(&cluster), before);
    cluster.catalog(C::TargetChanged {
        id: TargetId(5),
        method: Method::Http,
        host: "127.0.0.1".to_owned(),
        port: 8081,
        enabled: true,
        health_check: None,
    });
    assert!(version(&cluster) > before);
}

#[test]
fn a_removed_node_is_no_peer_any_more_and_gets_an_empty_plan() {
    let mut cluster = Cluster::new();
    let gone = cluster.n[2];
    assert!(cluster.plan().peers.nodes.contains_key(&gone));
    cluster.tell(Body::NodeRemoved(gone));
    assert!(!cluster.plan().peers.nodes.contains_key(&gone));
    assert_eq!(plan(&cluster.state, gone).tunnel.address, None);
    assert!(!cluster.answers("hello.demo.test").contains(&3));
}

/// The resource of the beginning, with a target of each sort and a TCP and a UDP port.
fn with_ports() -> Cluster {
    let mut cluster = Cluster::new();
    for (method, port) in [(Method::Tcp, 22), (Method::Udp, 53)] {
        let (resource, host) = (ResourceId(4), "10.0.0.9".to_owned());
        let (id, health_check) = (None, None);
        cluster.catalog(C::TargetCreated { id, resource, site: SITE, method, host, port, health_check });
    }
    for kind in [PortKind::Tcp(2222), PortKind::Udp(2222)] {
        let rules = PortRules::usual(kind);
        cluster.traffic(TrafficChange::PortOpened { resource: ResourceId(4), kind, rules });
    }
    cluster
}

#[test]
fn ports_lead_to_targets_of_their_kind_while_the_resource_is_enabled() {
    let mut cluster = with_ports();
    cluster.traffic(TrafficChange::BalancingSet { resource: ResourceId(4), balancing: Balancing::Address });
    let plan = cluster.plan().edge;
    let methods = |targets: &[pangolin_core::plan::RouteTarget]| -> Vec<Method> {
        targets.iter().map(|target| target.method).collect()
    };
    assert_eq!(methods(&plan.routes[&host("hello.demo.test")].targets), [Method::Http]);
    let ports: Vec<_> = plan.ports.iter().map(|port| (port.kind, methods(&port.route.targets))).collect();
    let wanted = [(PortKind::Tcp(2222), vec![Method::Tcp]), (PortKind::Udp(2222), vec![Method::Udp])];
    assert_eq!(ports, wanted);
    assert!(plan.ports.iter().all(|port| port.route.balancing == Balancing::Address));

    let tcp = plan.ports[0].route.targets[0].id;
    let share = Share { weight: 2, priority: 1 };
    cluster.traffic(TrafficChange::ShareSet { target: tcp, share });
    let plan = cluster.plan().edge;
    assert_eq!(plan.ports[0].route.shares.get(&tcp), Some(&share));
    assert!(plan.ports[1].route.shares.is_empty());

    let name = "Hello".to_owned();
    cluster.catalog(C::ResourceChanged { id: ResourceId(4), name, enabled: false });
    assert!(cluster.plan().edge.ports.is_empty());
}

#[test]
fn what_nodes_reach_by_themselves_has_no_tunnel_and_is_known_by_address() {
    let mut cluster = with_ports();
    assert!(cluster.plan().edge.local_sites.is_empty());
    cluster.traffic(TrafficChange::LocalSiteSet { site: SITE, nodes: Some(vec![]) });
    let plan = cluster.plan();
    assert!(!plan.tunnel.sites.contains_key(&SITE));
    let local = &plan.edge.local_sites[&SITE];
    assert_eq!(local.nodes, cluster.n);
    let addresses: Vec<(&str, u16)> =
        local.targets.values().map(|target| (target.host.as_str(), target.port)).collect();
    assert_eq!(addresses, [("127.0.0.1", 8080), ("10.0.0.9", 22), ("10.0.0.9", 53)]);
    assert!(local.targets.iter().all(|(port, target)| target.tunnel_port == *port));

    let second = cluster.n[1];
    cluster.traffic(TrafficChange::LocalSiteSet { site: SITE, nodes: Some(vec![second]) });
    assert_eq!(cluster.plan().edge.local_sites[&SITE].nodes, [second]);
    cluster.traffic(TrafficChange::LocalSiteSet { site: SITE, nodes: None });
    assert!(cluster.plan().tunnel.sites.contains_key(&SITE));
}
