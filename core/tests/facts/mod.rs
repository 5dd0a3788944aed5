//! Made-up facts that the tests of this crate share: plain ones, and generated ones that interact because they draw
//! from few names and numbers.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use pangolin_core::{
    Actor, Body, CatalogChange, Cause, CertificateId, ClusterId, Command, DomainId, Epoch, Fence, HostName,
    NodeId, RequestId, ResourceId, Revision, RoleId, SiteId, Slug, TargetId, Timestamp, TokenId, UserId,
    command::{CertificateIssued, ClusterCreated, LineageBegun, NodeAdmitted, UpgradeChange},
    dns::{AnswerPolicy, DnsChange},
    fabric::{Capacity, FabricChange},
    feature::{self, FeatureLevel},
    id::ClientId,
    issuance::{CertificatesChange, Challenge, Issuer, OrderStep, Problem, ProblemKind, Rate, Rates, Window},
    keyring::{KeyringChange, Rewrapped, SealedPlace},
    record::{
        AdminState, Authority, Autopilot, Digest, HealthCheck, JoinToken, KeyScope, Method, NodeRole,
        NodeSpec, RecordData, RecordKind, RecordSet, RecoveryPublic, Sealed, Settings, TunnelKey, Verdict,
    },
    rollover::{KeptKey, ParentFound},
    traffic::{Balancing, PortKind, PortRules, ProxyProtocol, Share, TrafficChange},
};

pub(crate) fn slug(text: &str) -> Slug {
    text.parse().expect("a short name")
}

pub(crate) fn host(text: &str) -> HostName {
    text.parse().expect("a host name")
}

pub(crate) fn sealed() -> Sealed {
    Sealed { kek: 1, wrapped_key: vec![1, 2, 3], content: vec![4, 5, 6] }
}

pub(crate) fn settings() -> Settings {
    Settings {
        zone: host("demo.test"),
        control_host: host("control.demo.test"),
        tunnel_network: "100.90.0.0/16".parse().expect("a network"),
        ttl: 30,
    }
}

/// A node whose numbers all follow from `n`.
pub(crate) fn spec(name: &str, n: u8) -> NodeSpec {
    let address = Ipv4Addr::new(192, 0, 2, n);
    NodeSpec {
        name: slug(name),
        role: NodeRole::Data,
        peer_address: SocketAddr::from((address, 7420)),
        spki: Digest([n; 32]),
        public_addresses: vec![IpAddr::V4(address)],
        https_port: 443,
        tunnel_endpoint: format!("{address}:51820"),
        tunnel_key: TunnelKey([n; 32]),
        region: None,
        version: "0.1.0".to_owned(),
        feature_level: feature::FIRST,
    }
}

pub(crate) fn created(spec: NodeSpec) -> Body {
    Body::ClusterCreated(Box::new(ClusterCreated {
        id: ClusterId([7; 16]),
        name: slug("demo"),
        authority: Authority { certificate: vec![1], key: sealed() },
        issuer: Authority { certificate: vec![2], key: sealed() },
        settings: settings(),
        node: NodeId(1),
        spec,
    }))
}

pub(crate) fn token(n: u8, expires_at: Timestamp) -> JoinToken {
    JoinToken {
        id: TokenId([n; 8]),
        secret: sealed(),
        role: NodeRole::Data,
        expires_at,
        replaces: None,
        created_at: Timestamp(0),
        used: None,
    }
}

pub(crate) fn admitted(token: u8, spec: NodeSpec) -> Body {
    let csr = Digest(spec.spki.0);
    Body::NodeAdmitted(Box::new(NodeAdmitted { token: TokenId([token; 8]), csr, spec }))
}

pub(crate) fn certificate(names: Vec<HostName>) -> Body {
    Body::CertificateIssued(Box::new(CertificateIssued {
        names,
        chain: vec![vec![1, 2, 3]],
        key: sealed(),
        not_before: Timestamp(0),
        not_after: Timestamp(1_000_000),
    }))
}

/// The directory of the issuer that the made-up facts know.
pub(crate) const DIRECTORY: &str = "https://ca.test/directory";

