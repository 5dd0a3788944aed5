//! Carries out what is planned to go wrong: does faults to hosts and network, and undoes them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::Ordering,
    time::Duration,
};

use pangolin_core::NodeId;
use pangolin_storage::simulated::Fault as DiskFault;

use super::{
    client::Doors,
    dice::Dice,
    faults::{Kind, Planned},
    network::{Links, Net},
    node::Host,
    recorder::Recorder,
    vote_trap::VoteTrap,
    world,
};
use crate::history::{Fault, What};

/// How a fault ends.
enum Undo {
    Mend(Links),
    Release(Links),
    Start(BTreeSet<NodeId>),
    /// Until it has sprung, and what it has cut afterwards.
    Disarm(VoteTrap),
    Quicken,
    Deliver,
    SetClock(NodeId),
    SpeedUp(NodeId),
    Nothing,
}

struct Active {
    until: Duration,
    fault: u64,
    undo: Undo,
}

/// Does faults to a cluster.
pub(crate) struct Nemesis {
    /// The hosts.
    pub(crate) hosts: BTreeMap<NodeId, Host>,
    /// Where clients find those that run.
    pub(crate) doors: Doors,
    /// The network.
    pub(crate) net: Net,
    /// The history.
    pub(crate) recorder: Recorder,
    /// Random choices.
    pub(crate) dice: Dice,
    active: Vec<Active>,
    /// Nodes whose disks have failed, and when they are started again.
    to_start: BTreeMap<NodeId, Duration>,
}

impl Nemesis {
    /// Nothing is wrong yet.
    #[must_use]
    pub(crate) fn new(
        hosts: BTreeMap<NodeId, Host>,
        doors: Doors,
        net: Net,
        recorder: Recorder,
        dice: Dice,
    ) -> Self {
        Self { hosts, doors, net, recorder, dice, active: Vec::new(), to_start: BTreeMap::new() }
    }

