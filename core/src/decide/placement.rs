//! Where the tunnel of each site ends, and where it may end next.
//!
//! A home stays where it is: moving costs. It moves when the node goes out of service; that of a single-homed site also when
//! its tunnel lives elsewhere, and away from the node that holds its control socket, so that no death takes both. Where
//! another node suits the site much better ([`ranking`](super::ranking): room, region, distance), it moves once it has been
//! where it is for a while; for mere balance it does so late, and one site at a time.

use std::time::Duration;

use super::ranking::{Gain, Load, Ranking};
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
/// A home that others suit as well is given up for balance only when it has been there for this long.
const BALANCE_AFTER: Duration = Duration::from_secs(600);
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
    let mut commands = Vec::new();
    for site in state.sites().values().filter(|site| site.enabled) {
        let view = View { state, seen, candidates: &candidates, leadership, now, balance: budget.balance };
        let Some(placed) = place(&view, site, &load) else { continue };
        if budget.allows(state, &placed) {
            load.moves(state.placements().get(&site.id).map(|placement| placement.home), placed.home);
            commands.push(placed.command);
        }
    }
    commands
}

/// A placement that is to be proposed.
struct Placed {
    command: Command,
    home: NodeId,
    /// It moves for nothing but balance.
    balances: bool,
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
    /// Whether a site may be moved for balance.
    balance: bool,
}

/// How many single-homed sites may still be moved now, and whether one may be for balance.
struct Budget {
    moves: usize,
    balance: bool,
}

impl Budget {
    fn of(state: &ClusterState, now: Timestamp) -> Self {
        let mut recent = state
            .placements()
            .iter()
            .filter(|(_, placement)| now.since(placement.since) < Duration::from_secs(1))
            .peekable();
        // Nobody is in a hurry: while others are placed, the load is not what it will be.
        let balance = recent.peek().is_none();
        // The first placement of a site moves nothing, but there are few of those.
        let moved = recent.filter(|(site, _)| is_single_homed(state, **site)).count();
        Self { moves: MOVES_PER_SECOND.saturating_sub(moved), balance }
    }

    /// Whether this placement may be proposed now; the others come with the next looks.
    fn allows(&mut self, state: &ClusterState, placed: &Placed) -> bool {
        let Body::SitePlaced { site, home, .. } = &placed.command.body else { return true };
        let moves = state.placements().get(site).is_some_and(|placement| placement.home != *home);
        if moves && is_single_homed(state, *site) {
            if self.moves == 0 {
                return false;
            }
            self.moves -= 1;
        }
        self.balance &= !placed.balances;
        true
    }
}

/// Whether the site's connector keeps one tunnel at a time; not if none has registered.
fn is_single_homed(state: &ClusterState, site: SiteId) -> bool {
    state.connectors().get(&site).is_some_and(|connector| !connector.multi_homed)
}

fn place(view: &View<'_>, site: &Site, load: &Load) -> Option<Placed> {
    let View { state, seen, candidates, leadership, now, .. } = *view;
    let current = state.placements().get(&site.id);
    let single = is_single_homed(state, site.id);
    let ranking = Ranking::of(state, seen, candidates, load, site.id, now);
    let mut alive: Vec<NodeId> = seen
        .tunnels_to(site.id, now)
        .filter(|id| candidates.contains(id) || (single && may_carry(view, *id)))
        .collect();
    alive.sort_by_key(|id| (ranking.position(*id), *id));
    let Choice { home, reason, balances } = choose_home(view, site, current, &alive, &ranking)?;
    let known: Vec<NodeId> =
        current.into_iter().flat_map(|p| std::iter::once(p.home).chain(p.standbys.iter().copied())).collect();
    let mut standbys: Vec<NodeId> = ranking.best().filter(|id| *id != home).collect();
    ranking.sort_standbys(&mut standbys, &known);
    standbys.truncate(STANDBYS);
    if current.is_some_and(|p| p.home == home && p.standbys == standbys) {
        return None;
    }
    let epoch = current.map(|p| p.epoch).unwrap_or_default();
    let cause = match (current, reason) {
        (None, _) => first_cause(state, site, home, alive.contains(&home), &ranking, leadership),
        (Some(current), None) => next_cause(state, current, home, &standbys, &alive, &ranking, leadership),
        (Some(_), Some(reason)) => Cause::new(Actor::Leader(leadership.node), reason),
    };
    let command = Command {
        request: None,
        at: now,
        cause,
        fence: Fence::Placement { term: leadership.term, site: site.id, epoch },
        body: Body::SitePlaced { site: site.id, home, standbys },
    };
    Some(Placed { command, home, balances })
}

/// A home, and why it moves though the present one is in service.
struct Choice {
    home: NodeId,
    reason: Option<String>,
    balances: bool,
}

impl Choice {
    fn plain(home: NodeId) -> Self {
        Self { home, reason: None, balances: false }
    }