pub(crate) fn issuer() -> Issuer {
    Issuer {
        name: slug("ca"),
        directory: DIRECTORY.to_owned(),
        roots: vec![],
        contacts: vec!["mailto:ops@demo.test".to_owned()],
        profile: None,
        external: None,
        caa: vec![],
        rates: Rates { set: Some(Rate { burst: 5, every_ms: 1000 }), ..Rates::default() },
    }
}

/// The steps of an order for `demo.test` and its wildcard, from its key to its end.
pub(crate) fn order_steps() -> Vec<OrderStep> {
    let challenge = |number: u8| Challenge {
        name: host("demo.test"),
        authorization: format!("https://ca.test/authorization/{number}"),
        url: format!("https://ca.test/challenge/{number}"),
        value: format!("proof-{number}"),
    };
    vec![
        OrderStep::KeyReady { key: sealed(), csr: vec![7, 8, 9] },
        OrderStep::Ordered {
            url: "https://ca.test/order/1".to_owned(),
            expires: Some(Timestamp(5)),
            replaces: false,
        },
        OrderStep::TxtPublished(vec![challenge(1), challenge(2)]),
        OrderStep::Triggered,
        OrderStep::Finalizing,
        OrderStep::Issued {
            chain: vec![vec![1, 2, 3]],
            not_before: Timestamp(1_800_000_000_000),
            not_after: Timestamp(1_807_776_000_000),
        },
    ]
}

pub(crate) fn failed() -> OrderStep {
    OrderStep::Failed {
        problem: Problem {
            kind: ProblemKind::Unproved,
            detail: "no TXT record".to_owned(),
            at: Timestamp(1),
        },
        again_at: Timestamp(2),
        hold_until: Some(Timestamp(1_900_000_000_000)),
        give_up: true,
        park: false,
    }
}

/// The state that these commands lead to.
pub(crate) fn applied(commands: &[Command]) -> pangolin_core::ClusterState {
    let mut state = pangolin_core::ClusterState::default();
    for (command, index) in commands.iter().zip(1..) {
        state.apply(index, command);
    }
    state
}

/// A command of an operator's at `at` milliseconds.
pub(crate) fn command(at: u64, body: Body) -> Command {
    Command {
        request: None,
        at: Timestamp(at),
        cause: Cause::new(Actor::Operator("root".to_owned()), "as asked"),
        fence: Fence::None,
        body,
    }
}

/// Generated facts.
pub(crate) mod any {
    use proptest::{
        collection::vec,
        option,
        prelude::{Just, Strategy, any},
        prop_oneof,
        sample::select,
    };

    use super::*;

    const ORGS: &[&str] = &["acme", "blue", "c"];
    const HOSTS: &[&str] = &[
        "demo.test",
        "control.demo.test",
        "*.demo.test",
        "a.demo.test",
        "hello.demo.test",
        "n1.demo.test",
        "n2.demo.test",
        "example.org",
        "www.example.org",
        "*.example.org",
        "b.www.example.org",
        "test",
    ];
    const TITLES: &[&str] =
        &["Home", "home", "Lab!", "", "\u{7}", "x", "Ein sehr langer Name, der nicht endet"];

    fn org() -> impl Strategy<Value = Slug> {
        select(ORGS).prop_map(slug)
    }

    fn title() -> impl Strategy<Value = String> {
        prop_oneof![8 => select(TITLES).prop_map(str::to_owned), 1 => Just("x".repeat(200))]
    }

    fn name() -> impl Strategy<Value = HostName> {
        select(HOSTS).prop_map(host)
    }

    /// Some number of the few that occur; most of them exist in a long enough log.
    fn number() -> impl Strategy<Value = u64> {
        1..14u64
    }

    fn node() -> impl Strategy<Value = NodeId> {
        number().prop_map(NodeId)
    }

    fn site() -> impl Strategy<Value = SiteId> {
        number().prop_map(SiteId)
    }

    fn digest() -> impl Strategy<Value = Digest> {
        (0..3u8).prop_map(|n| Digest([n; 32]))
    }

    fn credential() -> impl Strategy<Value = String> {
        select(&["abcdefghijklmno", "ABCDEFGHIJKLMN0", "123456789012345", "short", ""][..])
            .prop_map(str::to_owned)
    }

