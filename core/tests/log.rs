//! What holds for every log, however strange.

#[allow(dead_code, reason = "each test file uses its own part of the made-up facts")]
mod facts;

use std::collections::BTreeSet;

use facts::any;
use pangolin_core::{
    Body, CertificateId, ClusterState, Command, NodeId, Observations, Outcome, Report, SiteId, Timestamp,
    codec,
    decide::decide,
    fabric::{Capacity, Fabric},
    keyring::KeyringChange,
    observation::Seen,
    plan,
    record::{RecordData, RecordKind, Sealed, Site},
    traffic::PortKind,
    why::{About, why},
};
use proptest::{collection::vec, prelude::*};

type Log = Vec<Option<Command>>;

fn step(state: &mut ClusterState, index: u64, entry: Option<&Command>) -> Option<Outcome> {
    match entry {
        Some(command) => Some(state.apply(index, command)),
        None => {
            state.advance(index);
            None
        }
    }
}

fn applied(log: &Log) -> ClusterState {
    let mut state = ClusterState::default();
    for (entry, index) in log.iter().zip(1..) {
        step(&mut state, index, entry.as_ref());
    }
    state
}

/// Whether everything that a decision tells of is the same in two states.
fn same(before: &ClusterState, after: &ClusterState) -> bool {
    let leads = |state: &ClusterState| state.leadership().map(|leads| (leads.term, leads.node));
    before.cluster() == after.cluster()
        && before.settings() == after.settings()
        && leads(before) == leads(after)
        && before.feature_level() == after.feature_level()
        && before.upgrade() == after.upgrade()
        && before.autopilot() == after.autopilot()
        && before.recovery_key() == after.recovery_key()
        && before.nodes() == after.nodes()
        && before.tokens() == after.tokens()
        && before.orgs() == after.orgs()
        && before.users() == after.users()
        && before.roles() == after.roles()
        && before.api_keys() == after.api_keys()
        && before.sites().values().map(told_of).eq(after.sites().values().map(told_of))
        && before.domains() == after.domains()
        && before.resources() == after.resources()
        && before.targets() == after.targets()
        && before.record_sets() == after.record_sets()
        && before.placements() == after.placements()
        && before.connectors() == after.connectors()
        && before.dns() == after.dns()
        && before.traffic() == after.traffic()
        && told_fabric(before) == told_fabric(after)
        && told_certificates(before) == told_certificates(after)
        && told_issuance(before) == told_issuance(after)
        && told_keys(before) == told_keys(after)
}

/// What is told of the tunnel fabric: not which site came of a key last.
fn told_fabric(state: &ClusterState) -> Fabric {
    let mut fabric = state.fabric().clone();
    let ids: Vec<String> = fabric.provisioning_keys.keys().cloned().collect();
    for id in ids {
        fabric.provisioning_keys.get_mut(&id).expect("known").last = None;
    }
    fabric
}

/// What is told of the keys that seal: not which nodes hold them.
fn told_keys(state: &ClusterState) -> (u32, Option<u32>, u32) {
    let keys = state.keys();
    (keys.active_number(), keys.next.map(|next| next.number), keys.retired)
}

/// Certificates without how their keys are sealed, which concerns nobody.
fn told_certificates(state: &ClusterState) -> Vec<(CertificateId, u64, u64)> {
    state.certificates().values().map(|c| (c.id, c.generation, c.revision.index)).collect()
}

/// What is told of issuers and orders: neither what was asked of late, nor how keys are sealed.
fn told_issuance(state: &ClusterState) -> String {
    let mut issuance = state.issuance().clone();
    issuance.spent = Default::default();
    issuance.sources = Default::default();
    // What is held is told when it begins, not when it is forgotten.
    issuance.held = Default::default();
    let plain = |sealed: &mut Sealed| *sealed = Sealed { kek: 0, wrapped_key: vec![], content: vec![] };
    let directories: Vec<String> = issuance.accounts.keys().cloned().collect();
    for directory in directories {
        plain(&mut issuance.accounts.get_mut(&directory).expect("known").key);
    }
    let ids: Vec<CertificateId> = issuance.upkeeps.keys().copied().collect();
    for id in ids {
        let order = issuance.upkeeps.get_mut(&id).expect("known").order.as_mut();
        if let Some(key) = order.and_then(|order| order.key.as_mut()) {
            plain(key);
        }
    }
    format!("{issuance:?}")
}