    fn because((home, reason): (NodeId, String)) -> Self {
        Self { home, reason: Some(reason), balances: false }
    }
}

fn choose_home(
    view: &View<'_>,
    site: &Site,
    current: Option<&Placement>,
    alive: &[NodeId],
    ranking: &Ranking<'_>,
) -> Option<Choice> {
    let candidates = view.candidates;
    let Some(current) = current else {
        return alive.first().copied().or_else(|| ranking.best().next()).map(Choice::plain);
    };
    let single = is_single_homed(view.state, site.id);
    if candidates.contains(&current.home) || (single && alive.contains(&current.home)) {
        let forced =
            || follow_tunnel(view, site, current).or_else(|| leave_socket(view, site, current, ranking));
        let moved = single.then(forced).flatten().map(Choice::because);
        let moved = moved.or_else(|| better_home(view, site, current, ranking));
        return Some(moved.unwrap_or(Choice::plain(current.home)));
    }
    // A node whose tunnel to the site is alive comes first.
    let standbys = || current.standbys.iter().copied();
    let next = standbys()
        .find(|id| alive.contains(id))
        .or_else(|| alive.first().copied())
        .or_else(|| standbys().find(|id| candidates.contains(id)));
    next.or_else(|| ranking.best().next()).map(Choice::plain)
}

/// A node that suits the site so much better than its home that it is worth a move.
fn better_home(view: &View<'_>, site: &Site, current: &Placement, ranking: &Ranking<'_>) -> Option<Choice> {
    if !is_settled(view, site, current) || !view.candidates.contains(&current.home) {
        return None;
    }
    // Not to where its control socket is: it would have to leave again.
    let single = is_single_homed(view.state, site.id);
    let to = ranking.best().find(|id| *id != current.home && !(single && holds_socket(view, site, *id)))?;
    let gain = ranking.gain(current.home, to)?;
    let balances = gain == Gain::Balance;
    if balances && (!view.balance || view.now.since(current.since) < BALANCE_AFTER) {
        return None;
    }
    Some(Choice { home: to, reason: Some(ranking.reason(gain, current.home, to)), balances })
}

/// Whether a site has been where it is for long enough to be moved though nothing forces it.
fn is_settled(view: &View<'_>, site: &Site, current: &Placement) -> bool {
    let View { state, now, .. } = *view;
    let placed = now.since(current.since);
    let followed = is_single_homed(state, site.id)
        && tunnel_age(view, site, current.home).is_some_and(|age| age > placed);
    let patience = if followed { SPLIT_FOLLOWED_AFTER } else { SPLIT_AFTER };
    let registered = state.connectors().get(&site.id).map(|connector| now.since(connector.since));
    placed >= patience && registered.is_none_or(|registered| registered >= SPLIT_AFTER)
}

/// Whether a node says that it holds the site's control socket.
fn holds_socket(view: &View<'_>, site: &Site, node: NodeId) -> bool {
    let mut reports = view.seen.fresh(view.now);
    reports.any(|(reporter, report)| reporter == node && report.sockets.contains(&site.id))
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
fn leave_socket(
    view: &View<'_>,
    site: &Site,
    current: &Placement,
    ranking: &Ranking<'_>,
) -> Option<(NodeId, String)> {
    let View { state, candidates, .. } = *view;
    if !is_settled(view, site, current) || !holds_socket(view, site, current.home) {
        return None;
    }
    // Those that suit it as well as the best: of them a standby, because it is known to it.
    let mut others: Vec<NodeId> = candidates
        .iter()
        .copied()
        .filter(|id| *id != current.home && !holds_socket(view, site, *id))
        .collect();
    let standby = |id: &NodeId| current.standbys.iter().position(|other| other == id).unwrap_or(usize::MAX);
    others.sort_by_key(|id| (ranking.is_full(*id), ranking.fit(*id), standby(id), ranking.position(*id)));
    let to = *others.first()?;
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
    ranking: &Ranking<'_>,
    leadership: Leadership,
) -> Cause {
    let name = state.node_name(home);
    let reason = if alive {
        format!("it had no home; {name} reports a live tunnel to it")
    } else {
        format!("it had no home; no node reports a tunnel to it, and {name} {}", ranking.merits(home))
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
    ranking: &Ranking<'_>,
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
        let name = state.node_name(home);
        let place = current.standbys.iter().position(|id| *id == home);
        told.push(match (place, alive.contains(&home)) {
            (Some(0), true) => format!("{name} is its first standby and reports a live tunnel"),
            (Some(0), false) => {
                format!("{name} is its first standby, though no standby reports a live tunnel")
            }
            (Some(_), true) => format!("{name} is its first standby that reports a live tunnel"),
            (Some(_), false) => format!("{name} is its first standby in service"),
            (None, true) => format!("{name} is a node that reports a live tunnel"),
            (None, false) => format!("{name} {}", ranking.merits(home)),
        });
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
