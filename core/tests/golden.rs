//! The encoding of every command, byte for byte, and what becomes of it.
//!
//! Nodes of two versions read one log, so a line of `tests/golden/commands.txt` never changes again. New variants bring
//! new lines at its end: the failure message says which.

#[allow(dead_code, reason = "each test file uses its own part of the made-up facts")]
mod facts;

use std::{collections::BTreeMap, fmt::Write as _};

use facts::{admitted, beginning, certificate, command, host, settings, slug, spec, token};
use pangolin_core::{
    Actor, Body, CatalogChange, Cause, CertificateId, ClusterState, Command, DomainId, Epoch, FeatureLevel,
    Fence, NodeId, RequestId, ResourceId, Revision, RoleId, SiteId, TargetId, Timestamp, TokenId, UserId,
    codec,
    command::{LineageBegun, UpgradeChange},
    dns::{AnswerPolicy, DnsChange},
    fabric::{Capacity, FabricChange},
    id::ClientId,
    issuance::{CertificatesChange, Issuer, OrderStep, Window},
    keyring::{KeyringChange, Rewrapped, SealedPlace},
    record::{
        AdminState, Autopilot, Digest, HealthCheck, JoinToken, KeyScope, Method, NodeSpec, RecordData,
        RecordKind, RecordSet, RecoveryPublic, Sealed, Settings, TunnelKey, Verdict,
    },
    rollover::{KeptKey, ParentFound},
    traffic::{Balancing, PortKind, PortRules, ProxyProtocol, Share, TrafficChange},
};

const GOLDEN: &str = include_str!("golden/commands.txt");

/// Every variant has its place here. The compiler asks for a new one; then `list` needs it as well.
fn variant(body: &Body) -> &'static str {
    use CatalogChange as C;
    match body {
        Body::ClusterCreated(_)
        | Body::LeaderStarted { .. }
        | Body::TokenCreated(_)
        | Body::TokenRevoked(_)
        | Body::NodeAdmitted(_)
        | Body::NodeChanged { .. }
        | Body::NodeAdmin { .. }
        | Body::NodeVerdict { .. }
        | Body::NodeRemoved(_)
        | Body::SitePlaced { .. }
        | Body::ConnectorRegistered { .. }
        | Body::CertificateIssued(_)
        | Body::SettingsChanged(_)
        | Body::FeatureLevelRaised(_)
        | Body::Upgrade(_)
        | Body::RecoveryKeyChanged(_)
        | Body::CatalogStaged { .. }
        | Body::CatalogReplaced { .. }
        | Body::LineageBegun(_)
        | Body::NodePromoted(_)
        | Body::AutopilotChanged(_)
        | Body::Disbanded { .. }
        | Body::LeadershipHanded { .. }
        | Body::CertificateRemoved(_)
        | Body::Dns(_)
        | Body::Keyring(_)
        | Body::Traffic(_)
        | Body::Fabric(_) => body.name(),
        Body::Certificates(change) => match &**change {
            CertificatesChange::IssuersSet(_) => "IssuersSet",
            CertificatesChange::AccountKeyMade { .. } => "AccountKeyMade",
            CertificatesChange::AccountRegistered { .. } => "AccountRegistered",
            CertificatesChange::AccountLost { .. } => "AccountLost",
            CertificatesChange::OrderPlanned { .. } => "OrderPlanned",
            CertificatesChange::OrderMoved { step, .. } => match step {
                OrderStep::KeyReady { .. } => "OrderKeyReady",
                OrderStep::Ordered { .. } => "OrderOrdered",
                OrderStep::TxtPublished(_) => "OrderTxtPublished",
                OrderStep::Triggered => "OrderTriggered",
                OrderStep::Finalizing => "OrderFinalizing",
                OrderStep::Issued { .. } => "OrderIssued",
                OrderStep::Failed { .. } => "OrderFailed",
            },
            CertificatesChange::RenewalWanted(_) => "RenewalWanted",
            CertificatesChange::WindowLearned { .. } => "WindowLearned",
            CertificatesChange::Imported(_) => "Imported",
            CertificatesChange::RevocationWanted { .. } => "RevocationWanted",
            CertificatesChange::Revoked { .. } => "Revoked",
            CertificatesChange::IssuerSet { .. } => "IssuerSet",
            CertificatesChange::IssuerRemoved(_) => "IssuerRemoved",
            CertificatesChange::NextAccountKeyMade { .. } => "NextAccountKeyMade",
            CertificatesChange::AccountKeyChanged { .. } => "AccountKeyChanged",
            CertificatesChange::AccountKeyKept { .. } => "AccountKeyKept",
        },
        Body::Catalog(change) => match &**change {
            C::OrgCreated { .. } => "OrgCreated",
            C::OrgChanged { .. } => "OrgChanged",
            C::OrgRemoved(_) => "OrgRemoved",
            C::UserCreated { .. } => "UserCreated",
            C::UserChanged { .. } => "UserChanged",
            C::UserRemoved(_) => "UserRemoved",
            C::RoleCreated { .. } => "RoleCreated",
            C::RoleRemoved(_) => "RoleRemoved",
            C::MembershipSet { .. } => "MembershipSet",
            C::ApiKeyCreated { .. } => "ApiKeyCreated",
            C::ApiKeyRemoved(_) => "ApiKeyRemoved",
            C::SiteCreated { .. } => "SiteCreated",
            C::SiteChanged { .. } => "SiteChanged",
            C::SiteSecretChanged { .. } => "SiteSecretChanged",
            C::SiteRemoved(_) => "SiteRemoved",
            C::DomainCreated { .. } => "DomainCreated",
            C::DomainRemoved(_) => "DomainRemoved",
            C::ResourceCreated { .. } => "ResourceCreated",
            C::ResourceChanged { .. } => "ResourceChanged",
            C::ResourceRemoved(_) => "ResourceRemoved",
            C::TargetCreated { .. } => "TargetCreated",
            C::TargetChanged { .. } => "TargetChanged",
            C::TargetRemoved(_) => "TargetRemoved",
            C::RecordSetSet { .. } => "RecordSetSet",
        },
    }
}

