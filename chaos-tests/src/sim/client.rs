//! Clients: each asks one thing at a time, of any node, and says what it knows of the outcome.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use pangolin_core::{
    Actor, Body, CatalogChange, Cause, ClusterState, Fence, HostName, NodeId, Outcome, Refusal, Revision,
    id::{ClientId, RequestId},
    plan::DnsPlan,
    record::{RecordData, RecordKind, RecordSet},
};
use pangolin_raft::{Cluster, Proposal, ProposeError};
use parking_lot::Mutex;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    dice::Dice,
    node::Alive,
    recorder::Recorder,
    scene::{ZONE, key_name},
};
use crate::history::{Call, DnsAnswer, What};

/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long a read may take.
const READ: Duration = Duration::from_secs(2);
/// How often an operation of unknown outcome is asked again, at most.
const REPEATS: u64 = 2;

/// The nodes that can be asked right now.
pub(crate) type Doors = Arc<Mutex<BTreeMap<NodeId, Alive>>>;

/// A client.
pub(crate) struct Client {
    /// Who.
    pub(crate) id: u64,
    /// Whom it can ask.
    pub(crate) doors: Doors,
    /// What it says.
    pub(crate) recorder: Recorder,
    /// What it wants.
    pub(crate) dice: Dice,
    /// What it asks about.
    pub(crate) keys: Vec<String>,
    /// What it has seen.
    pub(crate) seen: Revision,
    /// Counts its requests.
    pub(crate) serial: u64,
}

/// How a write ended.
enum Written {
    At(Revision),
    Not(String),
    Unknown(String),
}

impl Client {
    /// Asks until told to end.
    pub(crate) async fn run(mut self, end: CancellationToken) {
        while !end.is_cancelled() {
            let pause = self.dice.time(20, 300);
            sleep(pause).await;
            self.ask().await;
        }
    }

    async fn ask(&mut self) {
        let doors = self.doors();
        let (Some(node), Some(key)) = (self.dice.pick(&doors), self.pick_key()) else { return };
        match self.dice.below(100) {
            0..50 => self.write(node, key).await,
            50..80 => {
                self.read(node, key).await;
            }
            _ => self.read_local(node, key).await,
        }
    }

    fn doors(&self) -> Vec<NodeId> {
        self.doors.lock().keys().copied().collect()
    }

    fn pick_key(&mut self) -> Option<String> {
        let place = usize::try_from(self.dice.below(self.keys.len() as u64)).ok()?;
        self.keys.get(place).cloned()
    }

    fn invoke(&self, node: NodeId, call: Call) -> u64 {
        let op = self.recorder.number();
        self.recorder.note(What::Invoke { client: self.id, op, node, call });
        op
    }

    async fn write(&mut self, node: NodeId, key: String) {
        let value = format!("c{}n{}", self.id, self.serial);
        let op = self.invoke(node, Call::Write { key: key.clone(), value: value.clone() });
        let data = vec![RecordData::Txt(value.into_bytes())];
        let change = CatalogChange::RecordSetSet {
            name: key_name(&key),
            kind: RecordKind::Txt,
            set: Some(RecordSet { ttl: 30, data }),
        };
        self.serial += 1;
        let mut client = [0; 16];
        client[..8].copy_from_slice(&self.id.to_le_bytes());
        let proposal = Proposal {
            request: Some(RequestId { client: ClientId(client), serial: self.serial }),
            cause: Cause::new(Actor::Operator("simulator".into()), "load"),
            fence: Fence::None,
            body: Body::Catalog(Box::new(change)),
        };
        let mut written = self.write_through(node, &proposal).await;
        for _ in 0..REPEATS {
            // Whoever does not know may ask again, anywhere: the request has a name.
            if !matches!(written, Written::Unknown(_)) || self.dice.percent(50) {
                break;
            }
            sleep(Duration::from_millis(100)).await;
            let doors = self.doors();
            let Some(node) = self.dice.pick(&doors) else { break };
            match self.write_through(node, &proposal).await {
                // The first attempt may still be on its way.
                Written::Not(reason) => written = Written::Unknown(reason),
                other => written = other,
            }
        }
        self.recorder.note(match written {
            Written::At(revision) => {
                self.seen = self.seen.max(revision);
                What::Ok { op, value: None, revision: Some(revision) }
            }
            Written::Not(reason) => What::Fail { op, reason },
            Written::Unknown(reason) => What::Unknown { op, reason },
        });
    }

    async fn write_through(&self, node: NodeId, proposal: &Proposal) -> Written {
        #[cfg(planted)]
        self.leak(node, proposal);
        let asked = self.with(node, |cluster| async move { cluster.propose(proposal.clone()).await }).await;
        match asked {
            Asked::Answered(Ok(committed)) => match committed.outcome {
                Outcome::Done(_) => Written::At(committed.revision),
                Outcome::Refused(Refusal::Forgotten { .. }) => Written::Unknown("forgotten".into()),
                Outcome::Refused(refusal) => Written::Not(refusal.to_string()),
            },
            Asked::Answered(Err(ProposeError::OutcomeUnknown { reason, .. })) => Written::Unknown(reason),
            Asked::Answered(Err(error)) => Written::Not(error.to_string()),
            Asked::Refused => Written::Not("the node is off".into()),
            Asked::Cut(reason) => Written::Unknown(reason.into()),
        }
    }

