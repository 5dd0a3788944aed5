//! Who votes: the autopilot of the cluster, one change at a time.
//!
//! A node that was admitted becomes a learner; one that has been caught up and in contact for a while votes, so long as
//! the number of voters stays odd (Raft §6: an even number stands no more failures than the odd one below it, and needs
//! one more acknowledgement). A learner takes the place of a voter that stays down. A node that is to leave goes when
//! the others keep their majority without it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{
    id::NodeId,
    record::{AdminState, Node, NodeRole, Verdict},
    state::ClusterState,
    time::Timestamp,
};

/// Most voters that the cluster makes by itself: they stand two failures, and every further one makes each change
/// slower.
pub const VOTERS_MAX: usize = 5;

/// Raft's membership, and how its members look from the leader.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Voting {
    /// Those who vote.
    pub voters: BTreeSet<NodeId>,
    /// Those who only replicate.
    pub learners: BTreeSet<NodeId>,
    /// The nodes that the leader is in contact with, itself included.
    pub alive: BTreeSet<NodeId>,
    /// For how long each member other than the leader has been in contact and had all of the log but its very end.
    pub caught_up_for: BTreeMap<NodeId, Duration>,
}

/// One change of the membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// It gets the log from now on.
    AddLearner(NodeId),
    /// It votes from now on.
    Promote(NodeId),
    /// The one goes on as a learner, the other votes in its place.
    Exchange {
        /// No voter any more.
        out: NodeId,
        /// A voter instead.
        into: NodeId,
    },
    /// It is to leave the cluster: it has been down for too long.
    Retire {
        /// Which.
        node: NodeId,
        /// Why, in words for the operator.
        reason: String,
    },
    /// It goes for good, out of Raft's membership and out of the state.
    Remove(NodeId),
}

impl Voting {
    fn is_member(&self, node: NodeId) -> bool {
        self.voters.contains(&node) || self.learners.contains(&node)
    }

    fn is_stable(&self, state: &ClusterState, node: NodeId) -> bool {
        let enough = Duration::from_millis(state.autopilot().stable_ms.into());
        self.caught_up_for.get(&node).is_some_and(|time| *time >= enough)
    }

    /// How many of these voters are up, and how many make a majority.
    fn count(&self, voters: &BTreeSet<NodeId>) -> (usize, usize) {
        (voters.intersection(&self.alive).count(), voters.len() / 2 + 1)
    }

    fn voters_without(&self, node: NodeId) -> BTreeSet<NodeId> {
        self.voters.iter().copied().filter(|id| *id != node).collect()
    }
}

/// The next change of the membership that `leader` should make; none when it is as it should be, or has to wait.
#[must_use]
pub fn next_step(state: &ClusterState, voting: &Voting, leader: NodeId, now: Timestamp) -> Option<Step> {
    // Before the state is there, nobody is to be removed because it does not know them.
    if state.nodes().is_empty() {
        return None;
    }
    let mut members = voting.voters.union(&voting.learners).copied();
    let forgotten = members.find(|id| !state.nodes().contains_key(id));
    forgotten
        .map(Step::Remove)
        .or_else(|| departure(state, voting, leader))
        .or_else(|| arrival(state, voting))
        .or_else(|| promotion(state, voting))
        .or_else(|| exchange(state, voting, leader, now))
        .or_else(|| retirement(state, voting, leader, now))
}

fn leaving(state: &ClusterState) -> impl Iterator<Item = &Node> {
    state.nodes().values().filter(|node| node.admin == AdminState::Leaving)
}

/// The dead go first: without them the others need fewer acknowledgements.
fn departure(state: &ClusterState, voting: &Voting, leader: NodeId) -> Option<Step> {
    let mut nodes: Vec<&Node> = leaving(state).filter(|node| node.id != leader).collect();
    nodes.sort_by_key(|node| (voting.voters.contains(&node.id), voting.alive.contains(&node.id), node.id));
    nodes.into_iter().find_map(|node| {
        if voting.voters.contains(&node.id) {
            // It waits for the node that takes its place as long as that one is coming.
            if let Some(into) = successor(state, voting, node) {
                let can_vote = voting.learners.contains(&into) && voting.is_stable(state, into);
                return can_vote.then_some(Step::Exchange { out: node.id, into });
            }
            if let Some(into) = stable_learners(state, voting).first() {
                return Some(Step::Exchange { out: node.id, into: into.id });
            }
        }
        check_removal(state, voting, node.id).is_ok().then_some(Step::Remove(node.id))
    })
}

