//! Placement, whatever the cluster is like: homes and standbys are in service, every move has its epoch and its cause,
//! the leader comes to rest, and single-homed sites are moved few at a time.

#[allow(dead_code, reason = "each test file uses its own part of the made-up facts")]
mod facts;

use std::collections::BTreeSet;

use facts::{admitted, command, created, slug, spec, token};
use pangolin_core::{
    Body, CatalogChange, ClusterState, Command, NodeId, Observations, Outcome, Report, SiteId, Timestamp,
    decide::decide,
    fabric::{Capacity, FabricChange},
    observation::Seen,
    outcome::Object,
    record::{AdminState, Digest, JoinToken, NodeSpec, TunnelKey, Verdict},
};
use proptest::prelude::*;

/// Single-homed sites that may be moved within a second.
const MOVES_MAX: usize = 50;
/// Rounds of a second within which the leader comes to rest, with the most sites that are made here.
const ROUNDS: u64 = 30;

/// What becomes of a node.
#[derive(Clone, Copy, Debug)]
struct Fate {
    down: bool,
    drained: bool,
}

/// What a site is like, as numbers of nodes.
#[derive(Clone, Debug)]
struct Wish {
    single_homed: bool,
    tunnels: BTreeSet<usize>,
    socket: usize,
    /// Where it was placed by hand, if it was.
    home: Option<usize>,
}

struct World {
    state: ClusterState,
    index: u64,
    nodes: Vec<NodeId>,
}

impl World {
    fn apply(&mut self, command: &Command) -> Option<Object> {
        self.index += 1;
        match self.state.apply(self.index, command) {
            Outcome::Done(made) => made,
            Outcome::Refused(refusal) => panic!("{command} was refused: {refusal}"),
        }
    }

    fn change(&mut self, body: Body) -> Option<Object> {
        self.apply(&command(1000, body))
    }

    fn new(fates: &[Fate]) -> Self {
        let mut world = Self { state: ClusterState::default(), index: 0, nodes: Vec::new() };
        for n in 1..=u8::try_from(fates.len()).expect("few nodes") {
            let name = format!("n{n}");
            if world.nodes.is_empty() {
                world.change(created(spec(&name, n)));
                world.nodes.push(NodeId(1));
                continue;
            }
            world.change(Body::TokenCreated(Box::new(JoinToken { ..token(n, Timestamp(u64::MAX)) })));
            let Some(Object::Node(id)) = world.change(admitted(n, spec(&name, n))) else { panic!("no node") };
            world.nodes.push(id);
        }
        let first = world.nodes[0];
        world.change(Body::LeaderStarted { term: 1, node: first });
        let org = CatalogChange::OrgCreated { id: slug("acme"), name: "Acme".to_owned() };
        world.change(Body::Catalog(Box::new(org)));
        world
    }

    fn add_site(&mut self, number: usize, wish: &Wish) -> SiteId {
        let site = CatalogChange::SiteCreated {
            id: None,
            org: slug("acme"),
            nice_id: None,
            name: format!("site {number}"),
            connector_id: format!("{number:015}"),
            connector_secret: Digest([1; 32]),
        };
        let Some(Object::Site(site)) = self.change(Body::Catalog(Box::new(site))) else { panic!("no site") };
        let mut key = [9; 32];
        key[..8].copy_from_slice(&site.0.to_be_bytes());
        let version = "1".to_owned();
        let multi_homed = !wish.single_homed;
        self.change(Body::ConnectorRegistered { site, tunnel_key: TunnelKey(key), version, multi_homed });
        if let Some(home) = wish.home {
            let home = self.nodes[home % self.nodes.len()];
            self.change(Body::SitePlaced { site, home, standbys: Vec::new() });
        }
        site
    }

    fn suffer(&mut self, fates: &[Fate]) {
        for (node, fate) in self.nodes.clone().into_iter().zip(fates) {
            if fate.drained {
                self.change(Body::NodeAdmin { node, admin: AdminState::Drained });
            }
            // The leader is not called down.
            if fate.down && node != self.nodes[0] {
                self.change(Body::NodeVerdict { node, verdict: Verdict::Down });
            }
        }
    }