/// How many there are.
const VARIANTS: usize = 97;

/// A command of every variant, in an order in which most of them are done. Append at the end only.
fn list() -> Vec<Command> {
    let mut list = beginning();
    let first = list.len() as u64 + 1;
    list.extend(later_life().into_iter().zip(first..).map(|(body, at)| command(at, body)));
    // The parts around a body: every kind of actor and fence, and a request.
    let client = ClientId([3; 16]);
    for (actor, fence) in [
        (Actor::ApiKey("abcdefghijklmno".to_owned()), Fence::None),
        (Actor::User(UserId(300)), Fence::Term(1)),
        (Actor::Leader(NodeId(1)), Fence::Placement { term: 1, site: SiteId(2), epoch: Epoch(1) }),
        (Actor::Node(NodeId(70_000)), Fence::Term(9)),
        (Actor::Connector(SiteId(2)), Fence::Placement { term: 1, site: SiteId(2), epoch: Epoch(7) }),
    ] {
        list.push(Command {
            request: Some(RequestId { client, serial: list.len() as u64 }),
            at: Timestamp(1_790_000_000_000),
            cause: Cause::new(actor, "because"),
            fence,
            body: Body::NodeVerdict { node: NodeId(1), verdict: Verdict::Up },
        });
    }
    let after = list.len() as u64 + 1;
    list.extend(upgrades().into_iter().zip(after..).map(|(body, at)| command(at, body)));
    restored(&mut list);
    let at = 1_800_000_000_000 + list.len() as u64;
    list.extend(membership().into_iter().zip(at..).map(|(body, at)| command(at, body)));
    let at = 1_800_000_000_000 + list.len() as u64;
    list.extend(dns().into_iter().zip(at..).map(|(body, at)| command(at, body)));
    issuance(&mut list);
    let at = 1_800_000_000_000 + list.len() as u64;
    let bodies = keyring().into_iter().chain(traffic());
    list.extend(bodies.zip(at..).map(|(body, at)| command(at, body)));
    let at = 1_800_000_000_000 + list.len() as u64;
    let bodies = exchanges().into_iter().chain(fabric()).chain(datagrams());
    list.extend(bodies.zip(at..).map(|(body, at)| command(at, body)));
    list
}