    /// Lets so much time pass; what is due meanwhile is done.
    pub(crate) async fn pass(&mut self, time: Duration) {
        let end = world::elapsed() + time;
        while world::elapsed() < end {
            self.look().await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Begins a fault.
    pub(crate) async fn begin(&mut self, planned: Planned) {
        let fault = self.recorder.number();
        let leader = self.leader();
        let victim = match planned.kind {
            Kind::NodeGone => self.dispensable(),
            _ => self.any_running(),
        };
        let detail = Fault {
            fault,
            kind: planned.kind.name().into(),
            nodes: self.hit_by(planned.kind, victim, leader),
            detail: format!("for {} ms", planned.lasts.as_millis()),
        };
        let nodes = detail.nodes.clone();
        self.recorder.note(What::FaultStarted(detail));
        let undo = self.act(planned.kind, &nodes).await;
        self.active.push(Active { until: world::elapsed() + planned.lasts, fault, undo });
    }

    /// Ends all faults, and starts whoever is away.
    pub(crate) async fn heal(&mut self) {
        for active in std::mem::take(&mut self.active) {
            self.end(active).await;
        }
        self.net.heal();
        for host in self.hosts.values() {
            host.clock_off.store(0, Ordering::Relaxed);
            host.disk.slow_down(Duration::ZERO);
        }
        self.to_start.clear();
        let away: Vec<NodeId> =
            self.hosts.iter().filter(|(_, host)| host.alive().is_none()).map(|(id, _)| *id).collect();
        for node in away {
            self.start(node).await;
        }
        self.recorder.note(What::Healed);
    }

    /// Whoever leads, as somebody who runs says.
    #[must_use]
    pub(crate) fn leader(&self) -> Option<NodeId> {
        let leads =
            |host: &&Host| host.alive().is_some_and(|alive| alive.cluster.leadership().borrow().is_some());
        self.hosts.values().find(leads).map(|host| host.node)
    }

    /// Starts a node.
    pub(crate) async fn start(&mut self, node: NodeId) {
        let Some(host) = self.hosts.get_mut(&node) else { return };
        if host.alive().is_some() {
            return;
        }
        host.start().await;
        if let Some(alive) = host.alive() {
            self.doors.lock().insert(node, alive.clone());
        }
    }

    fn running(&self) -> Vec<NodeId> {
        self.hosts.values().filter(|host| host.alive().is_some()).map(|host| host.node).collect()
    }

    fn any_running(&mut self) -> Option<NodeId> {
        let running = self.running();
        self.dice.pick(&running)
    }

    /// A node without which the others can still decide.
    fn dispensable(&mut self) -> Option<NodeId> {
        let voters = self
            .leader()
            .and_then(|leader| Some(self.hosts.get(&leader)?.alive()?.cluster.status().voters))?;
        let running = self.running();
        let fits = |node: &NodeId| {
            let left = voters.iter().filter(|voter| *voter != node && running.contains(voter)).count();
            left * 2 > voters.len()
        };
        let fitting: Vec<NodeId> = running.iter().copied().filter(fits).collect();
        self.dice.pick(&fitting)
    }

    fn hit_by(&mut self, kind: Kind, victim: Option<NodeId>, leader: Option<NodeId>) -> BTreeSet<NodeId> {
        match kind {
            Kind::PowerLossEverywhere | Kind::PowerLossAfterVote | Kind::Ring | Kind::Delay | Kind::Loss => {
                self.hosts.keys().copied().collect()
            }
            Kind::KillLeader
            | Kind::IsolateLeader
            | Kind::TransferLeader
            | Kind::Hold
            | Kind::RemoveVoter => leader.or(victim).into_iter().collect(),
            Kind::PartitionHalves => {
                let mut nodes: Vec<NodeId> = self.hosts.keys().copied().collect();
                self.dice.shuffle(&mut nodes);
                nodes.truncate(nodes.len() / 2);
                nodes.into_iter().collect()
            }
            _ => victim.into_iter().collect(),
        }
    }

    /// What survives of the writes that were not synced when a process is killed, and when the power fails.
    const ALL_SURVIVE: usize = usize::MAX;

    fn some_survive(&mut self) -> usize {
        usize::try_from(self.dice.below(4)).unwrap_or_default()
    }

    fn down(&mut self, node: NodeId, survive: usize) {
        self.doors.lock().remove(&node);
        self.to_start.remove(&node);
        if let Some(host) = self.hosts.get_mut(&node) {
            host.crash(survive);
        }
    }

    async fn act(&mut self, kind: Kind, nodes: &BTreeSet<NodeId>) -> Undo {
        match kind {
            Kind::PowerLoss | Kind::PowerLossEverywhere | Kind::Kill | Kind::KillLeader | Kind::NodeGone => {
                for node in nodes {
                    let survive = match kind {
                        Kind::PowerLoss | Kind::PowerLossEverywhere => self.some_survive(),
                        _ => Self::ALL_SURVIVE,
                    };
                    self.down(*node, survive);
                }
                Undo::Start(nodes.clone())
            }
            Kind::PowerLossAfterVote => self.set_trap(),
            Kind::Stop => {
                for node in nodes {
                    self.doors.lock().remove(node);
                    if let Some(host) = self.hosts.get_mut(node) {
                        host.stop().await;
                    }
                }
                Undo::Start(nodes.clone())
            }
            Kind::PartitionHalves | Kind::IsolateLeader | Kind::IsolateOne => {
                self.cut(self.between(nodes, &self.others(nodes)))
            }
            Kind::Bridge => {
                let mut others: Vec<NodeId> = self.others(nodes).into_iter().collect();
                self.dice.shuffle(&mut others);
                let left: BTreeSet<NodeId> = others.iter().copied().take(others.len() / 2).collect();
                let right = others.iter().copied().filter(|node| !left.contains(node)).collect();
                self.cut(self.between(&left, &right))
            }
            Kind::Ring => self.cut(self.ring()),
            Kind::OneWayIn | Kind::OneWayOut => {
                let from = if kind == Kind::OneWayIn { self.others(nodes) } else { nodes.clone() };
                let to = if kind == Kind::OneWayIn { nodes.clone() } else { self.others(nodes) };
                self.cut(from.iter().flat_map(|from| to.iter().map(|to| (*from, *to))).collect())
            }
            Kind::Hold => {
                let others: Vec<NodeId> = self.others(nodes).into_iter().collect();
                let other: BTreeSet<NodeId> = self.dice.pick(&others).into_iter().collect();
                let links = self.between(nodes, &other);
                self.net.hold(links.iter().copied());
                Undo::Release(links)
            }
            Kind::Delay => {
                let ms = 20 + self.dice.below(180);
                self.net.set_delay(ms);
                Undo::Quicken
            }
            Kind::Loss => {
                let of_hundred = 5 + self.dice.below(20);
                self.net.set_loss(of_hundred);
                Undo::Deliver
            }
            _ => self.act_on_one(kind, nodes),
        }
    }

    fn act_on_one(&mut self, kind: Kind, nodes: &BTreeSet<NodeId>) -> Undo {
        let Some(node) = nodes.first().copied() else { return Undo::Nothing };
        let Some(host) = self.hosts.get(&node) else { return Undo::Nothing };
        match kind {
            Kind::ClockJump => {
                let off = i64::try_from(self.dice.below(600_000)).unwrap_or_default() - 300_000;
                host.clock_off.store(off, Ordering::Relaxed);
                Undo::SetClock(node)
            }
            Kind::SlowDisk => {
                host.disk.slow_down(self.dice.time(50, 400));
                Undo::SpeedUp(node)
            }
            Kind::DiskFull | Kind::WriteError | Kind::SyncError => {
                host.disk.fail_next(match kind {
                    Kind::DiskFull => DiskFault::Full,
                    Kind::WriteError => DiskFault::Write,
                    _ => DiskFault::Sync,
                });
                Undo::Nothing
            }
            Kind::Snapshot | Kind::TransferLeader => {
                if let Some(cluster) = host.alive().map(|alive| alive.cluster.clone()) {
                    tokio::spawn(async move {
                        let done = match kind {
                            Kind::Snapshot => cluster.snapshot().await,
                            _ => cluster.transfer_leadership(None).await.map(|_| ()),
                        };
                        tracing::debug!(?done, "asked for");
                    });
                }
                Undo::Nothing
            }
            Kind::AddVoter | Kind::RemoveVoter => {
                self.change_members(kind);
                // In half of the cases nobody hears the leader from that very moment on.
                match self.dice.percent(50) {
                    true => self.cut(self.between(nodes, &self.others(nodes))),
                    false => Undo::Nothing,
                }
            }
            _ => Undo::Nothing,
        }
    }

    /// Asks whoever leads for one change of the membership.
    fn change_members(&mut self, kind: Kind) {
        let leader = self.leader().and_then(|leader| self.hosts.get(&leader));
        let Some(cluster) = leader.and_then(Host::alive).map(|alive| alive.cluster.clone()) else { return };
        let mut nodes: Vec<NodeId> = self.hosts.keys().copied().collect();
        self.dice.shuffle(&mut nodes);
        tokio::spawn(async move {
            let Some(leader) = cluster.lead() else { return };
            let voters = leader.voters();
            let done = match kind {
                Kind::AddVoter => {
                    let Some(node) = nodes.into_iter().find(|node| !voters.contains(node)) else { return };
                    if let Err(error) = leader.add_learner(node).await {
                        tracing::debug!(%error, "no learner");
                    }
                    leader.promote(node).await
                }
                _ => {
                    let me = cluster.status().node;
                    let removed = nodes.into_iter().find(|node| *node != me && voters.contains(node));
                    let (Some(node), true) = (removed, voters.len() > 2) else { return };
                    leader.remove(node).await
                }
            };
            tracing::debug!(?done, "the membership");
        });
    }

    fn others(&self, nodes: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
        self.hosts.keys().copied().filter(|node| !nodes.contains(node)).collect()
    }

    fn between(&self, some: &BTreeSet<NodeId>, others: &BTreeSet<NodeId>) -> Links {
        some.iter().flat_map(|a| others.iter().flat_map(move |b| [(*a, *b), (*b, *a)])).collect()
    }

    /// Each node hears its two neighbours only: of three, the first and the last do not hear each other.
    fn ring(&self) -> Links {
        let nodes: Vec<NodeId> = self.hosts.keys().copied().collect();
        let (count, closed) = (nodes.len(), nodes.len() > 3);
        let mut links = Links::new();
        for (a, from) in nodes.iter().enumerate() {
            for (b, to) in nodes.iter().enumerate() {
                let apart = a.abs_diff(b);
                if apart > 1 && !(closed && apart == count - 1) {
                    links.insert((*from, *to));
                }
            }
        }
        links
    }

    /// Kills the leader, and waits for those who elect another one.
    fn set_trap(&mut self) -> Undo {
        let Some(leader) = self.leader() else { return Undo::Nothing };
        let status = self.hosts.get(&leader).and_then(Host::alive).map(|alive| alive.cluster.status());
        let voters = status.map_or(0, |status| status.voters.len());
        self.down(leader, Self::ALL_SURVIVE);
        Undo::Disarm(VoteTrap::set(leader, voters, self.hosts.values(), &self.net))
    }

    /// The power of all who have just voted fails. They start again at once, as does the leader whose end they were
    /// voting about: enough for another election, while the one they elected is heard by nobody.
    fn spring(&mut self, now: Duration) {
        let traps = self.active.iter().filter_map(|active| match &active.undo {
            Undo::Disarm(trap) => trap.spring(now),
            _ => None,
        });
        for (voters, before) in traps.collect::<Vec<_>>() {
            for voter in &voters {
                self.down(*voter, 0);
            }
            for node in voters.into_iter().chain([before]) {
                self.to_start.insert(node, now + self.dice.time(50, 300));
            }
        }
    }

    fn cut(&self, links: Links) -> Undo {
        self.net.cut(links.iter().copied());
        Undo::Mend(links)
    }

    async fn end(&mut self, active: Active) {
        match active.undo {
            Undo::Mend(links) => self.net.mend(links),
            Undo::Release(links) => self.net.release(links),
            Undo::Start(nodes) => {
                for node in nodes {
                    self.start(node).await;
                }
            }
            Undo::Disarm(trap) => {
                self.net.mend(trap.links());
                self.start(trap.before()).await;
            }
            Undo::Quicken => self.net.set_delay(super::network::HEALTHY_DELAY),
            Undo::Deliver => self.net.set_loss(0),
            Undo::SetClock(node) => {
                if let Some(host) = self.hosts.get(&node) {
                    host.clock_off.store(0, Ordering::Relaxed);
                }
            }
            Undo::SpeedUp(node) => {
                if let Some(host) = self.hosts.get(&node) {
                    host.disk.slow_down(Duration::ZERO);
                }
            }
            Undo::Nothing => {}
        }
        self.recorder.note(What::FaultEnded { fault: active.fault });
    }

    /// Ends what is over, and does what systemd does: a node that has ended is started again.
    async fn look(&mut self) {
        let now = world::elapsed();
        let (over, active) =
            std::mem::take(&mut self.active).into_iter().partition(|active: &Active| active.until <= now);
        self.active = active;
        for active in over {
            self.end(active).await;
        }
        self.spring(now);
        let ended: Vec<NodeId> =
            self.hosts.values().filter(|host| host.has_ended()).map(|host| host.node).collect();
        for node in ended {
            let survive = self.some_survive();
            self.down(node, survive);
            self.to_start.insert(node, now + self.dice.time(300, 1500));
        }
        let due: Vec<NodeId> =
            self.to_start.iter().filter(|(_, at)| **at <= now).map(|(node, _)| *node).collect();
        for node in due {
            self.to_start.remove(&node);
            self.start(node).await;
        }
    }
}