    /// What the nodes report that are not down, as if it had long been so.
    fn seen(&self, sites: &[(SiteId, Wish)], fates: &[Fate], now: Timestamp) -> Observations {
        let mut seen = Observations::default();
        let up = |number: usize| number == 0 || !fates[number].down;
        let level = self.state.nodes()[&self.nodes[0]].spec.feature_level;
        for (number, node) in self.nodes.iter().enumerate().filter(|(number, _)| up(*number)) {
            let mut report = Report { at: now, feature_level: level, ..Report::default() };
            for (other, id) in self.nodes.iter().enumerate().filter(|(other, _)| *other != number) {
                report.peers.insert(*id, Seen { alive: up(other), since: Timestamp(0) });
            }
            for (site, wish) in sites {
                if wish.tunnels.iter().any(|at| at % self.nodes.len() == number) {
                    report.tunnels.insert(*site, Seen { alive: true, since: Timestamp(0) });
                }
                if wish.socket % self.nodes.len() == number {
                    report.sockets.insert(*site);
                }
            }
            seen.insert(*node, now, report);
        }
        seen
    }
}

/// Rounds of ten seconds, for what the leader does late, one site at a time.
const LONG: u64 = 400;
/// Rounds in which it has had nothing to do for longer than anything waits.
const QUIET: u64 = 70;

/// How much a node takes, and where it is.
#[derive(Clone, Copy, Debug)]
struct Place {
    weight: u16,
    most: Option<u32>,
    abroad: bool,
}

impl World {
    fn arrange(&mut self, places: &[Place]) {
        for (node, place) in self.nodes.clone().into_iter().zip(places) {
            let capacity = Capacity { weight: place.weight, sites: place.most };
            self.change(Body::Fabric(Box::new(FabricChange::CapacitySet { node, capacity })));
            let known = self.state.nodes()[&node].spec.clone();
            let region = Some(slug(if place.abroad { "us" } else { "eu" }));
            self.change(Body::NodeChanged { node, spec: Box::new(NodeSpec { region, ..known }) });
        }
    }

    /// Lets the leader decide every ten seconds until it has had nothing to say for longer than anything waits; whether it
    /// came to that.
    fn settle(&mut self, sites: &[(SiteId, Wish)], fates: &[Fate]) -> bool {
        let leader = self.nodes[0];
        let mut quiet = 0;
        for round in 0..LONG {
            let now = Timestamp(100_000 + round * 10_000);
            let commands = decide(&self.state, &self.seen(sites, fates, now), leader, now);
            quiet = if commands.is_empty() { quiet + 1 } else { 0 };
            for command in commands {
                self.apply(&command);
            }
            if quiet > QUIET {
                return true;
            }
        }
        false
    }
}

fn places() -> impl Strategy<Value = Vec<Place>> {
    let place = (1..4_u16, prop::option::of(1..20_u32), any::<bool>());
    prop::collection::vec(place.prop_map(|(weight, most, abroad)| Place { weight, most, abroad }), 5)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn whatever_nodes_take_and_wherever_they_are_the_leader_comes_to_rest(
        places in places(),
        wishes in prop::collection::vec((wishes(), prop::option::of(any::<bool>())), 1..40),
        nodes in 1..6_usize,
    ) {
        let fates = vec![Fate { down: false, drained: false }; nodes];
        let mut world = World::new(&fates);
        for node in world.nodes.clone() {
            world.change(Body::NodeVerdict { node, verdict: Verdict::Up });
        }
        world.arrange(&places);
        let mut sites = Vec::new();
        for (number, (wish, abroad)) in wishes.iter().enumerate() {
            // A tunnel that does not follow its home would draw it back for ever.
            let tunnels = if wish.single_homed { BTreeSet::new() } else { wish.tunnels.clone() };
            let wish = Wish { tunnels, ..wish.clone() };
            let site = world.add_site(number, &wish);
            if let Some(abroad) = abroad {
                let region = Some(slug(if *abroad { "us" } else { "eu" }));
                world.change(Body::Fabric(Box::new(FabricChange::SiteRegionSet { site, region })));
            }
            sites.push((site, wish));
        }
        prop_assert!(world.settle(&sites, &fates), "it goes on and on");
        // A node is home to more than it shall be only where no other one has room for what it could give away.
        let homes = |node: &NodeId| world.state.placements().values().filter(|p| p.home == *node).count();
        let most = |node: &NodeId| {
            let most = world.state.fabric().capacity(*node).sites;
            most.map_or(usize::MAX, |most| usize::try_from(most).expect("few"))
        };
        let room: Vec<NodeId> = world.nodes.iter().copied().filter(|node| homes(node) < most(node)).collect();
        for (site, wish) in sites.iter().filter(|(_, wish)| !wish.single_homed) {
            let home = world.state.placements()[site].home;
            prop_assert!(homes(&home) <= most(&home) || room.is_empty(), "{wish:?} stays where there is no room");
        }
    }
}