    fn node_spec() -> impl Strategy<Value = NodeSpec> {
        let name = select(&["n1", "n2", "n3", "n4", "hello", "control"][..]);
        (name, 1..6u8, any::<bool>(), 0..20usize, 0..10u32).prop_map(
            |(name, n, witness, addresses, level)| {
                let plain = spec(name, n);
                NodeSpec {
                    role: if witness { NodeRole::Witness } else { NodeRole::Data },
                    public_addresses: vec![plain.public_addresses[0]; addresses],
                    feature_level: FeatureLevel(level.min(feature::NEWEST.0)),
                    ..plain
                }
            },
        )
    }

    fn any_settings() -> impl Strategy<Value = Settings> {
        let networks = &["100.90.0.0/16", "10.0.0.0/22", "10.0.0.0/30"][..];
        (name(), name(), select(networks), any::<u32>()).prop_map(|(zone, control_host, network, ttl)| {
            Settings { zone, control_host, tunnel_network: network.parse().expect("a network"), ttl }
        })
    }

    fn method() -> impl Strategy<Value = Method> {
        select(&[Method::Http, Method::Https, Method::H2c, Method::Tcp, Method::Udp][..])
    }

    fn health_check() -> impl Strategy<Value = Option<HealthCheck>> {
        let path = option::of(select(&["/", "/health", "no", "/a b"][..]).prop_map(str::to_owned));
        option::of((path, 0..40u32, 0..10u32, 0..4u32).prop_map(
            |(path, interval, timeout, unhealthy_threshold)| HealthCheck {
                path,
                interval,
                timeout,
                unhealthy_threshold,
            },
        ))
    }

    fn target_host() -> impl Strategy<Value = String> {
        select(&["10.1.2.3", "backend", "::1", "*.x", "not a host", ""][..]).prop_map(str::to_owned)
    }

    fn record_data() -> impl Strategy<Value = RecordData> {
        prop_oneof![
            any::<u32>().prop_map(|a| RecordData::A(a.into())),
            any::<u128>().prop_map(|a| RecordData::Aaaa(a.into())),
            (0..5000usize).prop_map(|n| RecordData::Txt(vec![b'x'; n])),
            name().prop_map(RecordData::Cname),
            name().prop_map(RecordData::Ns),
            (any::<u16>(), name()).prop_map(|(p, h)| RecordData::Mx(p, h)),
            (any::<u16>(), name()).prop_map(|(p, h)| RecordData::Srv(p, 1, 2, h)),
            Just(RecordData::Caa(0, "issue".to_owned(), b"ca.example".to_vec())),
            Just(RecordData::NullMx),
            any::<u16>().prop_map(|port| RecordData::NullSrv(1, 2, port)),
            (any::<u16>(), 0..40usize).prop_map(|(kind, n)| RecordData::Other(kind, vec![7; n])),
        ]
    }

    fn record_set() -> impl Strategy<Value = CatalogChange> {
        (name(), vec(record_data(), 0..3), option::weighted(0.8, any::<u32>())).prop_map(
            |(name, data, ttl)| {
                let kind = data.first().map_or(RecordKind::Txt, RecordData::kind);
                CatalogChange::RecordSetSet { name, kind, set: ttl.map(|ttl| RecordSet { ttl, data }) }
            },
        )
    }