/// The node that joined in the place of this one, as long as it is there and does not vote yet.
fn successor(state: &ClusterState, voting: &Voting, node: &Node) -> Option<NodeId> {
    let by = node.replaced_by.filter(|by| state.nodes().contains_key(by))?;
    (!voting.voters.contains(&by) && voting.alive.contains(&by)).then_some(by)
}

fn arrival(state: &ClusterState, voting: &Voting) -> Option<Step> {
    let comes = |node: &&Node| {
        node.admin != AdminState::Leaving && !voting.is_member(node.id) && voting.alive.contains(&node.id)
    };
    state.nodes().values().find(comes).map(|node| Step::AddLearner(node.id))
}

/// The learners that may vote, those that carry data first.
fn stable_learners<'a>(state: &'a ClusterState, voting: &Voting) -> Vec<&'a Node> {
    let mut nodes: Vec<&Node> = voting
        .learners
        .iter()
        .filter(|id| voting.is_stable(state, **id))
        .filter_map(|id| state.nodes().get(id))
        .filter(|node| node.admin != AdminState::Leaving)
        .collect();
    nodes.sort_by_key(|node| (node.spec.role == NodeRole::Witness, node.id));
    nodes
}

/// From an odd number of voters the step is taken only if another learner can follow at once.
fn promotion(state: &ClusterState, voting: &Voting) -> Option<Step> {
    let promoted = |id: &NodeId| {
        voting.caught_up_for.contains_key(id)
            && state.nodes().get(id).is_some_and(|node| node.promoted && node.admin != AdminState::Leaving)
    };
    if let Some(id) = voting.learners.iter().copied().find(promoted) {
        return Some(Step::Promote(id));
    }
    let stable = stable_learners(state, voting);
    let voters = voting.voters.len();
    let needed = if voters % 2 == 1 { 2 } else { 1 };
    if voters >= VOTERS_MAX || stable.len() < needed {
        return None;
    }
    stable.first().map(|node| Step::Promote(node.id))
}

/// A voter that has been down for too long costs a failure that the cluster could stand otherwise.
fn exchange(state: &ClusterState, voting: &Voting, leader: NodeId, now: Timestamp) -> Option<Step> {
    let patience = Duration::from_secs(state.autopilot().exchange_after_s?.into());
    let into = stable_learners(state, voting).first()?.id;
    let out = down_for(state, voting, leader, patience, now).find(|node| voting.voters.contains(&node.id))?;
    Some(Step::Exchange { out: out.id, into })
}

/// A dead node is taken out only if the others stand another failure without it.
fn retirement(state: &ClusterState, voting: &Voting, leader: NodeId, now: Timestamp) -> Option<Step> {
    let patience = Duration::from_secs(state.autopilot().remove_after_s?.into());
    let dead = down_for(state, voting, leader, patience, now).find(|node| {
        let (up, majority) = voting.count(&voting.voters_without(node.id));
        let data = |other: &&Node| {
            other.id != node.id && other.spec.role == NodeRole::Data && other.admin != AdminState::Leaving
        };
        up > majority && state.nodes().values().any(|other| data(&other))
    })?;
    let reason = format!("it has been down for {} s", patience.as_secs());
    Some(Step::Retire { node: dead.id, reason })
}

fn down_for<'a>(
    state: &'a ClusterState,
    voting: &'a Voting,
    leader: NodeId,
    patience: Duration,
    now: Timestamp,
) -> impl Iterator<Item = &'a Node> {
    state.nodes().values().filter(move |node| {
        node.id != leader
            && node.admin != AdminState::Leaving
            && node.verdict == Verdict::Down
            && now.since(node.verdict_at) >= patience
            && !voting.alive.contains(&node.id)
    })
}

/// Whether a node can be taken out of the voters now.
///
/// # Errors
/// Why not, and what to do: without it, the others could not change anything any more.
pub fn check_removal(state: &ClusterState, voting: &Voting, node: NodeId) -> Result<(), String> {
    if !voting.voters.contains(&node) {
        return Ok(());
    }
    let others = voting.voters_without(node);
    let carries_data = |id: &NodeId| state.nodes().get(id).is_some_and(|n| n.spec.role == NodeRole::Data);
    if !others.iter().any(carries_data) {
        return Err(format!(
            "{} is the only data node that votes: let another one vote first (`pangolinctl node promote NODE`), or let \
             one join (`pangolinctl token create`)",
            named(state, node)
        ));
    }
    let (up, majority) = voting.count(&others);
    if up >= majority {
        return Ok(());
    }
    let dead: Vec<String> =
        others.difference(&voting.alive).map(|id| format!("{} (node {id})", named(state, *id))).collect();
    Err(format!(
        "without {}, {up} of {} voters would be up, and {majority} are needed for changes: first start {} again, or \
         take it out of the cluster (`pangolinctl node remove`)",
        named(state, node),
        others.len(),
        dead.join(", ")
    ))
}

