//! Where the tunnel of each site ends, and where it may end next.

use crate::{
    command::{Actor, Body, Cause, Command, Fence},
    id::{NodeId, SiteId},
    observation::Observations,
    record::{Leadership, Placement, Site},
    state::ClusterState,
    time::Timestamp,
};

/// Standbys committed beside the home: enough for the next two failures.
const STANDBYS: usize = 2;

pub(super) fn decide(
    state: &ClusterState,
    seen: &Observations,
    leadership: Leadership,
    now: Timestamp,
) -> Vec<Command> {
    let candidates: Vec<NodeId> =
        state.nodes().values().filter(|node| node.in_service()).map(|node| node.id).collect();
    if candidates.is_empty() {
        return Vec::new();
    }
    let mut load = Load::of(state, &candidates);
    state
        .sites()
        .values()
        .filter(|site| site.enabled)
        .filter_map(|site| place(state, seen, site, &candidates, &mut load, leadership, now))
        .collect()
}

/// How many sites each candidate is home to.
struct Load(std::collections::BTreeMap<NodeId, usize>);

impl Load {
    fn of(state: &ClusterState, candidates: &[NodeId]) -> Self {
        let mut load: std::collections::BTreeMap<_, _> = candidates.iter().map(|id| (*id, 0)).collect();
        for placement in state.placements().values() {
            if let Some(count) = load.get_mut(&placement.home) {
                *count += 1;
            }
        }
        Self(load)
    }

    fn least_first(&self, candidates: &[NodeId]) -> Vec<NodeId> {
        let mut order = candidates.to_vec();
        order.sort_by_key(|id| (self.0.get(id).copied().unwrap_or(0), *id));
        order
    }
}

fn place(
    state: &ClusterState,
    seen: &Observations,
    site: &Site,
    candidates: &[NodeId],
    load: &mut Load,
    leadership: Leadership,
    now: Timestamp,
) -> Option<Command> {
    let current = state.placements().get(&site.id);
    let alive: Vec<NodeId> = seen.tunnels_to(site.id, now).filter(|id| candidates.contains(id)).collect();
    let (home, reason) = choose_home(site.id, current, candidates, &alive, load)?;
    let mut standbys: Vec<NodeId> = Vec::new();
    let known = current.into_iter().flat_map(|p| std::iter::once(p.home).chain(p.standbys.iter().copied()));
    for id in known.chain(load.least_first(candidates)) {
        if standbys.len() < STANDBYS && id != home && candidates.contains(&id) && !standbys.contains(&id) {
            standbys.push(id);
        }
    }
    if current.is_some_and(|p| p.home == home && p.standbys == standbys) {
        return None;
    }
    *load.0.entry(home).or_default() += 1;
    let epoch = current.map(|p| p.epoch).unwrap_or_default();
    Some(Command {
        request: None,
        at: now,
        cause: Cause::new(Actor::Leader(leadership.node), reason),
        fence: Fence::Placement { term: leadership.term, site: site.id, epoch },
        body: Body::SitePlaced { site: site.id, home, standbys },
    })
}

/// The home stays where it is as long as it is in service: moving costs, and a node that comes back does not pull
/// its sites back. When it has to move, a node whose tunnel to the site is alive comes first.
fn choose_home(
    site: SiteId,
    current: Option<&Placement>,
    candidates: &[NodeId],
    alive: &[NodeId],
    load: &Load,
) -> Option<(NodeId, String)> {
    let Some(current) = current else {
        if let Some(home) = alive.first() {
            return Some((*home, format!("site {site} is new; its tunnel to node {home} is alive")));
        }
        let home = load.least_first(candidates).first().copied()?;
        return Some((home, format!("site {site} is new; node {home} is home to the fewest sites")));
    };
    if candidates.contains(&current.home) {
        return Some((current.home, "a standby changed".to_owned()));
    }
    let next = current
        .standbys
        .iter()
        .copied()
        .filter(|id| candidates.contains(id))
        .min_by_key(|id| !alive.contains(id))
        .or_else(|| alive.first().copied())
        .or_else(|| load.least_first(candidates).first().copied())?;
    Some((next, format!("home node {} is not in service; node {next} is next", current.home)))
}