    fn dns() -> impl Strategy<Value = DnsChange> {
        use DnsChange as D;
        let network =
            || select(&["10.0.0.0/8", "10.1.0.0/8", "::/0"][..]).prop_map(|n| n.parse().expect("a network"));
        let policy = [AnswerPolicy::Home, AnswerPolicy::HomeFirst, AnswerPolicy::All, AnswerPolicy::Nearest];
        let secondary = || (0..3u8).prop_map(|n| SocketAddr::from(([192, 0, 2, n], 53)));
        prop_oneof![
            (name(), option::of(any::<u32>()), record_data()).prop_map(|(name, ttl, data)| D::RecordAdded {
                name,
                ttl,
                data
            }),
            (name(), record_data(), any::<bool>()).prop_map(|(name, data, all)| D::RecordRemoved {
                name,
                kind: data.kind(),
                data: (!all).then_some(data)
            }),
            (name(), any::<bool>(), vec((name(), vec(record_data(), 0..3)), 0..3)).prop_map(
                |(zone, replace, sets)| {
                    let sets = sets.into_iter().map(|(name, data)| (name, RecordSet { ttl: 60, data }));
                    D::RecordsImported { zone, replace, sets: sets.collect() }
                }
            ),
            (number(), select(policy.to_vec()))
                .prop_map(|(id, policy)| D::PolicySet { resource: ResourceId(id), policy }),
            (network(), option::of(org())).prop_map(|(network, region)| D::RegionSet { network, region }),
            (name(), 62..66usize).prop_map(|(zone, bytes)| D::SigningStarted {
                zone,
                public: vec![1; bytes],
                private: sealed()
            }),
            name().prop_map(D::SigningStopped),
            (name(), any::<bool>())
                .prop_map(|(name, there)| D::TransferKeySet { name, secret: there.then(sealed) }),
            (name(), secondary(), option::of(name())).prop_map(|(zone, address, key)| D::SecondarySet {
                zone,
                address,
                key
            }),
            (name(), 63..66usize).prop_map(|(zone, bytes)| D::RolloverStarted {
                zone,
                public: vec![2; bytes],
                private: sealed()
            }),
            (name(), any::<(bool, bool, bool)>(), option::of(any::<u32>()), kept()).prop_map(
                |(zone, (current, next, any), ttl, kept)| {
                    let found = ParentFound { current, next, any, ttl };
                    D::ParentAsked { zone, found, kept }
                }
            ),
            (name(), any::<bool>()).prop_map(|(zone, next)| D::RolloverEnded {
                zone,
                kept: if next { KeptKey::Next } else { KeptKey::Current }
            }),
        ]
    }

    fn kept() -> impl Strategy<Value = Option<KeptKey>> {
        select(&[None, Some(KeptKey::Next), Some(KeptKey::Current)][..])
    }

    fn port_kind() -> impl Strategy<Value = PortKind> {
        select(&[0, 53, 443, 7420, 25_565, 51_820][..])
            .prop_flat_map(|port| select(vec![PortKind::Tcp(port), PortKind::Udp(port), PortKind::Tls]))
    }

    fn traffic() -> impl Strategy<Value = TrafficChange> {
        use TrafficChange as T;
        let network =
            || select(&["10.0.0.0/8", "10.1.0.1/8", "::/0"][..]).prop_map(|n| n.parse().expect("a network"));
        let told =
            option::of(select(&[ProxyProtocol::V1, ProxyProtocol::V2, ProxyProtocol::V2Datagrams][..]));
        let rules = (told, vec(network(), 0..2), vec(network(), 0..2), 0..3u32, 0..3u32, 0..3u32).prop_map(
            |(proxy_protocol, allow, deny, connections, per_source, idle)| PortRules {
                proxy_protocol,
                allow,
                deny,
                connections,
                per_source,
                idle,
            },
        );
        prop_oneof![
            (number(), select(&Balancing::ALL[..]))
                .prop_map(|(id, balancing)| T::BalancingSet { resource: ResourceId(id), balancing }),
            (number(), 0..4u16, 0..2u8).prop_map(|(id, weight, priority)| T::ShareSet {
                target: TargetId(id),
                share: Share { weight, priority }
            }),
            (number(), port_kind(), option::of(rules)).prop_map(|(id, kind, rules)| T::PortOpened {
                resource: ResourceId(id),
                kind,
                rules: rules.unwrap_or_else(|| PortRules::usual(kind))
            }),
            (number(), port_kind()).prop_map(|(id, kind)| T::PortClosed { resource: ResourceId(id), kind }),
            (site(), option::of(vec(node(), 0..3))).prop_map(|(site, nodes)| T::LocalSiteSet { site, nodes }),
        ]
    }

