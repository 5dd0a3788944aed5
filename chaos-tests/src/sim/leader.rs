//! What a simulated node does while it leads: it decides, as the product does, and looks after the membership.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use pangolin_core::{
    Actor, Body, Cause, Fence, NodeId, Outcome,
    decide::{Step, Voting, decide, hand_over, next_step},
};
use pangolin_raft::{Committed, Leader, MembershipError, Proposal};
use tokio::time::sleep;

use super::{
    node::{Duties, steady},
    world,
};
use crate::history::What;

/// How often the leader looks at everything.
const TICK: Duration = Duration::from_millis(200);
/// How often it looks at the membership.
const TEND: Duration = Duration::from_millis(500);
/// A member this close to the end of the log has caught up.
const LAG_MAX: u64 = 50;
/// Decisions of a hundred that come late.
const LATE: u64 = 20;

/// What a leader has decided.
#[derive(Clone)]
struct Decision {
    cause: Cause,
    fence: Fence,
    body: Body,
}

impl Decision {
    fn proposal(self) -> Proposal {
        Proposal { request: None, cause: self.cause, fence: self.fence, body: self.body }
    }
}

impl Duties {
    /// The duties of a leader, while it is one.
    pub(crate) async fn lead(self) {
        let mut leadership = self.cluster.leadership();
        loop {
            let term = *leadership.borrow_and_update();
            let serve = async {
                match term {
                    Some(term) => self.serve(term).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = leadership.changed() => if changed.is_err() { return },
                () = serve => {}
            }
        }
    }

    async fn serve(&self, term: u64) {
        let started = Decision {
            cause: Cause::new(Actor::Leader(self.me()), "elected"),
            fence: Fence::None,
            body: Body::LeaderStarted { term, node: self.me() },
        };
        while self.decide_on(started.clone()).await.is_none() {
            sleep(TICK).await;
        }
        tokio::join!(self.decide_loop(), self.members_loop());
    }

    async fn decide_loop(&self) {
        loop {
            let state = self.cluster.state();
            let commands = decide(&state, &self.seen.lock().clone(), self.me(), steady());
            for command in commands {
                let decision = Decision { cause: command.cause, fence: command.fence, body: command.body };
                // A leader may be stopped between a decision and its proposal for as long as it pleases its host, and
                // then goes on with what it had in mind: only the fence tells that it comes late.
                if self.dice.lock().percent(LATE) {
                    let (late, pause) = (self.clone(), self.dice.lock().time(200, 4000));
                    tokio::spawn(async move {
                        sleep(pause).await;
                        late.decide_late(decision).await;
                    });
                    continue;
                }
                let pause = self.dice.lock().time(0, 20);
                sleep(pause).await;
                if self.decide_on(decision).await.is_none() {
                    break;
                }
            }
            sleep(TICK).await;
        }
    }

    /// Brings a decision into the log, as the leader; none if it is not known to be there.
    async fn decide_on(&self, decision: Decision) -> Option<()> {
        let committed = self.cluster.lead()?.propose(decision.clone().proposal()).await.ok()?;
        self.decided(&decision, &committed);
        Some(())
    }

    /// Brings a decision into the log through whoever leads by now.
    async fn decide_late(&self, decision: Decision) {
        if let Ok(committed) = self.cluster.propose(decision.clone().proposal()).await {
            self.decided(&decision, &committed);
        }
    }

    /// What leaders decide takes effect in the order of the log, under terms that only grow; what they decide about a
    /// site, under epochs that do.
    fn decided(&self, decision: &Decision, committed: &Committed) {
        if !matches!(committed.outcome, Outcome::Done(_)) {
            return;
        }
        let effect = |target: String, fence| {
            let (node, revision) = (self.me(), Some(committed.revision));
            self.lab.recorder.note(What::Effect { node, target, fence, revision });
        };
        if let Body::LeaderStarted { term, .. } = decision.body {
            effect("decisions".into(), term);
        }
        match decision.fence {
            Fence::Term(term) => effect("decisions".into(), term),
            Fence::Placement { term, site, epoch } => {
                effect("decisions".into(), term);
                effect(format!("the home of site {site}"), epoch.0);
            }
            Fence::None => {}
        }
    }

    /// The autopilot of the product. A leader that an operator has drained hands over.
    async fn members_loop(&self) {
        let mut caught_up_since = BTreeMap::new();
        loop {
            sleep(TEND).await;
            let Some(leader) = self.cluster.lead() else { continue };
            let (state, voting) = (self.cluster.state(), self.voting(&mut caught_up_since));
            if let Some(to) = hand_over(&state, &voting, self.me()) {
                let handed = self.cluster.transfer_leadership(Some(to)).await;
                tracing::debug!(?handed, "the leadership");
                continue;
            }
            let done = match leader.finish_change().await {
                Ok(()) => self.take(&leader, next_step(&state, &voting, self.me(), steady())).await,
                Err(error) => Err(error),
            };
            tracing::debug!(?done, "the membership");
        }
    }

    async fn take(&self, leader: &Leader<'_>, step: Option<Step>) -> Result<(), MembershipError> {
        match step {
            Some(Step::AddLearner(node)) => leader.add_learner(node).await,
            Some(Step::Promote(node)) if self.lab.promotes => leader.promote(node).await,
            Some(Step::Exchange { out, into }) if self.lab.promotes => leader.exchange(out, into).await,
            _ => Ok(()),
        }
    }

    /// The membership as it looks from here, and for how long each member has kept up.
    fn voting(&self, caught_up_since: &mut BTreeMap<NodeId, Duration>) -> Voting {
        let (status, now, me) = (self.cluster.status(), world::elapsed(), self.me());
        let seen = self.seen.lock();
        let own = seen.fresh(steady()).find(|(node, _)| *node == me);
        let peers = own.iter().flat_map(|(_, report)| &report.peers);
        let alive: BTreeSet<NodeId> =
            peers.filter(|(_, seen)| seen.alive).map(|(node, _)| *node).chain([me]).collect();
        let end = status.last_log.unwrap_or(0);
        let keeps_up = |node: &NodeId| {
            let matched = status.progress.get(node);
            *node != me && alive.contains(node) && matched.is_some_and(|matched| matched + LAG_MAX >= end)
        };
        let caught_up: Vec<NodeId> =
            status.voters.union(&status.learners).copied().filter(keeps_up).collect();
        caught_up_since.retain(|node, _| caught_up.contains(node));
        let caught_up_for = caught_up
            .into_iter()
            .map(|node| (node, now.saturating_sub(*caught_up_since.entry(node).or_insert(now))))
            .collect();
        Voting { voters: status.voters, learners: status.learners, alive, caught_up_for }
    }
}