/// Keys of a zone and of an account are exchanged, an issuer comes and goes, records say that there is nothing.
fn exchanges() -> Vec<Body> {
    use CertificatesChange as C;
    use DnsChange as D;
    let zone = host("demo.test");
    let record = |data: RecordData| D::RecordAdded { name: host("silent.demo.test"), ttl: None, data };
    let started = || D::RolloverStarted { zone: zone.clone(), public: vec![2; 64], private: facts::sealed() };
    let asked = |next, kept| D::ParentAsked {
        zone: zone.clone(),
        found: ParentFound { current: true, next, any: true, ttl: Some(600) },
        kept,
    };
    let ended = |kept| D::RolloverEnded { zone: zone.clone(), kept };
    let dns = [
        record(RecordData::NullMx),
        record(RecordData::Mx(10, host("mail.demo.test"))),
        record(RecordData::NullSrv(1, 2, 3)),
        started(),
        D::SigningStarted { zone: zone.clone(), public: vec![1; 64], private: facts::sealed() },
        started(),
        started(),
        asked(false, Some(KeptKey::Next)),
        asked(true, Some(KeptKey::Next)),
        asked(true, None),
        ended(KeptKey::Next),
        ended(KeptKey::Current),
        started(),
    ];
    let directory = facts::DIRECTORY.to_owned();
    let other =
        || Issuer { name: slug("other"), directory: "https://other.test/#a".into(), ..facts::issuer() };
    let set = |first, before: Option<&Issuer>| C::IssuerSet {
        issuer: Box::new(other()),
        first,
        before: before.map(Issuer::digest),
    };
    let certificates = [
        set(false, None),
        set(false, None),
        set(true, Some(&other())),
        C::IssuerRemoved(slug("other")),
        C::IssuerRemoved(slug("other")),
        C::NextAccountKeyMade { directory: directory.clone(), key: facts::sealed() },
        C::NextAccountKeyMade { directory: "https://other.test/".to_owned(), key: facts::sealed() },
        C::AccountKeyChanged { directory: directory.clone() },
        C::AccountKeyChanged { directory: directory.clone() },
        C::NextAccountKeyMade { directory: directory.clone(), key: facts::sealed() },
        C::AccountKeyKept { directory: directory.clone() },
        C::AccountKeyKept { directory },
    ];
    let dns = dns.into_iter().map(|change| Body::Dns(Box::new(change)));
    dns.chain(certificates.into_iter().map(|change| Body::Certificates(Box::new(change)))).collect()
}

/// A rotation of the keys that seal, and what is refused on the way.
fn keyring() -> Vec<Body> {
    use KeyringChange as C;
    let node = NodeId(1_000_000);
    let made = |number| C::Made { number, fingerprint: Digest([7; 32]) };
    let rewrapped = |place| Rewrapped { place, sealed: Sealed { kek: 2, ..facts::sealed() } };
    let places = [
        SealedPlace::Authority,
        SealedPlace::InternalIssuer,
        SealedPlace::Token(TokenId([3; 8])),
        SealedPlace::Certificate(CertificateId(2_000_001)),
        SealedPlace::Certificate(CertificateId(2_000_002)),
        SealedPlace::Account(facts::DIRECTORY.to_owned()),
        SealedPlace::External(facts::DIRECTORY.to_owned()),
        SealedPlace::ZoneKey(host("demo.test")),
    ];
    [
        made(1),
        made(2),
        C::Activated(2),
        C::Held { node, number: 2 },
        made(3),
        C::Activated(2),
        C::Retired(1),
        C::Rewrapped(places.map(rewrapped).to_vec()),
        C::Retired(1),
    ]
    .map(|change| Body::Keyring(Box::new(change)))
    .to_vec()
}