    fn fabric() -> impl Strategy<Value = FabricChange> {
        use FabricChange as F;
        let id = || select(&["aaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbb", "short"][..]).prop_map(str::to_owned);
        let capacity = (0..3u16, option::of(0..3u32)).prop_map(|(weight, sites)| Capacity { weight, sites });
        prop_oneof![
            (node(), capacity).prop_map(|(node, capacity)| F::CapacitySet { node, capacity }),
            (site(), option::of(org())).prop_map(|(site, region)| F::SiteRegionSet { site, region }),
            (id(), org(), title(), option::of(0..3u32), option::of(0..90_000u64)).prop_map(
                |(id, org, name, uses, lifetime_s)| F::ProvisioningKeyCreated {
                    id,
                    org,
                    name,
                    secret: Digest([3; 32]),
                    uses,
                    lifetime_s
                }
            ),
            id().prop_map(F::ProvisioningKeyRemoved),
            (id(), option::of(title()), 0..9u8, any::<u8>()).prop_map(|(key, name, n, secret)| {
                let connector_secret = Digest([secret; 32]);
                F::SiteProvisioned { key, name, connector_id: format!("{n:015}"), connector_secret }
            }),
        ]
    }

    fn people() -> impl Strategy<Value = CatalogChange> {
        use CatalogChange as C;
        let email = select(&["a@x", "A@X", "b@x", "nobody"][..]).prop_map(str::to_owned);
        let id = || number().prop_map(UserId);
        prop_oneof![
            (org(), title()).prop_map(|(id, name)| C::OrgCreated { id, name }),
            (org(), title()).prop_map(|(id, name)| C::OrgChanged { id, name }),
            org().prop_map(C::OrgRemoved),
            (option::of(id()), email, title(), any::<bool>()).prop_map(|(id, email, name, administrator)| {
                C::UserCreated { id, email, name, administrator }
            }),
            (id(), title(), any::<bool>()).prop_map(|(id, name, administrator)| C::UserChanged {
                id,
                name,
                administrator
            }),
            id().prop_map(C::UserRemoved),
            (option::of(number().prop_map(RoleId)), org(), title())
                .prop_map(|(id, org, name)| C::RoleCreated { id, org, name }),
            number().prop_map(|n| C::RoleRemoved(RoleId(n))),
            (id(), org(), option::of(vec(number().prop_map(RoleId), 0..3)))
                .prop_map(|(user, org, roles)| C::MembershipSet { user, org, roles }),
            (credential(), title(), option::of(org()), digest()).prop_map(|(id, name, org, secret)| {
                let scope = org.map_or(KeyScope::Cluster, KeyScope::Org);
                C::ApiKeyCreated { id, name, scope, secret }
            }),
            credential().prop_map(C::ApiKeyRemoved),
        ]
    }

    fn published() -> impl Strategy<Value = CatalogChange> {
        use CatalogChange as C;
        let slugs = || option::of(select(&["home", "lab", "x"][..]).prop_map(slug));
        let resource = || number().prop_map(ResourceId);
        let target = || number().prop_map(TargetId);
        let port = || select(&[0u16, 80, 8080, 65535][..]);
        prop_oneof![
            (option::of(site()), org(), slugs(), title(), credential(), digest()).prop_map(
                |(id, org, nice_id, name, connector_id, connector_secret)| {
                    C::SiteCreated { id, org, nice_id, name, connector_id, connector_secret }
                }
            ),
            (site(), title(), any::<bool>()).prop_map(|(id, name, enabled)| C::SiteChanged {
                id,
                name,
                enabled
            }),
            (site(), digest())
                .prop_map(|(id, connector_secret)| C::SiteSecretChanged { id, connector_secret }),
            site().prop_map(C::SiteRemoved),
            (option::of(number().prop_map(DomainId)), org(), name())
                .prop_map(|(id, org, name)| C::DomainCreated { id, org, name }),
            number().prop_map(|n| C::DomainRemoved(DomainId(n))),
            (option::of(resource()), org(), slugs(), title(), number().prop_map(DomainId), name()).prop_map(
                |(id, org, nice_id, name, domain, host)| {
                    C::ResourceCreated { id, org, nice_id, name, domain, host }
                }
            ),
            (resource(), title(), any::<bool>()).prop_map(|(id, name, enabled)| C::ResourceChanged {
                id,
                name,
                enabled
            }),
            resource().prop_map(C::ResourceRemoved),
            (option::of(target()), resource(), site(), method(), target_host(), port(), health_check())
                .prop_map(|(id, resource, site, method, host, port, health_check)| {
                    C::TargetCreated { id, resource, site, method, host, port, health_check }
                }),
            (target(), method(), target_host(), port(), any::<bool>(), health_check()).prop_map(
                |(id, method, host, port, enabled, health_check)| {
                    C::TargetChanged { id, method, host, port, enabled, health_check }
                }
            ),
            target().prop_map(C::TargetRemoved),
            record_set(),
        ]
    }

