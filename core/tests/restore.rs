//! What a restore never does: bring back what was revoked or consumed, or use a number twice.

#[allow(dead_code, reason = "each test file uses its own part of the made-up facts")]
mod facts;

use std::collections::BTreeMap;

use facts::{any, beginning, command, spec};
use pangolin_core::{
    Body, CatalogChange, ClusterState, Command, Epoch, NodeId, Object, Outcome, Refusal, ResourceId,
    Revision, SiteId, TargetId,
    command::LineageBegun,
    dns::{AnswerPolicy, DnsChange},
    issuance::CertificatesChange,
    record::Digest,
    state::{Catalog, begin_index},
    traffic::{Balancing, PortKind, PortRules, Share, TrafficChange},
};
use proptest::prelude::*;

type Log = Vec<Option<Command>>;

fn run(state: &mut ClusterState, log: &Log, mut seen: impl FnMut(&ClusterState)) {
    for entry in log {
        let index = state.revision().index + 1;
        match entry {
            Some(command) => drop(state.apply(index, command)),
            None => state.advance(index),
        }
        seen(state);
    }
}

/// Puts `catalog` in the place of the present one, as a node does, in small parts.
fn restore(state: &mut ClusterState, catalog: &Catalog) -> Outcome {
    let (bytes, digest) = catalog.encode().expect("encoded");
    let mut apply = |body| {
        let index = state.revision().index + 1;
        state.apply(index, &command(0, body))
    };
    let chunks: Vec<_> = bytes.chunks(100).collect();
    for (chunk, part) in chunks.iter().zip(0..) {
        let staged = apply(Body::CatalogStaged { catalog: digest, part, bytes: chunk.to_vec() });
        assert!(matches!(staged, Outcome::Done(_)), "{staged:?}");
    }
    let parts = u32::try_from(chunks.len()).expect("few");
    apply(Body::CatalogReplaced { catalog: digest, parts, from: Revision::default() })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn nothing_revoked_or_consumed_revives_and_no_number_is_used_twice(early in any::log(), late in any::log()) {
        let mut highest: BTreeMap<SiteId, Epoch> = BTreeMap::new();
        let mut note = |state: &ClusterState| {
            for (site, placement) in state.placements() {
                let known = highest.entry(*site).or_default();
                *known = (*known).max(placement.epoch);
            }
        };
        let mut state = ClusterState::default();
        run(&mut state, &early, &mut note);
        let catalog = state.catalog();
        run(&mut state, &late, &mut note);

        if state.cluster().is_none() {
            return Ok(());
        }
        let before = state.clone();
        let outcome = restore(&mut state, &catalog);
        if let Outcome::Refused(refusal) = &outcome {
            // Only where nodes or settings have changed meanwhile so that the old names clash with them.
            let clash = matches!(refusal, Refusal::NameTaken { .. } | Refusal::Invalid(_));
            prop_assert!(clash, "{refusal:?}");
            prop_assert_eq!(before.catalog(), state.catalog());
            return Ok(());
        }
        prop_assert_eq!(before.nodes(), state.nodes());
        prop_assert_eq!(before.tokens(), state.tokens());
        prop_assert_eq!(before.certificates(), state.certificates());
        prop_assert_eq!(before.leadership(), state.leadership());
        prop_assert_eq!(before.remembered_requests(), state.remembered_requests());
        prop_assert!(before.time() <= state.time() && before.revision() < state.revision());
        for (id, key) in state.api_keys() {
            prop_assert_eq!(Some(key), before.api_keys().get(id), "API key {} revived", id);
        }
        for (id, site) in state.sites() {
            match before.sites().get(id) {
                Some(was) => {
                    prop_assert_eq!(&site.connector_id, &was.connector_id);
                    prop_assert_eq!(&site.connector_secret, &was.connector_secret);
                    prop_assert!(site.config_version > was.config_version || before.revision().index == 0);
                }
                None => prop_assert_eq!(site.connector_secret, Digest([0; 32])),
            }
        }
        for (site, placement) in state.placements() {
            prop_assert_eq!(Some(placement), before.placements().get(site));
        }
        // Sites that came back are placed above every epoch that they ever had.
        for site in state.sites().keys().copied().collect::<Vec<_>>() {
            let Some(home) = state.nodes().keys().next().copied() else { continue };
            let index = state.revision().index + 1;
            state.apply(index, &command(0, Body::SitePlaced { site, home, standbys: vec![] }));
            let epoch = state.placements().get(&site).expect("placed").epoch;
            prop_assert!(epoch > highest.get(&site).copied().unwrap_or_default(), "site {site}: epoch {epoch}");
        }
        // What is made next has a number that nothing before it had.
        let change = CatalogChange::UserCreated {
            id: None,
            email: "new@restored.example".to_owned(),
            name: "New".to_owned(),
            administrator: false,
        };
        let index = state.revision().index + 1;
        if let Outcome::Done(Some(Object::User(id))) =
            state.apply(index, &command(0, Body::Catalog(Box::new(change))))
        {
            for old in [&before, &state] {
                let used = old.sites().keys().map(|id| id.0).chain(old.resources().keys().map(|id| id.0));
                let used = used.chain(old.domains().keys().map(|id| id.0)).chain(old.targets().keys().map(|id| id.0));
                prop_assert!(used.max().unwrap_or(0) < id.0);
            }
        }
    }

    #[test]
    fn a_new_lineage_keeps_what_was_wanted_and_begins_behind_every_number(log in any::log()) {
        let mut state = ClusterState::default();
        run(&mut state, &log, |_| {});
        let before = state.clone();
        let index = begin_index(before.revision().index);
        let begun = LineageBegun {
            lineage: before.revision().lineage + 1,
            node: NodeId(index),
            spec: Some(spec("new", 99)),
            from: before.revision(),
        };
        let outcome = state.apply(index, &command(0, Body::LineageBegun(Box::new(begun))));
        if matches!(outcome, Outcome::Refused(_)) {
            return Ok(());
        }
        prop_assert_eq!(before.catalog(), state.catalog());
        prop_assert_eq!(before.api_keys(), state.api_keys());
        prop_assert_eq!(before.certificates(), state.certificates());
        prop_assert!(state.revision() > before.revision());
        prop_assert!(state.tokens().is_empty());
        prop_assert_eq!(state.nodes().keys().copied().collect::<Vec<_>>(), vec![NodeId(index)]);
    }

    #[test]
    fn staged_bytes_that_are_no_catalog_are_refused(bytes in proptest::collection::vec(any::<u8>(), 1..300)) {
        use sha2::Digest as _;
        let mut state = ClusterState::default();
        for (command, index) in beginning().iter().zip(1..) {
            state.apply(index, command);
        }
        let before = state.catalog();
        let catalog = Digest(sha2::Sha256::digest(&bytes).into());
        state.apply(20, &command(0, Body::CatalogStaged { catalog, part: 0, bytes }));
        let outcome = state.apply(21, &command(0, Body::CatalogReplaced { catalog, parts: 1, from: Revision::default() }));
        prop_assert!(matches!(outcome, Outcome::Refused(_)));
        prop_assert_eq!(before, state.catalog());
    }
}