/// A certificate is ordered, fails once, is issued and revoked; another one is imported.
fn issuance(list: &mut Vec<Command>) {
    use CertificatesChange as C;
    let directory = facts::DIRECTORY.to_owned();
    let names = vec![host("*.demo.test"), host("demo.test")];
    let account = "https://ca.test/account/1".to_owned();
    let window = Window {
        start: Timestamp(1_000),
        end: Timestamp(3_000),
        selected: Timestamp(2_000),
        explanation: Some("https://ca.test/why".to_owned()),
    };
    let planned = |generation| C::OrderPlanned {
        names: names.clone(),
        generation,
        directory: directory.clone(),
        replaces: false,
    };
    let registered = || C::AccountRegistered {
        directory: directory.clone(),
        url: account.clone(),
        caa: vec!["ca.test".to_owned()],
    };
    let tell = |list: &mut Vec<Command>, change: C| {
        list.push(command(1_800_000_000_000 + list.len() as u64, Body::Certificates(Box::new(change))));
        Revision { lineage: 3, index: list.len() as u64 }
    };
    tell(list, C::IssuersSet(vec![facts::issuer()]));
    tell(list, C::AccountKeyMade { directory: directory.clone(), key: facts::sealed() });
    tell(list, registered());
    tell(list, C::AccountLost { directory: directory.clone(), url: account.clone() });
    tell(list, registered());
    let attempt = tell(list, planned(1));
    // The id that the first order gets.
    let id = facts::applied(list).issuance().upkeeps.keys().next().copied().expect("an upkeep");
    let moved = |generation, attempt, step| C::OrderMoved { id, generation, attempt, step };
    for step in facts::order_steps() {
        tell(list, moved(1, attempt, step.clone()));
        if matches!(step, OrderStep::Finalizing) {
            break;
        }
    }
    tell(list, moved(1, attempt, facts::failed()));
    let attempt = tell(list, planned(2));
    for step in facts::order_steps() {
        tell(list, moved(2, attempt, step));
    }
    tell(list, C::WindowLearned { id, generation: 2, window: Some(window) });
    tell(list, C::RenewalWanted(id));
    tell(list, C::RevocationWanted { id, reason: 4 });
    tell(list, C::Revoked { id, generation: 2 });
    let Body::CertificateIssued(own) = certificate(vec![host("demo.test")]) else { panic!("a certificate") };
    tell(list, C::Imported(*own));
}

/// The catalog of the beginning comes back, and a new history begins.
fn restored(list: &mut Vec<Command>) {
    let mut begun = ClusterState::default();
    for (command, index) in beginning().iter().zip(1..) {
        begun.apply(index, command);
    }
    let (bytes, catalog) = begun.catalog().encode().expect("encoded");
    let (one, other) = bytes.split_at(bytes.len() / 2);
    let from = Revision { lineage: 1, index: 9 };
    for body in [
        Body::RecoveryKeyChanged(RecoveryPublic([8; 32])),
        Body::CatalogStaged { catalog, part: 0, bytes: one.to_vec() },
        Body::CatalogReplaced { catalog, parts: 2, from },
        Body::CatalogStaged { catalog, part: 1, bytes: other.to_vec() },
        Body::CatalogReplaced { catalog, parts: 2, from },
        Body::LineageBegun(Box::new(LineageBegun { lineage: 1, node: NodeId(1), spec: None, from })),
        Body::LineageBegun(Box::new(LineageBegun { lineage: 2, node: NodeId(1), spec: None, from })),
        Body::LineageBegun(Box::new(LineageBegun {
            lineage: 3,
            node: NodeId(1_000_000),
            spec: Some(spec("n9", 9)),
            from,
        })),
    ] {
        list.push(command(1_800_000_000_000 + list.len() as u64, body));
    }
}