    /// The planted bug of DNS that answers from what is only proposed.
    #[cfg(planted)]
    fn leak(&self, node: NodeId, proposal: &Proposal) {
        use pangolin_core::{
            Command, plan,
            planted::{Bug, is},
        };
        let Some(alive) = self.doors.lock().get(&node).cloned() else { return };
        if is(Bug::DnsUncommitted) {
            let mut state = ClusterState::clone(&alive.cluster.state());
            let Proposal { request, cause, fence, body } = proposal.clone();
            let command = Command { request, at: state.time(), cause, fence, body };
            state.apply(state.revision().index + 1, &command);
            *alive.dns.lock() = plan(&state, node).dns;
        }
    }

    /// Reads as of now; false without an answer.
    async fn read(&mut self, node: NodeId, key: String) -> bool {
        let op = self.invoke(node, Call::Read { key: key.clone() });
        let asked = self
            .with(node, |cluster| async move { cluster.read_barrier(READ).await.map(|_| cluster.state()) });
        let asked = asked.await;
        let read = matches!(asked, Asked::Answered(Ok(_)));
        self.answered(op, &key, asked);
        read
    }

    async fn read_local(&mut self, node: NodeId, key: String) {
        let op = self.invoke(node, Call::LocalRead { key: key.clone() });
        let seen = self.seen;
        let asked = self.with(node, |cluster| async move {
            cluster.wait_applied(seen, READ).await.map(|()| cluster.state())
        });
        let asked = asked.await;
        self.answered(op, &key, asked);
    }

    fn answered<E: std::fmt::Display>(
        &mut self,
        op: u64,
        key: &str,
        asked: Asked<Result<Arc<ClusterState>, E>>,
    ) {
        self.recorder.note(match asked {
            Asked::Answered(Ok(state)) => {
                self.seen = self.seen.max(state.revision());
                What::Ok { op, value: value_of(&state, key), revision: Some(state.revision()) }
            }
            Asked::Answered(Err(error)) => What::Fail { op, reason: error.to_string() },
            Asked::Refused => What::Fail { op, reason: "the node is off".into() },
            Asked::Cut(reason) => What::Fail { op, reason: reason.into() },
        });
    }

    /// Asks a node, for as long as it lives and this client has patience.
    async fn with<T, F: Future<Output = T>>(
        &self,
        node: NodeId,
        question: impl FnOnce(Cluster) -> F,
    ) -> Asked<T> {
        let Some(alive) = self.doors.lock().get(&node).cloned() else { return Asked::Refused };
        if alive.ended.is_cancelled() {
            return Asked::Refused;
        }
        tokio::select! {
            biased;
            () = alive.ended.cancelled() => Asked::Cut("the node ended"),
            answer = timeout(PATIENCE, question(alive.cluster.clone())) => match answer {
                Ok(answer) => Asked::Answered(answer),
                Err(_) => Asked::Cut("no answer in time"),
            },
        }
    }

    /// Reads every key once, as of now.
    pub(crate) async fn read_all(&mut self) {
        for key in self.keys.clone() {
            for _ in 0..50 {
                let doors = self.doors();
                let Some(node) = self.dice.pick(&doors) else { break };
                if self.read(node, key.clone()).await {
                    break;
                }
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

enum Asked<T> {
    Answered(T),
    /// Nothing was asked.
    Refused,
    /// Nobody knows what became of it.
    Cut(&'static str),
}

fn value_of(state: &ClusterState, key: &str) -> Option<String> {
    let set = state.record_sets().get(&(key_name(key), RecordKind::Txt))?;
    text(set.data.first()?)
}

fn text(data: &RecordData) -> Option<String> {
    match data {
        RecordData::Txt(bytes) => String::from_utf8(bytes.clone()).ok(),
        _ => None,
    }
}

/// Asks the nodes' DNS all the while.
pub(crate) async fn ask_dns(
    doors: Doors,
    recorder: Recorder,
    mut dice: Dice,
    keys: Vec<String>,
    control: HostName,
    addresses: BTreeMap<std::net::IpAddr, NodeId>,
    end: CancellationToken,
) {
    while !end.is_cancelled() {
        sleep(dice.time(30, 120)).await;
        let nodes: Vec<NodeId> = doors.lock().keys().copied().collect();
        let Some(alive) = dice.pick(&nodes).and_then(|node| doors.lock().get(&node).cloned()) else {
            continue;
        };
        if alive.ended.is_cancelled() {
            continue;
        }
        let status = alive.cluster.status();
        let (applied, plan) = (alive.cluster.state().revision(), alive.dns.lock().clone());
        let (name, kind) = match dice.percent(50) {
            true => (control.clone(), RecordKind::A),
            false => {
                let place = usize::try_from(dice.below(keys.len() as u64)).unwrap_or_default();
                let Some(key) = keys.get(place) else { continue };
                (key_name(key), RecordKind::Txt)
            }
        };
        let Some((serial, data)) = look_up(&plan, &name, kind) else { continue };
        let names = data.iter().filter_map(|data| match data {
            RecordData::A(address) => addresses.get(&std::net::IpAddr::V4(*address)).copied(),
            _ => None,
        });
        recorder.note(What::DnsAnswer(DnsAnswer {
            node: status.node,
            question: format!("{name} {kind:?}"),
            code: 0,
            serial,
            names: names.collect(),
            answers: data.iter().map(|data| text(data).unwrap_or_else(|| format!("{data:?}"))).collect(),
            applied,
        }));
    }
}

fn look_up(plan: &DnsPlan, name: &HostName, kind: RecordKind) -> Option<(u32, Vec<RecordData>)> {
    let zone = plan.zones.iter().find(|zone| zone.apex.to_string() == ZONE)?;
    let set = zone.sets.get(name).and_then(|kinds| kinds.get(&kind));
    Some((zone.serial, set.map(|set| set.data.clone()).unwrap_or_default()))
}