    fn cluster_life() -> impl Strategy<Value = Body> {
        let admin = select(&[AdminState::Active, AdminState::Drained, AdminState::Leaving][..]);
        let verdict = any::<bool>().prop_map(|d| if d { Verdict::Down } else { Verdict::Up });
        prop_oneof![
            node_spec().prop_map(created),
            (0..4u64, node()).prop_map(|(term, node)| Body::LeaderStarted { term, node }),
            (0..4u8, 0..2000u64, option::weighted(0.2, node())).prop_map(|(n, expires, replaces)| {
                Body::TokenCreated(Box::new(JoinToken { replaces, ..token(n, Timestamp(expires)) }))
            }),
            (0..4u8).prop_map(|n| Body::TokenRevoked(TokenId([n; 8]))),
            (0..4u8, node_spec()).prop_map(|(n, spec)| admitted(n, spec)),
            (node(), node_spec()).prop_map(|(node, spec)| Body::NodeChanged { node, spec: Box::new(spec) }),
            (node(), admin).prop_map(|(node, admin)| Body::NodeAdmin { node, admin }),
            (node(), verdict).prop_map(|(node, verdict)| Body::NodeVerdict { node, verdict }),
            node().prop_map(Body::NodeRemoved),
            (site(), node(), vec(node(), 0..6)).prop_map(|(site, home, standbys)| Body::SitePlaced {
                site,
                home,
                standbys
            }),
            (site(), 0..3u8, any::<bool>(), any::<bool>()).prop_map(|(site, key, long, multi_homed)| {
                let version = if long { "v".repeat(100) } else { "1.2.3".to_owned() };
                Body::ConnectorRegistered { site, tunnel_key: TunnelKey([key; 32]), version, multi_homed }
            }),
            vec(name(), 0..3).prop_map(certificate),
            any_settings().prop_map(|settings| Body::SettingsChanged(Box::new(settings))),
            (0..4u32).prop_map(|level| Body::FeatureLevelRaised(FeatureLevel(level))),
            upgrade().prop_map(Body::Upgrade),
            restoring(),
            node().prop_map(Body::NodePromoted),
            (0..700_000u32, option::of(0..100u32), option::of(0..100u32)).prop_map(
                |(stable_ms, exchange_after_s, remove_after_s)| {
                    Body::AutopilotChanged(Autopilot { stable_ms, exchange_after_s, remove_after_s })
                }
            ),
            node().prop_map(|survivor| Body::Disbanded { survivor }),
            (node(), node()).prop_map(|(from, to)| Body::LeadershipHanded { from, to }),
            number().prop_map(|n| Body::CertificateRemoved(CertificateId(n))),
            certificates().prop_map(|change| Body::Certificates(Box::new(change))),
            keyring().prop_map(|change| Body::Keyring(Box::new(change))),
        ]
    }

    fn keyring() -> impl Strategy<Value = KeyringChange> {
        let kek = || 1..4u32;
        let place = prop_oneof![
            Just(SealedPlace::Authority),
            Just(SealedPlace::InternalIssuer),
            (0..4u8).prop_map(|n| SealedPlace::Token(TokenId([n; 8]))),
            number().prop_map(|n| SealedPlace::Certificate(CertificateId(n))),
            number().prop_map(|n| SealedPlace::Order(CertificateId(n))),
            Just(SealedPlace::Account(DIRECTORY.to_owned())),
            Just(SealedPlace::External(DIRECTORY.to_owned())),
            name().prop_map(SealedPlace::ZoneKey),
            name().prop_map(SealedPlace::TransferKey),
            name().prop_map(SealedPlace::NextZoneKey),
            Just(SealedPlace::NextAccount(DIRECTORY.to_owned())),
        ];
        let rewrapped =
            (place, kek()).prop_map(|(place, kek)| Rewrapped { place, sealed: Sealed { kek, ..sealed() } });
        prop_oneof![
            kek().prop_map(|number| KeyringChange::Made { number, fingerprint: Digest([7; 32]) }),
            (node(), kek()).prop_map(|(node, number)| KeyringChange::Held { node, number }),
            kek().prop_map(KeyringChange::Activated),
            vec(rewrapped, 0..12).prop_map(KeyringChange::Rewrapped),
            kek().prop_map(KeyringChange::Retired),
        ]
    }