/// Records, answers, signing, transfers.
fn dns() -> Vec<Body> {
    use DnsChange as D;
    let record = |data: RecordData| D::RecordAdded { name: host("www.demo.test"), ttl: None, data };
    let key = host("transfer.key");
    let secondary = "192.0.2.53:53".parse().expect("an address");
    let network = "2001:db8::/32".parse().expect("a network");
    let set = RecordSet { ttl: 60, data: vec![RecordData::Other(52, vec![3, 1, 1, 9])] };
    [
        record(RecordData::A([192, 0, 2, 7].into())),
        record(RecordData::A([192, 0, 2, 7].into())),
        record(RecordData::Cname(host("demo.test"))),
        D::RecordAdded {
            name: host("www.demo.test"),
            ttl: Some(77),
            data: RecordData::Txt(b"text".to_vec()),
        },
        D::RecordRemoved {
            name: host("www.demo.test"),
            kind: RecordKind::A,
            data: Some(RecordData::A([192, 0, 2, 7].into())),
        },
        D::RecordsImported {
            zone: host("demo.test"),
            replace: true,
            sets: vec![(host("_443._tcp.demo.test"), set)],
        },
        D::RecordRemoved { name: host("_443._tcp.demo.test"), kind: RecordKind::Other(52), data: None },
        D::PolicySet { resource: ResourceId(4), policy: AnswerPolicy::Nearest },
        D::RegionSet { network, region: Some(slug("eu")) },
        D::RegionSet { network, region: None },
        D::TransferKeySet { name: key.clone(), secret: Some(facts::sealed()) },
        D::SecondarySet { zone: host("demo.test"), address: secondary, key: Some(key.clone()) },
        D::SigningStarted { zone: host("demo.test"), public: vec![1; 64], private: facts::sealed() },
        D::TransferKeySet { name: key.clone(), secret: None },
        D::SecondarySet { zone: host("demo.test"), address: secondary, key: None },
        D::TransferKeySet { name: key, secret: None },
        D::SigningStarted { zone: host("demo.test"), public: vec![1; 64], private: facts::sealed() },
        D::SigningStopped(host("demo.test")),
    ]
    .map(|change| Body::Dns(Box::new(change)))
    .to_vec()
}

/// Shares, balancing, and ports, for the resource 4 that came back with the catalog, and its target 5.
fn traffic() -> Vec<Body> {
    use TrafficChange as T;
    let resource = ResourceId(4);
    let rules = |kind| PortRules {
        proxy_protocol: Some(ProxyProtocol::V2),
        allow: vec!["192.0.2.0/24".parse().expect("a network")],
        deny: vec!["2001:db8::/32".parse().expect("a network")],
        ..PortRules::usual(kind)
    };
    let opened = |kind, rules| T::PortOpened { resource, kind, rules };
    let (game, own, talk) = (PortKind::Tcp(25_565), PortKind::Tcp(443), PortKind::Udp(25_565));
    [
        T::BalancingSet { resource, balancing: Balancing::Address },
        T::BalancingSet { resource: ResourceId(99), balancing: Balancing::Cookie },
        T::ShareSet { target: TargetId(5), share: Share { weight: 3, priority: 1 } },
        T::ShareSet { target: TargetId(5), share: Share { weight: 0, priority: 1 } },
        opened(game, rules(game)),
        opened(talk, rules(talk)),
        opened(talk, PortRules::usual(talk)),
        opened(own, rules(own)),
        opened(PortKind::Tls, PortRules::usual(PortKind::Tls)),
        T::PortClosed { resource, kind: talk },
        T::PortClosed { resource, kind: talk },
        T::LocalSiteSet { site: SiteId(2), nodes: Some(vec![]) },
        T::LocalSiteSet { site: SiteId(2), nodes: Some(vec![NodeId(1_000_000)]) },
        T::LocalSiteSet { site: SiteId(2), nodes: Some(vec![NodeId(99)]) },
        T::LocalSiteSet { site: SiteId(2), nodes: None },
    ]
    .map(|change| Body::Traffic(Box::new(change)))
    .to_vec()
}

/// UDP ports whose targets are told whose datagrams they get.
fn datagrams() -> Vec<Body> {
    let opened = |kind| {
        let rules = PortRules { proxy_protocol: Some(ProxyProtocol::V2Datagrams), ..PortRules::usual(kind) };
        Body::Traffic(Box::new(TrafficChange::PortOpened { resource: ResourceId(4), kind, rules }))
    };
    vec![opened(PortKind::Udp(5353)), opened(PortKind::Tcp(5353))]
}