/// A site without its count of configurations, which follows from other changes.
fn told_of(site: &Site) -> Site {
    Site { config_version: 0, ..site.clone() }
}

fn no_doubles<T: Ord + std::fmt::Debug>(what: &str, values: impl Iterator<Item = T>) {
    let mut seen = BTreeSet::new();
    for value in values {
        assert!(!seen.contains(&value), "{what} {value:?} twice");
        seen.insert(value);
    }
}

/// What is true of every state.
fn check(state: &ClusterState) {
    let nodes = || state.nodes().values();
    no_doubles("node name", nodes().map(|n| &n.spec.name));
    let in_place = nodes().filter(|n| n.replaced_by.is_none());
    no_doubles("peer address", in_place.map(|n| n.spec.peer_address));
    let sites = || state.sites().values();
    no_doubles("tunnel address", nodes().map(|n| n.tunnel_address).chain(sites().map(|s| s.address)));
    no_doubles("connector id", sites().map(|s| &s.connector_id));
    no_doubles("site name", sites().map(|s| (&s.org, &s.nice_id)));
    let resources = || state.resources().values();
    no_doubles("resource name", resources().map(|r| (&r.org, &r.nice_id)));
    let node_hosts = state
        .settings()
        .into_iter()
        .flat_map(|s| nodes().filter_map(|n| s.zone.child(n.spec.name.as_str()).ok()));
    let hosts = resources().map(|r| r.host.clone()).chain(state.settings().map(|s| s.control_host.clone()));
    no_doubles("host", hosts.chain(node_hosts));
    no_doubles("tunnel port", state.targets().values().map(|t| (t.site, t.tunnel_port)));
    no_doubles("tunnel key of a connector", state.connectors().values().map(|c| c.tunnel_key));
    no_doubles("domain", state.domains().values().map(|d| &d.name));
    no_doubles("e-mail address", state.users().values().map(|u| &u.email));
    no_doubles("role", state.roles().values().map(|r| (&r.org, &r.name)));
    no_doubles("names of a certificate", state.certificates().values().map(|c| &c.names));

    let org = |id| assert!(state.orgs().contains_key(id), "{id} is used, but gone");
    sites().for_each(|s| org(&s.org));
    resources().for_each(|r| org(&r.org));
    state.domains().values().for_each(|d| org(&d.org));
    state.roles().values().for_each(|r| org(&r.org));
    for resource in resources() {
        let domain = state.domains().get(&resource.domain).expect("the domain of a resource");
        assert_eq!(domain.org, resource.org);
        assert!(resource.host.is_within(&domain.name));
    }
    for target in state.targets().values() {
        let resource = state.resources().get(&target.resource).expect("the resource of a target");
        let site = state.sites().get(&target.site).expect("the site of a target");
        assert_eq!(resource.org, site.org, "a target of one organisation behind another's site");
    }
    for user in state.users().values() {
        for (member_of, roles) in &user.memberships {
            org(member_of);
            assert!(roles.iter().all(|role| state.roles().get(role).is_some_and(|r| r.org == *member_of)));
        }
    }
    assert!(state.placements().keys().all(|site| state.sites().contains_key(site)));
    assert!(state.connectors().keys().all(|site| state.sites().contains_key(site)));
    for placement in state.placements().values() {
        assert!(!placement.standbys.contains(&placement.home));
    }
    let traffic = state.traffic();
    assert!(traffic.balancing.keys().all(|resource| state.resources().contains_key(resource)));
    assert!(traffic.shares.keys().all(|target| state.targets().contains_key(target)));
    assert!(traffic.local_sites.keys().all(|site| state.sites().contains_key(site)));
    assert!(traffic.ports.keys().all(|(resource, _)| state.resources().contains_key(resource)));
    assert!(traffic.ports.iter().all(|((_, kind), rules)| rules.check(*kind).is_ok()));
    no_doubles("port", traffic.ports.keys().map(|(_, kind)| *kind).filter(|kind| *kind != PortKind::Tls));
    let fabric = state.fabric();
    assert!(fabric.capacities.keys().all(|node| state.nodes().contains_key(node)));
    assert!(fabric.capacities.values().all(|c| c.check().is_ok() && *c != Capacity::default()));
    assert!(fabric.regions.keys().all(|site| state.sites().contains_key(site)));
    for (id, key) in &fabric.provisioning_keys {
        org(&key.org);
        assert!(*id == key.id && key.uses.is_none_or(|uses| key.used <= uses));
    }
    for (name, _) in state.record_sets().keys().filter(|(_, kind)| *kind == RecordKind::Cname) {
        let beside = state.record_sets().keys().filter(|(other, _)| other == name).count();
        assert_eq!(beside, 1, "a CNAME beside other records at {name}");
    }
}

