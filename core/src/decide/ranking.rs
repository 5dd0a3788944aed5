//! Which nodes suit a site best. Pure; `placement` asks it where a tunnel goes, and whether it is worth moving.
//!
//! A node with room comes before a full one, one in the site's region before others, a near one before one that nobody has
//! measured, and that before a far one; then the one with the fewest sites for its weight.

use std::collections::BTreeMap;

use crate::{
    id::{NodeId, SiteId},
    name::Slug,
    observation::Observations,
    state::ClusterState,
    time::Timestamp,
};

/// A node that is at most so many milliseconds farther than the nearest one is near.
const NEAR_MS: u32 = 30;
/// … and so is one that is at most this many hundredths farther.
const NEAR_PERCENT: u32 = 15;
/// Before a home that suits a site as well as another is given up for balance, it has this many sites more …
const BALANCE_SLACK: u64 = 8;
/// … and this many times as many for its weight.
const BALANCE_FACTOR: u64 = 2;

/// To how many sites each candidate is home.
pub(super) struct Load(BTreeMap<NodeId, u64>);

impl Load {
    pub(super) fn of(state: &ClusterState, candidates: &[NodeId]) -> Self {
        let mut load: BTreeMap<_, _> = candidates.iter().map(|id| (*id, 0)).collect();
        for placement in state.placements().values() {
            if let Some(count) = load.get_mut(&placement.home) {
                *count += 1;
            }
        }
        Self(load)
    }

    fn sites(&self, node: NodeId) -> u64 {
        self.0.get(&node).copied().unwrap_or(0)
    }

    /// A site goes from one node to another.
    pub(super) fn moves(&mut self, from: Option<NodeId>, to: NodeId) {
        if let Some(count) = from.and_then(|from| self.0.get_mut(&from)) {
            *count = count.saturating_sub(1);
        }
        *self.0.entry(to).or_default() += 1;
    }
}

/// How well a node suits a site, whatever its load: the better, the less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Fit {
    /// It is in another region than the site.
    elsewhere: bool,
    distance: Distance,
}

/// How far a node is from a site's connector, by what that has measured: the better, the less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Distance {
    /// About as near as the nearest.
    Near,
    /// Not measured. A connector that keeps tunnels measures those only: what it says of some says nothing of others.
    Unknown,
    /// Farther than the nearest by more than is worth a move.
    Far,
}

/// The nodes through the eyes of a site.
pub(super) struct Ranking<'a> {
    state: &'a ClusterState,
    load: &'a Load,
    region: Option<&'a Slug>,
    distances: BTreeMap<NodeId, u32>,
    /// The site's home: it counts among the sites of that node.
    home: Option<NodeId>,
    best: Vec<NodeId>,
}

impl<'a> Ranking<'a> {
    pub(super) fn of(
        state: &'a ClusterState,
        seen: &Observations,
        candidates: &[NodeId],
        load: &'a Load,
        site: SiteId,
        now: Timestamp,
    ) -> Self {
        let mut ranking = Self {
            state,
            load,
            region: state.fabric().regions.get(&site),
            distances: seen.distances(site, now),
            home: state.placements().get(&site).map(|placement| placement.home),
            best: candidates.to_vec(),
        };
        let mut best = candidates.to_vec();
        best.sort_by_key(|id| (ranking.is_full(*id), ranking.fit(*id), ranking.burden(*id), *id));
        ranking.best = best;
        ranking
    }

    /// The candidates, best first.
    pub(super) fn best(&self) -> impl Iterator<Item = NodeId> {
        self.best.iter().copied()
    }

    pub(super) fn position(&self, node: NodeId) -> usize {
        self.best.iter().position(|id| *id == node).unwrap_or(usize::MAX)
    }

    pub(super) fn fit(&self, node: NodeId) -> Fit {
        Fit { elsewhere: self.is_elsewhere(node), distance: self.distance(node) }
    }

    fn is_elsewhere(&self, node: NodeId) -> bool {
        let region = self.state.nodes().get(&node).and_then(|node| node.spec.region.as_ref());
        self.region.is_some_and(|wanted| region != Some(wanted))
    }

    fn distance(&self, node: NodeId) -> Distance {
        let nearest = self.distances.values().min();
        let (Some(nearest), Some(distance)) = (nearest, self.distances.get(&node)) else {
            return Distance::Unknown;
        };
        let near = (nearest + NEAR_MS).max(nearest.saturating_mul(100 + NEAR_PERCENT) / 100);
        if *distance > near { Distance::Far } else { Distance::Near }
    }

