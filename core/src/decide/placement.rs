//! Where the tunnel of each site ends, and where it may end next.
//!
//! A home stays where it is: moving costs, and a node that comes back does not pull its sites back. It moves when the node
//! goes out of service; and that of a single-homed site also when its tunnel lives elsewhere, and away from the node that
//! holds its control socket, so that no death takes both.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    command::{Actor, Body, Cause, Command, Fence},
    decision::Aspect,
    id::{NodeId, Revision, SiteId},
    observation::Observations,
    outcome::Object,
    record::{AdminState, Leadership, NodeRole, Placement, Site, Verdict},
    state::ClusterState,
    time::Timestamp,
};

/// Standbys committed beside the home: enough for the next two failures.
const STANDBYS: usize = 2;
/// A tunnel that has lived elsewhere for this long, while the home has none, is at home there: it was moved ahead of the
/// plan.
const FOLLOW_AFTER: Duration = Duration::from_secs(2);
/// A tunnel is moved away from its control socket only when both have been where they are for this long: a socket that
/// comes and goes does not drag the tunnel about.
const SPLIT_AFTER: Duration = Duration::from_secs(10);
/// … and for so long, if the tunnel was there before it was placed there: it found its way by itself, perhaps because it
/// comes up nowhere else.
const SPLIT_FOLLOWED_AFTER: Duration = Duration::from_secs(600);
/// Most single-homed sites whose tunnels the plan moves within a second: each shakes hands anew, and WireGuard takes 100
/// handshakes a second before it makes senders prove their addresses first.
const MOVES_PER_SECOND: usize = 50;

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
    let mut budget = Budget::of(state, now);
    state
        .sites()
        .values()
        .filter(|site| site.enabled)
        .filter_map(|site| {
            let view = View { state, seen, candidates: &candidates, leadership, now };
            let command = place(&view, site, &mut load)?;
            budget.allows(state, &command).then_some(command)
        })
        .collect()
}

/// What a site is judged by.
#[derive(Clone, Copy)]
struct View<'a> {
    state: &'a ClusterState,
    seen: &'a Observations,
    /// The nodes in service.
    candidates: &'a [NodeId],
    leadership: Leadership,
    now: Timestamp,
}

/// How many single-homed sites may still be moved now.
struct Budget(usize);

impl Budget {
    fn of(state: &ClusterState, now: Timestamp) -> Self {
        let recent = |site: &&SiteId| {
            is_single_homed(state, **site)
                && state.placements().get(*site).is_some_and(|p| now.since(p.since) < Duration::from_secs(1))
        };
        // The first placement of a site moves nothing, but there are few of those.
        let moved = state.placements().keys().filter(recent).count();
        Self(MOVES_PER_SECOND.saturating_sub(moved))
    }

    /// Whether this placement may be proposed now; the others come with the next looks.
    fn allows(&mut self, state: &ClusterState, command: &Command) -> bool {
        let Body::SitePlaced { site, home, .. } = &command.body else { return true };
        let moves = state.placements().get(site).is_some_and(|placement| placement.home != *home);
        if !moves || !is_single_homed(state, *site) {
            return true;
        }
        let allowed = self.0 > 0;
        self.0 = self.0.saturating_sub(1);
        allowed
    }
}

/// Whether the site's connector keeps one tunnel at a time; not if none has registered.
fn is_single_homed(state: &ClusterState, site: SiteId) -> bool {
    state.connectors().get(&site).is_some_and(|connector| !connector.multi_homed)
}

/// How many sites each candidate is home to.
struct Load(BTreeMap<NodeId, usize>);