    fn order_step() -> impl Strategy<Value = OrderStep> {
        prop_oneof![8 => select(order_steps()), 1 => Just(failed())]
    }

    fn certificates() -> impl Strategy<Value = CertificatesChange> {
        use CertificatesChange as C;
        let id = || number().prop_map(CertificateId);
        let directory =
            || select(&[DIRECTORY, "https://other.test/", "http://bad"][..]).prop_map(str::to_owned);
        let window = option::of((0..9u64, 0..9u64, 0..9u64)).prop_map(|window| {
            window.map(|(start, end, selected)| Window {
                start: Timestamp(start),
                end: Timestamp(end),
                selected: Timestamp(selected),
                explanation: None,
            })
        });
        prop_oneof![
            vec(Just(issuer()), 0..3).prop_map(C::IssuersSet),
            (select(&["ca", "other"][..]), any::<bool>(), any::<bool>()).prop_map(|(name, first, known)| {
                let issuer = Issuer { name: slug(name), ..issuer() };
                let before = known.then(|| issuer.digest());
                C::IssuerSet { issuer: Box::new(issuer), first, before }
            }),
            select(&["ca", "other"][..]).prop_map(|name| C::IssuerRemoved(slug(name))),
            directory().prop_map(|directory| C::NextAccountKeyMade { directory, key: sealed() }),
            directory().prop_map(|directory| C::AccountKeyChanged { directory }),
            directory().prop_map(|directory| C::AccountKeyKept { directory }),
            directory().prop_map(|directory| C::AccountKeyMade { directory, key: sealed() }),
            (directory(), directory()).prop_map(|(directory, url)| C::AccountRegistered {
                directory,
                url,
                caa: vec![]
            }),
            (directory(), directory()).prop_map(|(directory, url)| C::AccountLost { directory, url }),
            (vec(name(), 0..3), 0..4u64, directory(), any::<bool>()).prop_map(
                |(names, generation, directory, replaces)| C::OrderPlanned {
                    names,
                    generation,
                    directory,
                    replaces
                }
            ),
            (id(), 0..4u64, 0..70u64, order_step()).prop_map(|(id, generation, index, step)| C::OrderMoved {
                id,
                generation,
                attempt: Revision { lineage: 1, index },
                step
            }),
            id().prop_map(C::RenewalWanted),
            (id(), 0..4u64, window).prop_map(|(id, generation, window)| C::WindowLearned {
                id,
                generation,
                window
            }),
            vec(name(), 0..3).prop_map(|names| match certificate(names) {
                Body::CertificateIssued(certificate) => C::Imported(*certificate),
                _ => C::RenewalWanted(CertificateId(1)),
            }),
            (id(), 0..12u8).prop_map(|(id, reason)| C::RevocationWanted { id, reason }),
            (id(), 0..4u64).prop_map(|(id, generation)| C::Revoked { id, generation }),
        ]
    }

    fn upgrade() -> impl Strategy<Value = UpgradeChange> {
        prop_oneof![
            any::<bool>().prop_map(|rollback| UpgradeChange::Started { rollback }),
            node().prop_map(UpgradeChange::NodeBegun),
            node().prop_map(UpgradeChange::NodeDone),
            Just(UpgradeChange::Finished),
        ]
    }

    fn restoring() -> impl Strategy<Value = Body> {
        let catalog = || (0..2u8).prop_map(|n| Digest([n; 32]));
        prop_oneof![
            any::<u8>().prop_map(|n| Body::RecoveryKeyChanged(RecoveryPublic([n; 32]))),
            (catalog(), 0..3u32, vec(any::<u8>(), 0..20))
                .prop_map(|(catalog, part, bytes)| Body::CatalogStaged { catalog, part, bytes }),
            (catalog(), 0..3u32).prop_map(|(catalog, parts)| {
                Body::CatalogReplaced { catalog, parts, from: Revision::default() }
            }),
            (0..4u64, node(), option::of(node_spec())).prop_map(|(lineage, node, spec)| {
                let from = Revision::default();
                Body::LineageBegun(Box::new(LineageBegun { lineage, node, spec, from }))
            }),
        ]
    }