#[test]
fn what_was_changed_and_removed_comes_back_but_not_the_credentials() {
    let mut state = ClusterState::default();
    for (command, index) in beginning().iter().zip(1..) {
        state.apply(index, command);
    }
    let then = state.clone();
    let changes = [
        CatalogChange::ResourceRemoved(4.to_string().parse().expect("an id")),
        CatalogChange::SiteRemoved(SiteId(2)),
    ];
    for change in changes {
        let index = state.revision().index + 1;
        let outcome = state.apply(index, &command(index, Body::Catalog(Box::new(change))));
        assert!(matches!(outcome, Outcome::Done(_)), "{outcome:?}");
    }
    assert_eq!(then.catalog().sites_without_credentials(&state).count(), 1);
    assert_eq!(restore(&mut state, &then.catalog()), Outcome::Done(None));
    assert_eq!((state.resources(), state.targets()), (then.resources(), then.targets()));
    let site = state.sites().get(&SiteId(2)).expect("it is back");
    assert_eq!((site.address, site.connector_secret), (then.sites()[&SiteId(2)].address, Digest([0; 32])));
}

#[test]
fn ports_shares_and_local_sites_come_back_with_their_resources_targets_and_sites() {
    let mut state = facts::applied(&beginning());
    let tell = |state: &mut ClusterState, body| {
        let index = state.revision().index + 1;
        let outcome = state.apply(index, &command(0, body));
        assert!(matches!(outcome, Outcome::Done(_)), "{outcome:?}");
    };
    let (resource, kind) = (ResourceId(4), PortKind::Tcp(2222));
    for change in [
        TrafficChange::BalancingSet { resource, balancing: Balancing::Cookie },
        TrafficChange::ShareSet { target: TargetId(5), share: Share { weight: 3, priority: 1 } },
        TrafficChange::PortOpened { resource, kind, rules: PortRules::usual(kind) },
        TrafficChange::LocalSiteSet { site: SiteId(2), nodes: Some(vec![]) },
    ] {
        tell(&mut state, Body::Traffic(Box::new(change)));
    }
    let (catalog, wanted) = (state.catalog(), state.traffic().clone());
    tell(&mut state, Body::Catalog(Box::new(CatalogChange::ResourceRemoved(resource))));
    tell(&mut state, Body::Catalog(Box::new(CatalogChange::SiteRemoved(SiteId(2)))));
    assert!(state.traffic().is_empty(), "all of it was gone with them: {:?}", state.traffic());
    let outcome = restore(&mut state, &catalog);
    assert!(matches!(outcome, Outcome::Done(_)), "{outcome:?}");
    assert_eq!(state.traffic(), &wanted);
}

