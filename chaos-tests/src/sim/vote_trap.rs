//! Waits for an election, to take the power of those who have just voted: a vote that was not durable when it was given
//! is then forgotten, and may be given once more.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use pangolin_core::NodeId;
use parking_lot::Mutex;
use tokio::task::JoinSet;

use super::{
    network::{HEALTHY_DELAY, Links, Net},
    node::Host,
    world,
};

/// So long after a majority has voted, the candidate knows.
const KNOWN_AFTER: Duration = Duration::from_millis(2 * HEALTHY_DELAY);

/// The trap.
pub(crate) struct VoteTrap {
    before: NodeId,
    hosts: BTreeSet<NodeId>,
    seen: Arc<Mutex<Seen>>,
    _watching: JoinSet<()>,
}

#[derive(Default)]
struct Seen {
    /// Who voted for whom: by term and candidate.
    votes: BTreeMap<(u64, NodeId), BTreeSet<NodeId>>,
    /// The first candidate that a majority has voted for, and when.
    elected: Option<((u64, NodeId), Duration)>,
    sprung: bool,
}

impl VoteTrap {
    /// Watches the disks of all hosts for votes. `before` led until now; `voters` have a vote.
    pub(crate) fn set<'a>(
        before: NodeId,
        voters: usize,
        hosts: impl Iterator<Item = &'a Host> + Clone,
        net: &Net,
    ) -> Self {
        let all: BTreeSet<NodeId> = hosts.clone().map(|host| host.node).collect();
        let seen = Arc::<Mutex<Seen>>::default();
        let mut watching = JoinSet::new();
        for host in hosts {
            let (me, mut votes) = (host.node, host.disk.votes());
            votes.borrow_and_update();
            let (seen, net, all) = (seen.clone(), net.clone(), all.clone());
            watching.spawn(async move {
                while votes.changed().await.is_ok() {
                    let Some(vote) = *votes.borrow_and_update() else { continue };
                    let candidate = NodeId(vote.node);
                    if vote.elected || candidate == me {
                        continue;
                    }
                    let mut seen = seen.lock();
                    let given = seen.votes.entry((vote.term, candidate)).or_default();
                    given.insert(me);
                    // The candidate votes as well.
                    if given.len() >= voters / 2 && seen.elected.is_none() {
                        seen.elected = Some(((vote.term, candidate), world::elapsed()));
                        net.cut(from(candidate, &all));
                    }
                }
            });
        }
        Self { before, hosts: all, seen, _watching: watching }
    }

    /// Once, when whoever was elected knows it: those who have voted for it, and who led before.
    pub(crate) fn spring(&self, now: Duration) -> Option<(BTreeSet<NodeId>, NodeId)> {
        let mut seen = self.seen.lock();
        let (candidate, at) = seen.elected.filter(|_| !seen.sprung)?;
        if now < at + KNOWN_AFTER {
            return None;
        }
        seen.sprung = true;
        Some((seen.votes.get(&candidate)?.clone(), self.before))
    }

    /// Who led when it was set.
    pub(crate) fn before(&self) -> NodeId {
        self.before
    }

    /// What was cut, so that nobody hears whoever was elected.
    pub(crate) fn links(&self) -> Links {
        let elected = self.seen.lock().elected;
        elected.map(|((_, candidate), _)| from(candidate, &self.hosts)).unwrap_or_default()
    }
}

fn from(node: NodeId, all: &BTreeSet<NodeId>) -> Links {
    all.iter().filter(|other| **other != node).map(|other| (node, *other)).collect()
}
