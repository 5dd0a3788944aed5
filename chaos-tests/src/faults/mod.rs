//! What can go wrong in a test bed, one file for each sort of fault. A fault is begun, held, and ended; in between it
//! says when it has really taken effect, by something that was seen: a process that is gone, packets that were
//! dropped, a sync that failed. One that never took effect shows nothing.

mod clock;
mod disk_full;
mod kill;
mod link;
mod membership;
mod partition;
mod pause;
mod restart;
mod sync;
mod tail;

use std::time::Duration;

use anyhow::{Result, bail};
use futures_util::future::LocalBoxFuture;

use crate::{chance::Chance, testbed::bed::Bed};

/// How long the step of a fault may take on a machine that is busy: a restart, a join, an election.
pub(crate) const STEP_PATIENCE: Duration = Duration::from_secs(60);

/// One fault of a run.
pub trait Fault {
    /// Makes it happen. The members that are hit, by position, and what was done; none if it is not possible now.
    fn begin<'a>(&'a mut self, name: u64, bed: &'a mut Bed) -> LocalBoxFuture<'a, Result<Option<Begun>>>;

    /// What shows that it has taken effect; none as long as nothing does.
    ///
    /// # Errors
    /// It cannot be looked.
    fn shown(&mut self, bed: &mut Bed) -> Result<Option<String>>;

    /// Undoes it.
    fn end<'a>(&'a mut self, bed: &'a mut Bed) -> LocalBoxFuture<'a, Result<()>>;

    /// Whether it is in order that the node at this position ends by itself meanwhile.
    fn may_end(&self, _position: usize) -> bool {
        false
    }
}

/// How a fault has begun.
#[derive(Clone, Debug)]
pub struct Begun {
    /// The members that are hit, by position.
    pub hit: Vec<usize>,
    /// What was done, for people.
    pub detail: String,
}

impl Begun {
    fn new(hit: Vec<usize>, detail: impl Into<String>) -> Result<Option<Self>> {
        Ok(Some(Self { hit, detail: detail.into() }))
    }
}

/// A sort of fault.
#[derive(Clone, Copy)]
pub struct Kind {
    /// Its name, as in histories and on the command line.
    pub name: &'static str,
    /// What happens.
    pub says: &'static str,
    /// Nothing else goes on beside it: it needs the others to come to its end.
    pub alone: bool,
    make: fn(&mut Chance) -> Box<dyn Fault>,
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl Kind {
    /// A fault of this sort.
    #[must_use]
    pub fn make(&self, chance: &mut Chance) -> Box<dyn Fault> {
        (self.make)(chance)
    }
}

macro_rules! kinds {
    ($($name:literal, $says:literal, $alone:literal, $make:expr;)*) => {
        &[$(Kind { name: $name, says: $says, alone: $alone, make: $make },)*]
    };
}

/// Every sort of fault.
pub const ALL: &[Kind] = kinds! {
    "partition-halves", "the nodes fall into two groups, drawn by lot", false, |chance| partition::of(partition::Shape::Halves, chance);
    "partition-leader-minority", "the leader is left with a minority; clients reach both sides", false, |chance| partition::of(partition::Shape::LeaderMinority, chance);
    "partition-leader-isolated", "the leader reaches nobody, neither nodes nor clients nor connectors", false, |chance| partition::of(partition::Shape::LeaderIsolated, chance);
    "partition-bridge", "two groups that do not reach each other, and one node that both reach", false, |chance| partition::of(partition::Shape::Bridge, chance);
    "partition-ring", "every node reaches a majority, and no two the same", false, |chance| partition::of(partition::Shape::Ring, chance);
    "partition-in", "the leader is heard, but hears nobody", false, |chance| partition::of(partition::Shape::In, chance);
    "partition-out", "the leader hears, but is heard by nobody", false, |chance| partition::of(partition::Shape::Out, chance);
    "partition-peers", "the leader reaches no other node on their port; clients and tunnels are not touched", false, |chance| partition::of(partition::Shape::Peers, chance);
    "partition-data", "a node loses tunnels, control channels and visitors; the nodes reach each other", false, |chance| partition::of(partition::Shape::Data, chance);
    "kill-leader", "kill -9 of the leader", false, |chance| kill::of(kill::Whom::Leader, chance);
    "kill-random", "kill -9 of some node", false, |chance| kill::of(kill::Whom::Random, chance);
    "kill-majority", "kill -9 of a majority at once", false, |chance| kill::of(kill::Whom::Majority, chance);
    "kill-all", "kill -9 of all nodes at once", false, |chance| kill::of(kill::Whom::All, chance);
    "pause-leader", "the leader stands still (SIGSTOP) for 1 to 20 seconds, and wakes believing that it leads", false, |chance| pause::of(true, chance);
    "pause-random", "some node stands still (SIGSTOP)", false, |chance| pause::of(false, chance);
    "wire-delay", "all that a node sends and gets takes 5 to 150 ms", false, |chance| link::of(link::Trouble::Delay, chance);
    "wire-loss", "1 to 20 of 100 frames to and from a node are lost", false, |chance| link::of(link::Trouble::Loss, chance);
    "wire-reorder", "frames to and from a node overtake each other", false, |chance| link::of(link::Trouble::Reorder, chance);
    "disk-full", "the disk of a node is full", false, disk_full::of;
    "sync-error", "every fsync of a node fails with EIO", false, |chance| sync::of(sync::Trouble::Error, chance);
    "sync-slow", "every fsync of a node takes 200 ms longer", false, |chance| sync::of(sync::Trouble::Slow, chance);
    "clock-shift", "the clock of a node jumps by minutes, days or months, to and fro", false, clock::of;
    "torn-tail", "a killed node finds half a record at the end of its log", false, |chance| tail::of(tail::Damage::Torn, chance);
    "lost-tail", "a killed node finds its log cut short of what it had acknowledged, and has to join anew", true, |chance| tail::of(tail::Damage::Lost, chance);
    "rolling-restart", "one node after the other is restarted in order", true, restart::of;
    "membership", "a node joins while the leader is killed; that one comes back and is replaced by the new one for good", true, membership::of;
};

/// The sorts of these names; all, if there are none.
///
/// # Errors
/// A name is not known.
pub fn named(names: &[String]) -> Result<Vec<&'static Kind>> {
    if names.is_empty() {
        return Ok(ALL.iter().collect());
    }
    let find = |name: &String| match ALL.iter().find(|kind| kind.name == name) {
        Some(kind) => Ok(kind),
        None => bail!("no fault is named {name:?}; `pangolin-chaos run --list` shows them"),
    };
    names.iter().map(find).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_found_by_name_and_every_name_is_there_once() {
        assert_eq!(named(&[]).expect("all").len(), ALL.len());
        assert_eq!(named(&["kill-all".to_owned()]).expect("one")[0].name, "kill-all");
        assert!(named(&["no".to_owned()]).expect_err("none").to_string().contains("--list"));
        let names: std::collections::BTreeSet<&str> = ALL.iter().map(|kind| kind.name).collect();
        assert_eq!(names.len(), ALL.len());
    }
}