/// What is true of every step.
fn check_step(before: &ClusterState, after: &ClusterState) {
    assert!(after.revision() >= before.revision(), "the revision went back");
    assert!(after.time() >= before.time(), "time went back");
    for (site, placement) in before.placements() {
        if let Some(now) = after.placements().get(site) {
            assert!(now.epoch >= placement.epoch, "the epoch of site {site} went back");
            assert!(now == placement || now.epoch > placement.epoch, "site {site} moved within an epoch");
        }
    }
    if let (Some(was), Some(is)) = (before.leadership(), after.leadership()) {
        assert!(is.term >= was.term, "the term went back");
    }
    for (id, node) in before.nodes() {
        if let Some(now) = after.nodes().get(id) {
            assert_eq!(now.spec.spki, node.spec.spki, "node {id} took another key");
            assert_eq!(now.tunnel_address, node.tunnel_address, "node {id} took another tunnel address");
        }
    }
}

fn observations() -> impl Strategy<Value = (Observations, Timestamp)> {
    let seen = (any::<bool>(), 0..5000u64).prop_map(|(alive, since)| Seen { alive, since: Timestamp(since) });
    let report = (
        0..6000u64,
        proptest::collection::btree_map((1..10u64).prop_map(NodeId), seen.clone(), 0..6),
        proptest::collection::btree_map((1..10u64).prop_map(SiteId), seen, 0..4),
    )
        .prop_map(|(at, peers, tunnels)| Report {
            at: Timestamp(at),
            peers,
            tunnels,
            ..Report::default()
        });
    (vec((1..10u64, 0..6000u64, report), 0..6), 0..6000u64).prop_map(|(reports, now)| {
        let mut seen = Observations::default();
        for (node, arrived, report) in reports {
            seen.insert(NodeId(node), Timestamp(arrived), report);
        }
        (seen, Timestamp(now))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_log_gives_the_same_bytes_in_one_go_or_through_snapshots(log in any::log(), cuts in vec(0..70usize, 0..3)) {
        let whole = applied(&log);
        let mut copy = ClusterState::default();
        for (position, (entry, index)) in log.iter().zip(1..).enumerate() {
            if cuts.contains(&position) {
                copy = ClusterState::decode(&copy.encode().expect("encoded")).expect("decoded");
            }
            // The other copy also gets its commands from the wire.
            let bytes = codec::encode(entry).expect("encoded");
            let entry: Option<Command> = codec::decode(&bytes, codec::COMMAND_MAX).expect("decoded");
            step(&mut copy, index, entry.as_ref());
        }
        prop_assert_eq!(&whole, &copy);
        prop_assert_eq!(whole.encode().expect("encoded"), copy.encode().expect("encoded"));
        prop_assert_eq!(whole.digest().expect("a digest"), copy.digest().expect("a digest"));
    }

    #[test]
    fn names_addresses_and_ports_stay_unique_and_nothing_goes_back(log in any::log()) {
        let mut state = ClusterState::default();
        for (entry, index) in log.iter().zip(1..) {
            let before = state.clone();
            step(&mut state, index, entry.as_ref());
            check(&state);
            check_step(&before, &state);
        }
    }

    #[test]
    fn every_change_leaves_one_decision_and_nothing_else_leaves_any(log in any::log()) {
        let mut state = ClusterState::default();
        for (entry, index) in log.iter().zip(1..) {
            let before = state.clone();
            let outcome = step(&mut state, index, entry.as_ref());
            let new = state.decisions().since(before.revision());
            prop_assert!(new.len() <= 1);
            prop_assert_eq!(state.decisions().len(), before.decisions().len() + new.len(), "few enough to be kept");
            // What these tell leaves no trace in the records; a repeat tells nothing again.
            let told = entry.as_ref().is_some_and(|command| {
                let repeated = command.request.is_some_and(|request| before.outcome_of(request).is_some());
                !repeated
                    && match &command.body {
                        Body::LeadershipHanded { from, to } => from != to,
                        body => matches!(body, Body::CatalogReplaced { .. } | Body::LineageBegun(_)),
                    }
            });
            // With which key something is sealed concerns nobody.
            let sealed_anew = entry.as_ref().is_some_and(|command| {
                matches!(&command.body, Body::Keyring(change) if matches!(**change, KeyringChange::Rewrapped(_)))
            });
            if sealed_anew || !matches!(outcome, Some(Outcome::Done(_))) || (same(&before, &state) && !told) {
                prop_assert!(new.is_empty(), "{:?} changed nothing", entry);
                continue;
            }
            prop_assert_eq!(new.len(), 1, "{:?} left no decision", entry);
            let (decision, command) = (new[0], entry.as_ref().expect("a command"));
            prop_assert_eq!((decision.revision, decision.at), (state.revision(), state.time()));
            prop_assert_eq!(&decision.cause, &command.cause);
            prop_assert!(!decision.changes.is_empty() && !decision.text().is_empty());
        }
    }

    #[test]
    fn every_state_can_be_asked_why_and_its_copy_says_the_same(log in any::log()) {
        let state = applied(&log);
        let copy = ClusterState::decode(&state.encode().expect("encoded")).expect("decoded");
        let nodes = (0..12).map(NodeId).map(About::Node);
        let sites = (0..12).map(SiteId).map(About::Site);
        let hosts = ["demo.test", "a.demo.test", "control.demo.test", "n1.demo.test", "x.y.demo.test", "example.org"];
        let known = state.resources().values().map(|resource| resource.host.clone());
        let hosts: Vec<_> = hosts.map(facts::host).into_iter().chain(known).collect();
        let hosts = hosts.into_iter().flat_map(|host| [About::Host(host.clone()), About::Certificate(host)]);
        for about in nodes.chain(sites).chain(hosts) {
            let text = why(&state, &about).map(|explanation| explanation.to_string());
            prop_assert_eq!(&text, &why(&copy, &about).map(|explanation| explanation.to_string()));
            prop_assert!(text.is_none_or(|text| text.lines().count() >= 2));
        }
    }

    #[test]
    fn the_addresses_that_why_tells_are_those_that_dns_answers(log in any::log()) {
        let state = applied(&log);
        let plan = plan(&state, NodeId(1));
        let own: BTreeSet<_> = state.record_sets().keys().map(|(name, _)| name).collect();
        for resource in state.resources().values().filter(|r| r.enabled && !own.contains(&r.host)) {
            let sets = plan.dns.zones.iter().find_map(|zone| zone.sets.get(&resource.host));
            // At the top of a zone there are other records as well.
            let answered = sets.into_iter().flatten().flat_map(|(_, set)| &set.data).filter_map(|data| match data {
                RecordData::A(address) => Some(address.to_string()),
                RecordData::Aaaa(address) => Some(address.to_string()),
                _ => None,
            });
            let answered: Vec<String> = answered.collect();
            let answered = if answered.is_empty() { "no address".to_owned() } else { answered.join(", ") };
            let text = why(&state, &About::Host(resource.host.clone())).expect("a host").to_string();
            let expected = format!("DNS answers {answered} (TTL ");
            prop_assert!(text.contains(&expected), "{expected}\n{text}");
        }
    }

    #[test]
    fn a_refusal_changes_nothing(log in any::log()) {
        let mut state = ClusterState::default();
        for (entry, index) in log.iter().zip(1..) {
            // Without a request id, nothing is remembered of it either.
            let Some(command) = entry.as_ref().map(|c| Command { request: None, ..c.clone() }) else { continue };
            let mut untouched = state.clone();
            if let Outcome::Refused(_) = state.apply(index, &command) {
                untouched.advance(index);
                // Time goes on all the same; the quickest way to say so is to let it.
                prop_assert_eq!(state.time(), untouched.time().max(command.at));
                prop_assert_eq!(state.nodes(), untouched.nodes());
                prop_assert_eq!(state.tokens(), untouched.tokens());
                prop_assert_eq!(state.orgs(), untouched.orgs());
                prop_assert_eq!(state.users(), untouched.users());
                prop_assert_eq!(state.sites(), untouched.sites());
                prop_assert_eq!(state.domains(), untouched.domains());
                prop_assert_eq!(state.resources(), untouched.resources());
                prop_assert_eq!(state.targets(), untouched.targets());
                prop_assert_eq!(state.placements(), untouched.placements());
                prop_assert_eq!(state.certificates(), untouched.certificates());
                prop_assert_eq!(state.settings(), untouched.settings());
            }
        }
    }

    #[test]
    fn a_repeated_request_gets_the_first_answer_and_is_not_done_twice(log in any::log(), command in any::command()) {
        let mut state = applied(&log);
        let index = log.len() as u64;
        let client = pangolin_core::id::ClientId([9; 16]);
        let request = Some(pangolin_core::RequestId { client, serial: 1 });
        let command = Command { request, ..command };
        let first = state.apply(index + 1, &command);
        let done_once = state.clone();
        let again = state.apply(index + 2, &command);
        prop_assert_eq!(&first, &again);
        let mut expected = done_once;
        expected.advance(index + 2);
        prop_assert_eq!(&state, &expected);
        let recalled = state.outcome_of(command.request.expect("a request")).map(|(_, outcome)| outcome);
        prop_assert_eq!(recalled, Some(first));
    }

    #[test]
    fn every_state_has_a_plan_for_every_node(log in any::log()) {
        let state = applied(&log);
        for node in (0..12).map(NodeId).chain(state.nodes().keys().copied()) {
            let plan = plan(&state, node);
            prop_assert_eq!(plan.revision, state.revision());
            for zone in &plan.dns.zones {
                for (owner, sets) in &zone.sets {
                    prop_assert!(owner.is_within(&zone.apex));
                    prop_assert!(sets.values().all(|set| !set.data.is_empty()));
                    for (kind, set) in sets {
                        prop_assert!(set.data.iter().all(|d| d.kind() == *kind));
                    }
                }
            }
            if state.nodes().contains_key(&node) && state.settings().is_some() {
                for site in plan.tunnel.sites.values() {
                    prop_assert!(site.offers.iter().all(|id| plan.tunnel.nodes.contains_key(id)));
                }
            }
        }
    }

    #[test]
    fn the_leader_comes_to_rest_on_every_state(log in any::log(), (seen, now) in observations()) {
        let mut state = applied(&log);
        let mut index = log.len() as u64;
        let Some(leader) = state.leadership().map(|l| l.node) else { return Ok(()) };
        // Verdicts come first, then the placements that follow from them.
        for _ in 0..3 {
            for command in decide(&state, &seen, leader, now) {
                index += 1;
                let outcome = state.apply(index, &command);
                prop_assert!(matches!(outcome, Outcome::Done(_)), "{} was refused: {:?}", command, outcome);
                check(&state);
            }
        }
        prop_assert_eq!(decide(&state, &seen, leader, now), vec![]);
    }

    #[test]
    fn bytes_that_are_no_command_are_refused_and_never_panic(bytes in vec(any::<u8>(), 0..300)) {
        let _ = codec::decode::<Command>(&bytes, codec::COMMAND_MAX);
        let _ = ClusterState::decode(&bytes);
    }

    #[test]
    fn a_damaged_command_never_panics(command in any::command(), at in any::<proptest::sample::Index>(), bit in 0..8u8) {
        let mut bytes = codec::encode(&command).expect("encoded");
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if let Ok(read) = codec::decode::<Command>(&bytes, codec::COMMAND_MAX) {
            ClusterState::default().apply(1, &read);
        }
    }
}