/// Whether a learner can vote at once, as an operator wishes.
///
/// # Errors
/// Why not, and what to do.
pub fn check_promotion(state: &ClusterState, voting: &Voting, node: NodeId) -> Result<(), String> {
    if voting.voters.contains(&node) || voting.caught_up_for.contains_key(&node) {
        return Ok(());
    }
    Err(match (voting.alive.contains(&node), voting.learners.contains(&node)) {
        (false, _) => {
            format!(
                "{} does not answer: start it first (`systemctl start pangolin` there)",
                named(state, node)
            )
        }
        (true, false) => format!("{} has just joined: try again in a moment", named(state, node)),
        (true, true) => format!(
            "{} has not caught up with the log yet: try again when `pangolinctl status` shows no lag",
            named(state, node)
        ),
    })
}

/// How gladly a node leads: one that runs every duty before one that gives its work away, a witness after them, one
/// that goes last.
#[must_use]
pub fn willingness(node: &Node) -> u8 {
    match (node.admin, node.spec.role) {
        (AdminState::Leaving, _) => 0,
        (_, NodeRole::Witness) => 1,
        (AdminState::Drained, NodeRole::Data) => 2,
        (AdminState::Active, NodeRole::Data) => 3,
    }
}

/// To whom `leader` should hand the leadership, because that one leads more gladly and has caught up.
#[must_use]
pub fn hand_over(state: &ClusterState, voting: &Voting, leader: NodeId) -> Option<NodeId> {
    let own = state.nodes().get(&leader).map_or(0, willingness);
    voting
        .voters
        .iter()
        .filter(|id| **id != leader && voting.caught_up_for.contains_key(id))
        .filter_map(|id| state.nodes().get(id))
        .filter(|node| willingness(node) > own)
        .max_by_key(|node| (willingness(node), std::cmp::Reverse(node.id)))
        .map(|node| node.id)
}

/// What an operator should know of the membership, in sentences.
#[must_use]
pub fn remarks(state: &ClusterState, voting: &Voting) -> Vec<String> {
    let mut remarks = Vec::new();
    let (up, majority) = voting.count(&voting.voters);
    if voting.voters.len() == 2 && up == 2 {
        remarks.push(
            "2 voters: neither may fail, or changes stop (serving goes on); let a third host join, as a data node or \
             as a witness"
                .to_owned(),
        );
    }
    for node in leaving(state) {
        let name = named(state, node.id);
        remarks.push(match check_removal(state, voting, node.id) {
            Err(reason) => format!("{name} is to leave and has to stay for now: {reason}"),
            Ok(()) => match successor(state, voting, node) {
                Some(by) => format!("{name} leaves when {}, which takes its place, votes", named(state, by)),
                None => format!("{name} is leaving"),
            },
        });
    }
    let waiting: Vec<&Node> = voting
        .learners
        .iter()
        .filter_map(|id| state.nodes().get(id))
        .filter(|node| node.admin != AdminState::Leaving && voting.is_stable(state, node.id))
        .collect();
    for node in waiting {
        let name = named(state, node.id);
        let why = if voting.voters.len() >= VOTERS_MAX {
            format!("{VOTERS_MAX} voters are enough; it takes the place of one that stays down")
        } else if voting.voters.len() == 1 {
            "two voters stand no more than one does; when a third host joins, as a data node or as a witness, all vote"
                .to_owned()
        } else {
            "the number of voters stays odd; it votes when another node joins, and takes the place of a voter that \
             stays down"
                .to_owned()
        };
        remarks.push(format!("{name} has all of the log and does not vote: {why}"));
    }
    for node in state.nodes().values().filter(|node| node.admin == AdminState::Drained) {
        let name = named(state, node.id);
        remarks
            .push(format!("{name} is drained: `pangolinctl node undrain {name}` takes it back into service"));
    }
    if up >= majority && up == majority && voting.voters.len() > 2 {
        remarks.push(format!(
            "{up} of {} voters are up: the next one that fails stops changes (serving goes on)",
            voting.voters.len()
        ));
    }
    remarks
}

fn named(state: &ClusterState, node: NodeId) -> String {
    state.nodes().get(&node).map_or_else(|| format!("node {node}"), |node| node.spec.name.to_string())
}