/// Capacities, regions, and keys for one site and for any number.
fn fabric() -> Vec<Body> {
    use FabricChange as F;
    let id = |letter: &str| letter.repeat(15);
    let capacity = |node, weight| F::CapacitySet { node, capacity: Capacity { weight, sites: Some(500) } };
    let key = |letter: &str, uses, lifetime_s| F::ProvisioningKeyCreated {
        id: id(letter),
        org: slug("acme"),
        name: "branches".to_owned(),
        secret: Digest([7; 32]),
        uses,
        lifetime_s,
    };
    let provisioned = |key: &str, name: Option<&str>, connector: &str| F::SiteProvisioned {
        key: id(key),
        name: name.map(str::to_owned),
        connector_id: id(connector),
        connector_secret: Digest([8; 32]),
    };
    let region = |region: Option<&str>| F::SiteRegionSet { site: SiteId(2), region: region.map(slug) };
    [
        capacity(NodeId(1_000_000), 3),
        capacity(NodeId(1_000_000), 0),
        capacity(NodeId(99), 1),
        region(Some("eu")),
        region(None),
        key("a", Some(1), Some(3600)),
        key("b", None, None),
        key("c", Some(0), None),
        key("c", None, Some(0)),
        provisioned("a", Some("Branch 1"), "d"),
        provisioned("a", None, "e"),
        provisioned("b", None, "f"),
        provisioned("z", None, "g"),
        F::ProvisioningKeyRemoved(id("b")),
        F::ProvisioningKeyRemoved(id("b")),
    ]
    .map(|change| Body::Fabric(Box::new(change)))
    .to_vec()
}

/// Voters, places, and taking apart.
fn membership() -> Vec<Body> {
    vec![
        Body::TokenCreated(Box::new(JoinToken {
            replaces: Some(NodeId(1)),
            ..token(3, Timestamp(1_800_000_000_000))
        })),
        admitted(3, NodeSpec { feature_level: FeatureLevel(3), ..spec("n1", 3) }),
        Body::NodePromoted(NodeId(54)),
        Body::AutopilotChanged(Autopilot {
            stable_ms: 10_000,
            exchange_after_s: None,
            remove_after_s: Some(86_400),
        }),
        Body::AutopilotChanged(Autopilot { stable_ms: u32::MAX, ..Autopilot::default() }),
        Body::LeadershipHanded { from: NodeId(1), to: NodeId(54) },
        Body::NodeAdmin { node: NodeId(1), admin: AdminState::Leaving },
        Body::NodeAdmin { node: NodeId(54), admin: AdminState::Leaving },
        Body::Disbanded { survivor: NodeId(54) },
        Body::CertificateRemoved(CertificateId(6)),
    ]
}

fn later_life() -> Vec<Body> {
    use CatalogChange as C;
    let check =
        HealthCheck { path: Some("/health".to_owned()), interval: 30, timeout: 5, unhealthy_threshold: 3 };
    let data = vec![RecordData::Mx(10, host("mail.demo.test")), RecordData::Mx(20, host("mail.example.org"))];
    let name = |text: &str| text.to_owned();
    let mut bodies = vec![
        Body::NodeChanged { node: NodeId(1), spec: Box::new(spec("n1", 1)) },
        Body::NodeAdmin { node: NodeId(1), admin: AdminState::Drained },
        Body::NodeVerdict { node: NodeId(1), verdict: Verdict::Down },
        Body::SitePlaced { site: SiteId(2), home: NodeId(1), standbys: vec![] },
        Body::ConnectorRegistered {
            site: SiteId(2),
            tunnel_key: TunnelKey([9; 32]),
            version: name("1.2.3"),
            multi_homed: true,
        },
        certificate(vec![host("*.demo.test"), host("demo.test")]),
        Body::SettingsChanged(Box::new(Settings { ttl: 60, ..settings() })),
        Body::TokenCreated(Box::new(token(2, Timestamp(2_000_000)))),
        Body::TokenRevoked(TokenId([2; 8])),
        Body::NodeRemoved(NodeId(4)),
    ];
    let catalog = [
        C::OrgChanged { id: slug("acme"), name: name("Acme Ltd") },
        C::UserCreated { id: None, email: name("Ada@Example.org"), name: name("Ada"), administrator: true },
        C::UserChanged { id: UserId(7), name: name("Ada L."), administrator: false },
        C::RoleCreated { id: Some(RoleId(40)), org: slug("acme"), name: name("Staff") },
        C::MembershipSet { user: UserId(7), org: slug("acme"), roles: Some(vec![RoleId(40)]) },
        C::MembershipSet { user: UserId(7), org: slug("acme"), roles: None },
        C::RoleRemoved(RoleId(40)),
        C::UserRemoved(UserId(7)),
        C::ApiKeyCreated {
            id: name("ABCDEFGHIJKLMNO"),
            name: name("robot"),
            scope: KeyScope::Org(slug("acme")),
            secret: Digest([5; 32]),
        },
        C::ApiKeyRemoved(name("ABCDEFGHIJKLMNO")),
        C::SiteChanged { id: SiteId(2), name: name("Home 2"), enabled: false },
        C::SiteSecretChanged { id: SiteId(2), connector_secret: Digest([6; 32]) },
        C::ResourceChanged { id: ResourceId(4), name: name("Hello 2"), enabled: false },
        C::TargetChanged {
            id: TargetId(5),
            method: Method::Https,
            host: name("backend"),
            port: 8443,
            enabled: false,
            health_check: Some(check),
        },
        C::RecordSetSet {
            name: host("demo.test"),
            kind: pangolin_core::record::RecordKind::Mx,
            set: Some(RecordSet { ttl: 300, data }),
        },
        C::RecordSetSet { name: host("demo.test"), kind: pangolin_core::record::RecordKind::Mx, set: None },
        C::TargetRemoved(TargetId(5)),
        C::ResourceRemoved(ResourceId(4)),
        C::DomainRemoved(DomainId(3)),
        C::SiteRemoved(SiteId(2)),
        C::OrgRemoved(slug("acme")),
    ];
    bodies.extend(catalog.into_iter().map(|change| Body::Catalog(Box::new(change))));
    bodies
}