    /// Whether the node is home to as many sites as it shall be, this one not counted; its home is full only where it
    /// has more.
    pub(super) fn is_full(&self, node: NodeId) -> bool {
        let others = self.load.sites(node).saturating_sub(u64::from(self.home == Some(node)));
        self.state.fabric().capacity(node).sites.is_some_and(|most| others >= u64::from(most))
    }

    /// How much the node would carry with this site, for its weight, in parts of 65,536.
    fn burden(&self, node: NodeId) -> u64 {
        let others = self.load.sites(node).saturating_sub(u64::from(self.home == Some(node)));
        (others + 1) * 65_536 / u64::from(self.state.fabric().capacity(node).weight.max(1))
    }

    /// Why the site should go from one node in service to another that has room; none if it is not worth a move.
    pub(super) fn gain(&self, from: NodeId, to: NodeId) -> Option<Gain> {
        if self.is_full(to) {
            return None;
        }
        if self.is_full(from) {
            return Some(Gain::Room);
        }
        let (here, there) = (self.fit(from), self.fit(to));
        if here.elsewhere != there.elsewhere {
            return here.elsewhere.then_some(Gain::Region);
        }
        match (here.distance, there.distance) {
            (Distance::Far, Distance::Near) => return Some(Gain::Distance),
            // What is nearer, or may be, is not given up.
            (here, there) if there > here => return None,
            _ => {}
        }
        let sites = |node| self.load.sites(node);
        let weight = |node| u64::from(self.state.fabric().capacity(node).weight);
        let uneven = sites(from) >= sites(to) + BALANCE_SLACK
            && sites(from) * weight(to) >= BALANCE_FACTOR * (sites(to) + 1) * weight(from);
        uneven.then_some(Gain::Balance)
    }

    /// What speaks for a node, in words that go on after its name.
    pub(super) fn merits(&self, node: NodeId) -> String {
        let mut told = Vec::new();
        if let Some(region) = self.region.filter(|_| !self.is_elsewhere(node)) {
            told.push(format!("is in its region {region}"));
        }
        if let Some(distance) = self.distances.get(&node).filter(|_| self.distance(node) == Distance::Near) {
            told.push(format!("is {distance} ms away"));
        }
        let weighted = !self.state.fabric().capacities.is_empty();
        let weight = if weighted { " for its weight and capacity" } else { "" };
        told.push(format!("is home to the fewest sites{weight}"));
        told.join(", ")
    }

    /// The reason of a move, in words for the operator.
    pub(super) fn reason(&self, gain: Gain, from: NodeId, to: NodeId) -> String {
        let name = |id| self.state.node_name(id);
        let distance = |id| self.distances.get(&id).copied().unwrap_or_default();
        let (here, there) = (name(from), name(to));
        match gain {
            Gain::Room => {
                let most = self.state.fabric().capacity(from).sites.unwrap_or_default();
                format!("{here} is home to more sites than its capacity of {most}, and {there} has room")
            }
            Gain::Region => {
                let region = self.region.map(ToString::to_string).unwrap_or_default();
                format!("{there} is in its region {region}, and {here} is not")
            }
            Gain::Distance => format!(
                "its connector measured {} ms to {there} and {} ms to {here}",
                distance(to),
                distance(from)
            ),
            Gain::Balance => format!(
                "{here} is home to {} sites and {there} to {}, with weights {} and {}",
                self.load.sites(from),
                self.load.sites(to),
                self.state.fabric().capacity(from).weight,
                self.state.fabric().capacity(to).weight
            ),
        }
    }

    /// Orders standbys: those of the site's region and near ones first; among equals the present ones stay. A far one does
    /// not go for one of which nothing is known: once it has no tunnel any more, nothing would be known of it either,
    /// and they would take turns.
    pub(super) fn sort_standbys(&self, nodes: &mut [NodeId], known: &[NodeId]) {
        let place = |id: &NodeId| known.iter().position(|other| other == id).map_or((1, 0), |at| (0, at));
        nodes.sort_by_key(|id| {
            let Fit { elsewhere, distance } = self.fit(*id);
            (elsewhere, distance != Distance::Near, place(id), self.position(*id))
        });
    }
}

/// What is gained by a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gain {
    /// The home is home to more than it shall be.
    Room,
    /// The site comes into its region.
    Region,
    /// The connector has a shorter way.
    Distance,
    /// The nodes are home to as many as their weights say.
    Balance,
}