#[test]
fn how_names_are_answered_and_signed_comes_back_but_no_key_that_was_taken_away() {
    let mut state = facts::applied(&beginning());
    let tell = |state: &mut ClusterState, body| {
        let index = state.revision().index + 1;
        let outcome = state.apply(index, &command(0, body));
        assert!(matches!(outcome, Outcome::Done(_)), "{outcome:?}");
    };
    let dns = |change| Body::Dns(Box::new(change));
    let certificates = |change| Body::Certificates(Box::new(change));
    let (resource, zone, key) = (ResourceId(4), facts::host("demo.test"), facts::host("transfer.key"));
    let address = "192.0.2.53:53".parse().expect("an address");
    let signing = |key: u8| DnsChange::SigningStarted {
        zone: zone.clone(),
        public: vec![key; 64],
        private: facts::sealed(),
    };
    let secondary = |key| DnsChange::SecondarySet { zone: zone.clone(), address, key };
    for change in [
        DnsChange::PolicySet { resource, policy: AnswerPolicy::All },
        DnsChange::RegionSet {
            network: "10.0.0.0/8".parse().expect("a network"),
            region: Some(facts::slug("eu")),
        },
        DnsChange::TransferKeySet { name: key.clone(), secret: Some(facts::sealed()) },
        secondary(Some(key.clone())),
    ] {
        tell(&mut state, dns(change));
    }
    tell(&mut state, certificates(CertificatesChange::IssuersSet(vec![facts::issuer()])));
    let (catalog, wanted) = (state.catalog(), state.dns().clone());
    // All of it is lost.
    tell(&mut state, Body::Catalog(Box::new(CatalogChange::ResourceRemoved(resource))));
    tell(&mut state, dns(secondary(None)));
    tell(&mut state, certificates(CertificatesChange::IssuerRemoved(facts::issuer().name)));
    let mut other = state.clone();
    assert!(matches!(restore(&mut state, &catalog), Outcome::Done(_)));
    assert_eq!(state.dns(), &wanted);
    assert_eq!(state.issuance().issuers, [facts::issuer()]);
    // A key that was taken away does not come back, and a zone that is signed now stays so, with its key.
    tell(&mut other, dns(DnsChange::TransferKeySet { name: key, secret: None }));
    tell(&mut other, dns(signing(7)));
    let signed_otherwise = {
        let mut then = facts::applied(&beginning());
        tell(&mut then, dns(signing(1)));
        then.catalog()
    };
    assert!(matches!(restore(&mut other, &catalog), Outcome::Done(_)));
    assert!(other.dns().transfer_keys.is_empty() && other.dns().secondaries.is_empty());
    assert!(matches!(restore(&mut other, &signed_otherwise), Outcome::Done(_)));
    assert_eq!(other.dns().zone_keys[&zone].public, vec![7; 64]);
    tell(&mut other, dns(DnsChange::SigningStopped(zone.clone())));
    assert!(matches!(restore(&mut other, &signed_otherwise), Outcome::Done(_)));
    assert_eq!(other.dns().zone_keys[&zone].public, vec![1; 64]);
}