fn upgrades() -> Vec<Body> {
    vec![
        Body::Upgrade(UpgradeChange::Started { rollback: false }),
        Body::Upgrade(UpgradeChange::NodeBegun(NodeId(1))),
        Body::Upgrade(UpgradeChange::NodeDone(NodeId(1))),
        Body::Upgrade(UpgradeChange::Started { rollback: true }),
        Body::Upgrade(UpgradeChange::Finished),
        Body::NodeChanged {
            node: NodeId(1),
            spec: Box::new(NodeSpec { feature_level: FeatureLevel(3), ..spec("n1", 1) }),
        },
        Body::FeatureLevelRaised(FeatureLevel(3)),
    ]
}

/// The lines as they are now: name, bytes, outcome.
fn lines() -> Vec<String> {
    let mut state = ClusterState::default();
    let commands = list();
    let indexed = commands.iter().zip(1..);
    indexed
        .map(|(command, index)| {
            let bytes = codec::encode(command).expect("encoded");
            let outcome = state.apply(index, command);
            format!("{} {} {outcome:?}", variant(&command.body), hex::encode(bytes))
        })
        .collect()
}

#[test]
fn no_command_has_changed_its_bytes_or_its_outcome() {
    let now = lines();
    let golden: Vec<&str> = GOLDEN.lines().filter(|line| !line.starts_with('#')).collect();
    for (number, (golden, now)) in golden.iter().zip(&now).enumerate() {
        assert_eq!(
            golden, now,
            "command {number} is encoded or answered in another way than before: a cluster with nodes of both \
             versions would fall apart. Make a new variant instead."
        );
    }
    let mut missing = String::new();
    for line in &now[golden.len().min(now.len())..] {
        writeln!(missing, "{line}").expect("text");
    }
    assert!(missing.is_empty(), "append these lines to core/tests/golden/commands.txt:\n{missing}");
    assert_eq!(golden.len(), now.len(), "golden commands were taken out of the list");
}

#[test]
fn every_variant_is_among_the_golden_ones() {
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for command in list() {
        *seen.entry(variant(&command.body)).or_default() += 1;
    }
    assert_eq!(seen.len(), VARIANTS, "{:?}", seen.keys());
}

#[test]
fn golden_bytes_are_still_read() {
    let commands = list();
    for (line, command) in GOLDEN.lines().filter(|line| !line.starts_with('#')).zip(&commands) {
        let bytes = hex::decode(line.split(' ').nth(1).expect("bytes")).expect("hex");
        let read: Command = codec::decode(&bytes, codec::COMMAND_MAX).expect("decoded");
        assert_eq!(&read, command);
    }
}