fn wishes() -> impl Strategy<Value = Wish> {
    let tunnels = prop::collection::btree_set(0..5_usize, 0..3);
    (any::<bool>(), tunnels, 0..5_usize, prop::option::weighted(0.8, 0..5_usize))
        .prop_map(|(single_homed, tunnels, socket, home)| Wish { single_homed, tunnels, socket, home })
}

fn fates() -> impl Strategy<Value = Vec<Fate>> {
    let fate = (prop::bool::weighted(0.3), prop::bool::weighted(0.3));
    prop::collection::vec(fate.prop_map(|(down, drained)| Fate { down, drained }), 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn the_leader_comes_to_rest_with_every_site_on_nodes_in_service(
        fates in fates(),
        wishes in prop::collection::vec(wishes(), 1..150),
    ) {
        let mut world = World::new(&fates);
        let sites: Vec<(SiteId, Wish)> =
            wishes.iter().enumerate().map(|(n, wish)| (world.add_site(n, wish), wish.clone())).collect();
        world.suffer(&fates);
        let single: BTreeSet<SiteId> =
            sites.iter().filter(|(_, wish)| wish.single_homed).map(|(site, _)| *site).collect();
        let leader = world.nodes[0];
        let mut rested = false;
        for round in 0..ROUNDS {
            // Long after all that has happened, and a second later each time.
            let now = Timestamp(100_000 + round * 1000);
            let commands = decide(&world.state, &world.seen(&sites, &fates, now), leader, now);
            if commands.is_empty() {
                rested = true;
                break;
            }
            let mut moved = 0;
            for command in commands {
                prop_assert!(!command.cause.reason.is_empty());
                let Body::SitePlaced { site, home, .. } = &command.body else {
                    world.apply(&command);
                    continue;
                };
                let before = world.state.placements().get(site).cloned();
                world.apply(&command);
                let after = &world.state.placements()[site];
                let moves = before.as_ref().is_some_and(|before| before.home != *home);
                moved += usize::from(moves && single.contains(site));
                if let Some(before) = before {
                    prop_assert_eq!(after.epoch.0, before.epoch.0 + 1);
                }
            }
            prop_assert!(moved <= MOVES_MAX, "{} at once", moved);
        }
        prop_assert!(rested, "it goes on and on");
        let in_service = |id: &NodeId| world.state.nodes()[id].in_service();
        if world.nodes.iter().any(in_service) {
            for (site, wish) in &sites {
                let placement = &world.state.placements()[site];
                let carries = |id: &NodeId| {
                    let number = world.nodes.iter().position(|node| node == id);
                    let up = number.is_some_and(|number| number == 0 || !fates[number].down);
                    up && wish.tunnels.iter().any(|at| Some(at % world.nodes.len()) == number)
                };
                prop_assert!(in_service(&placement.home) || carries(&placement.home));
                prop_assert!(placement.standbys.iter().all(|id| in_service(id) && *id != placement.home));
            }
        }
    }
}