    fn body() -> impl Strategy<Value = Body> {
        prop_oneof![
            1 => dns().prop_map(|change| Body::Dns(Box::new(change))),
            1 => traffic().prop_map(|change| Body::Traffic(Box::new(change))),
            1 => fabric().prop_map(|change| Body::Fabric(Box::new(change))),
            2 => cluster_life(),
            1 => people().prop_map(|change| Body::Catalog(Box::new(change))),
            2 => published().prop_map(|change| Body::Catalog(Box::new(change))),
        ]
    }

    fn fence() -> impl Strategy<Value = Fence> {
        prop_oneof![
            8 => Just(Fence::None),
            1 => (0..4u64).prop_map(Fence::Term),
            1 => (0..4u64, site(), (0..4u64).prop_map(Epoch))
                .prop_map(|(term, site, epoch)| Fence::Placement { term, site, epoch }),
        ]
    }

    /// Any command. Few clients and serials, so that repeats occur.
    pub(crate) fn command() -> impl Strategy<Value = Command> {
        let request = option::weighted(0.3, (0..2u8, 0..8u64)).prop_map(|request| {
            request.map(|(client, serial)| RequestId { client: ClientId([client; 16]), serial })
        });
        // A day and more lies between the extremes, so that remembered requests and tokens run out.
        let at = prop_oneof![4 => 0..2000u64, 1 => 0..200_000_000u64].prop_map(Timestamp);
        (request, at, fence(), body()).prop_map(|(request, at, fence, body)| Command {
            request,
            at,
            cause: Cause::new(Actor::Operator("root".to_owned()), "as asked"),
            fence,
            body,
        })
    }

    /// An entry of the log: a command, or one that is none to the state.
    pub(crate) fn entry() -> impl Strategy<Value = Option<Command>> {
        option::weighted(0.95, command())
    }

    /// A log that mostly begins as logs do, with enough in it that later entries find something to act on.
    pub(crate) fn log() -> impl Strategy<Value = Vec<Option<Command>>> {
        let begun = super::beginning().into_iter().map(Some).collect::<Vec<_>>();
        (prop_oneof![9 => Just(begun), 1 => Just(Vec::new())], vec(entry(), 0..60))
            .prop_map(|(begun, rest)| begun.into_iter().chain(rest).collect())
    }
}

/// How the life of a cluster begins: two nodes, an organisation with a site, a domain, a resource and a target.
pub(crate) fn beginning() -> Vec<Command> {
    use CatalogChange as C;
    let catalog = |change| Body::Catalog(Box::new(change));
    let bodies = [
        created(spec("n1", 1)),
        Body::LeaderStarted { term: 1, node: NodeId(1) },
        Body::TokenCreated(Box::new(token(1, Timestamp(1_000_000)))),
        admitted(1, spec("n2", 2)),
        catalog(C::OrgCreated { id: slug("acme"), name: "Acme".to_owned() }),
        catalog(C::SiteCreated {
            id: None,
            org: slug("acme"),
            nice_id: None,
            name: "Home".to_owned(),
            connector_id: "abcdefghijklmno".to_owned(),
            connector_secret: Digest([1; 32]),
        }),
        catalog(C::DomainCreated { id: None, org: slug("acme"), name: host("demo.test") }),
        catalog(C::ResourceCreated {
            id: None,
            org: slug("acme"),
            nice_id: None,
            name: "Hello".to_owned(),
            domain: DomainId(3),
            host: host("hello.demo.test"),
        }),
        catalog(C::TargetCreated {
            id: None,
            resource: ResourceId(4),
            site: SiteId(2),
            method: Method::Http,
            host: "127.0.0.1".to_owned(),
            port: 8080,
            health_check: None,
        }),
    ];
    bodies.into_iter().zip(1..).map(|(body, at)| command(at, body)).collect()
}
