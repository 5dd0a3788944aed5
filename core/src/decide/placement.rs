//! Where the tunnel of each site ends, and where it may end next.

use crate::{
    command::{Actor, Body, Cause, Command, Fence},
    decision::Aspect,
    id::{NodeId, Revision},
    observation::Observations,
    outcome::Object,
    record::{AdminState, Leadership, Placement, Site, Verdict},
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
    let home = choose_home(current, candidates, &alive, load)?;
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
    let cause = match current {
        None => first_cause(state, site, home, alive.contains(&home), leadership),
        Some(current) => next_cause(state, current, home, &standbys, &alive, leadership),
    };
    Some(Command {
        request: None,
        at: now,
        cause,
        fence: Fence::Placement { term: leadership.term, site: site.id, epoch },
        body: Body::SitePlaced { site: site.id, home, standbys },
    })
}

/// The home stays where it is as long as it is in service: moving costs, and a node that comes back does not pull
/// its sites back. When it has to move, a node whose tunnel to the site is alive comes first.
fn choose_home(
    current: Option<&Placement>,
    candidates: &[NodeId],
    alive: &[NodeId],
    load: &Load,
) -> Option<NodeId> {
    let least_loaded = || load.least_first(candidates).first().copied();
    let Some(current) = current else { return alive.first().copied().or_else(least_loaded) };
    if candidates.contains(&current.home) {
        return Some(current.home);
    }
    let standbys = current.standbys.iter().copied().filter(|id| candidates.contains(id));
    standbys.min_by_key(|id| !alive.contains(id)).or_else(|| alive.first().copied()).or_else(least_loaded)
}

fn first_cause(
    state: &ClusterState,
    site: &Site,
    home: NodeId,
    alive: bool,
    leadership: Leadership,
) -> Cause {
    let name = state.node_name(home);
    let reason = if alive {
        format!("it had no home; {name} reports a live tunnel to it")
    } else {
        format!("it had no home; no node reports a tunnel to it, and {name} is home to the fewest sites")
    };
    let made = state.decisions().latest(&Object::Site(site.id), Aspect::Existence);
    Cause::new(Actor::Leader(leadership.node), reason).because(made.map(|decision| decision.revision))
}

/// Why a site gets another home or other standbys: its nodes that are no longer, or now, in service.
fn next_cause(
    state: &ClusterState,
    current: &Placement,
    home: NodeId,
    standbys: &[NodeId],
    alive: &[NodeId],
    leadership: Leadership,
) -> Cause {
    let before = || std::iter::once(current.home).chain(current.standbys.iter().copied());
    let gone = before().filter(|id| *id != home && !standbys.contains(id));
    let new =
        std::iter::once(home).chain(standbys.iter().copied()).filter(|id| before().all(|old| old != *id));
    let (gone, new): (Vec<NodeId>, Vec<NodeId>) = (gone.collect(), new.collect());
    let mut told = Vec::new();
    for id in &gone {
        let what = if *id == current.home { "its home" } else { "its standby" };
        told.push(format!("{what} {} {}", state.node_name(*id), out_of_service(state, *id)));
    }
    if home != current.home {
        let (name, tunnel) = (state.node_name(home), alive.contains(&home));
        let (what, tunnel) = match (current.standbys.iter().position(|id| *id == home), tunnel) {
            (Some(0), true) => ("its first standby", " and reports a live tunnel"),
            (Some(0), false) => ("its first standby", ", though no standby reports a live tunnel"),
            (Some(_), true) => ("its first standby that reports a live tunnel", ""),
            (Some(_), false) => ("its first standby in service", ""),
            (None, true) => ("a node that reports a live tunnel", ""),
            (None, false) => ("the node that is home to the fewest sites", ""),
        };
        told.push(format!("{name} is {what}{tunnel}"));
    } else if gone.is_empty() && new.is_empty() {
        told.push("its standbys are put in order".to_owned());
    }
    for id in new.iter().filter(|id| **id != home) {
        told.push(format!("{} is in service and can stand by", state.node_name(*id)));
    }
    let because = gone.iter().chain(&new).filter_map(|id| service_decision(state, *id));
    Cause::new(Actor::Leader(leadership.node), told.join("; ")).because(because)
}

fn out_of_service(state: &ClusterState, id: NodeId) -> &'static str {
    match state.nodes().get(&id) {
        None => "has left the cluster",
        Some(node) if node.verdict == Verdict::Down => "is down",
        Some(node) if node.admin != AdminState::Active => "gives its work away",
        // In service: others are taken before it.
        Some(_) => "is not among the first any more",
    }
}

/// The decision that took a node out of service or brought it in.
fn service_decision(state: &ClusterState, id: NodeId) -> Option<Revision> {
    let last = |aspect| state.decisions().latest(&Object::Node(id), aspect).map(|decision| decision.revision);
    match state.nodes().get(&id) {
        None => last(Aspect::Existence),
        Some(node) if node.verdict == Verdict::Down => last(Aspect::Verdict),
        Some(node) if node.admin != AdminState::Active => last(Aspect::Admin),
        Some(_) => last(Aspect::Verdict).max(last(Aspect::Admin)).max(last(Aspect::Existence)),
    }
}