impl Load {
    fn of(state: &ClusterState, candidates: &[NodeId]) -> Self {
        let mut load: BTreeMap<_, _> = candidates.iter().map(|id| (*id, 0)).collect();
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

fn place(view: &View<'_>, site: &Site, load: &mut Load) -> Option<Command> {
    let View { state, seen, candidates, leadership, now } = *view;
    let current = state.placements().get(&site.id);
    let single = is_single_homed(state, site.id);
    let alive: Vec<NodeId> = seen
        .tunnels_to(site.id, now)
        .filter(|id| candidates.contains(id) || (single && may_carry(view, *id)))
        .collect();
    let (home, reason) = choose_home(view, site, current, &alive, load)?;
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
    let cause = match (current, reason) {
        (None, _) => first_cause(state, site, home, alive.contains(&home), leadership),
        (Some(current), None) => next_cause(state, current, home, &standbys, &alive, leadership),
        (Some(_), Some(reason)) => Cause::new(Actor::Leader(leadership.node), reason),
    };
    Some(Command {
        request: None,
        at: now,
        cause,
        fence: Fence::Placement { term: leadership.term, site: site.id, epoch },
        body: Body::SitePlaced { site: site.id, home, standbys },
    })
}

/// The home, and why it moves though the present one is in service.
fn choose_home(
    view: &View<'_>,
    site: &Site,
    current: Option<&Placement>,
    alive: &[NodeId],
    load: &Load,
) -> Option<(NodeId, Option<String>)> {
    let candidates = view.candidates;
    let least_loaded = || load.least_first(candidates).first().copied();
    let Some(current) = current else {
        return Some((alive.first().copied().or_else(least_loaded)?, None));
    };
    let single = is_single_homed(view.state, site.id);
    if candidates.contains(&current.home) || (single && alive.contains(&current.home)) {
        let moved = single
            .then(|| follow_tunnel(view, site, current).or_else(|| leave_socket(view, site, current, load)))
            .flatten();
        return Some(moved.map_or((current.home, None), |(home, reason)| (home, Some(reason))));
    }
    // A node whose tunnel to the site is alive comes first.
    let standbys = || current.standbys.iter().copied();
    let next = standbys()
        .find(|id| alive.contains(id))
        .or_else(|| alive.first().copied())
        .or_else(|| standbys().find(|id| candidates.contains(id)));
    Some((next.or_else(least_loaded)?, None))
}

/// Whether a tunnel that lives at this node may stay there, though the node is not called up (again) yet: others reach it,
/// and it is to have work. Being called down never costs a tunnel that answers.
fn may_carry(view: &View<'_>, id: NodeId) -> bool {
    let node = view.state.nodes().get(&id);
    node.is_some_and(|node| node.admin == AdminState::Active && node.spec.role == NodeRole::Data)
        && view
            .seen
            .fresh(view.now)
            .any(|(by, report)| by != id && report.peers.get(&id).is_some_and(|seen| seen.alive))
}

/// A single-homed site's tunnel lives at another node than at its home, and has done for a while.
fn follow_tunnel(view: &View<'_>, site: &Site, current: &Placement) -> Option<(NodeId, String)> {
    let View { state, candidates, now, .. } = *view;
    let alive = |node: NodeId, least: Duration| tunnel_age(view, site, node).is_some_and(|age| age >= least);
    let young = now.since(current.since) < FOLLOW_AFTER;
    if young || alive(current.home, Duration::ZERO) {
        return None;
    }
    let rank = |id: &NodeId| current.standbys.iter().position(|other| other == id).unwrap_or(usize::MAX);
    let mut others: Vec<NodeId> =
        candidates.iter().copied().filter(|id| *id != current.home && alive(*id, FOLLOW_AFTER)).collect();
    others.sort_by_key(|id| (rank(id), *id));
    let to = *others.first()?;
    let (from, to_name) = (state.node_name(current.home), state.node_name(to));
    Some((to, format!("its tunnel has moved to {to_name}, and none to {from} is alive")))
}

/// How long the site has had a live tunnel to a node; none if it has none.
fn tunnel_age(view: &View<'_>, site: &Site, node: NodeId) -> Option<Duration> {
    let (_, report) = view.seen.fresh(view.now).find(|(reporter, _)| *reporter == node)?;
    report.tunnels.get(&site.id).filter(|seen| seen.alive).map(|seen| report.at.since(seen.since))
}

/// A single-homed site's tunnel and control socket are at the same node, and there is another one.
fn leave_socket(view: &View<'_>, site: &Site, current: &Placement, load: &Load) -> Option<(NodeId, String)> {
    let View { state, seen, candidates, now, .. } = *view;
    let holds = |node: NodeId| {
        seen.fresh(now).any(|(reporter, report)| reporter == node && report.sockets.contains(&site.id))
    };
    let registered = state.connectors().get(&site.id)?.since;
    let placed = now.since(current.since);
    let followed = tunnel_age(view, site, current.home).is_some_and(|age| age > placed);
    let patience = if followed { SPLIT_FOLLOWED_AFTER } else { SPLIT_AFTER };
    let settled = placed >= patience && now.since(registered) >= SPLIT_AFTER;
    if !settled || !holds(current.home) {
        return None;
    }
    let standbys = current.standbys.iter().copied().filter(|id| candidates.contains(id));
    let to = standbys.chain(load.least_first(candidates)).find(|id| *id != current.home && !holds(*id))?;
    let (from, to_name) = (state.node_name(current.home), state.node_name(to));
    Some((
        to,
        format!(
            "{from} holds its control socket as well: {to_name} takes the tunnel, so that no death takes both"
        ),
    ))
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
