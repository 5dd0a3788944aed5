//! Clients of the API, each doing one thing at a time: they replace the value of a register, or read it, through
//! whichever node they are at. A register is an organisation, its value the display name; every value is written once.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use http::Method;
use pangolin_core::{NodeId, Revision};
use pangolin_wire::Code;
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::sleep};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    Worker,
    rest::{Endpoint, Reply, Rest},
};
use crate::{
    chance::Chance,
    history::{Call, What},
    testbed::{
        bed::{Bed, CLIENTS_HOST, keys},
        recorder::Recorder,
        roster::Roster,
    },
};

/// Longest that one attempt may take: a node itself gives up on a write after a few seconds.
const ATTEMPT_PATIENCE: Duration = Duration::from_secs(4);
/// Attempts at a write whose outcome is not known, under one request id.
const ATTEMPTS: usize = 3;
/// Share of the operations that write.
const WRITES: f64 = 0.5;
/// Share of the reads that only have to be as new as what this client has seen itself.
const LOCAL_READS: f64 = 0.4;
/// Share of the operations after which a client goes to another node though nothing went wrong.
const WANDERS: f64 = 0.05;

/// What the clients do.
#[derive(Clone, Debug)]
pub struct Load {
    /// How many they are.
    pub clients: u64,
    /// How many registers there are.
    pub keys: usize,
    /// Pause between two operations of one client.
    pub pause: Duration,
    /// What they choose by.
    pub seed: u64,
}

/// Starts the clients.
///
/// # Errors
/// No thread can be started.
pub fn start(bed: &Bed, load: &Load) -> anyhow::Result<Worker> {
    let (recorder, roster, load) = (bed.recorder.clone(), bed.roster.clone(), load.clone());
    let endpoint = endpoint(bed);
    Worker::start("clients", Some(&bed.network(CLIENTS_HOST)?), move |stop| async move {
        let mut all = JoinSet::new();
        for number in 1..=load.clients {
            let client = Client::new(number, &load, endpoint.clone(), recorder.clone(), roster.clone());
            all.spawn_local(client.run(load.pause, stop.clone()));
        }
        all.join_all().await;
    })
}

/// How clients come to the API.
#[must_use]
pub fn endpoint(bed: &Bed) -> Endpoint {
    Endpoint { https: bed.https.clone(), host: bed.control_host.clone(), key: bed.key.clone() }
}

/// One client.
#[derive(Debug)]
pub struct Client {
    number: u64,
    chance: Chance,
    keys: Vec<String>,
    endpoint: Endpoint,
    recorder: Recorder,
    roster: Roster,
    connections: BTreeMap<SocketAddr, Rest>,
    at: usize,
    seen: Option<Revision>,
    written: u64,
}

/// How a write has ended.
enum Outcome {
    Done(Option<Revision>),
    NotDone(String),
    Unknown(String),
}

impl Client {
    /// A client that begins at some node.
    #[must_use]
    pub fn new(number: u64, load: &Load, endpoint: Endpoint, recorder: Recorder, roster: Roster) -> Self {
        Self {
            number,
            chance: Chance::new(load.seed.wrapping_mul(1000).wrapping_add(number)),
            keys: keys(load.keys),
            endpoint,
            recorder,
            roster,
            connections: BTreeMap::new(),
            at: usize::try_from(number).unwrap_or(0),
            seen: None,
            written: 0,
        }
    }

    async fn run(mut self, pause: Duration, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let Some(key) = self.chance.one_of(&self.keys).cloned() else { return };
            let went_well = if self.chance.happens(WRITES) {
                self.write(&key).await.is_some()
            } else {
                let local = self.chance.happens(LOCAL_READS);
                self.read(&key, local).await
            };
            if !went_well || self.chance.happens(WANDERS) {
                self.at += 1;
            }
            let pause = self.chance.about(pause);
            tokio::select! { () = stop.cancelled() => {}, () = sleep(pause) => {} }
        }
    }

    /// Replaces the value of a register. Where it was committed, if it certainly was.
    pub async fn write(&mut self, key: &str) -> Option<Option<Revision>> {
        self.written += 1;
        let value = format!("c{}-{}", self.number, self.written);
        let (node, at) = self.node()?;
        let op = self.invoke(node, Call::Write { key: key.to_owned(), value: value.clone() });
        let outcome = self.try_write(at, key, &value).await;
        let (what, done) = match outcome {
            Outcome::Done(revision) => {
                self.saw(revision);
                (What::Ok { op, value: None, revision }, Some(revision))
            }
            Outcome::NotDone(reason) => (What::Fail { op, reason }, None),
            Outcome::Unknown(reason) => (What::Unknown { op, reason }, None),
        };
        self.recorder.push(what);
        done
    }

    /// An outcome that is not known is asked for under the same request id, at the next node: it is done once.
    async fn try_write(&mut self, at: SocketAddr, key: &str, value: &str) -> Outcome {
        let (request, body) = (Uuid::new_v4(), json!({ "name": value }));
        let path = format!("/org/{key}");
        let mut at = at;
        let mut unknown: Option<String> = None;
        for _ in 0..ATTEMPTS {
            let min = self.seen;
            let rest = self.connection(at);
            let reply = rest.send(Method::POST, &path, Some(&body), request, min, ATTEMPT_PATIENCE).await;
            match judge_write(reply) {
                Outcome::Done(revision) => return Outcome::Done(revision),
                // What may have been done before is not undone by a refusal now.
                Outcome::NotDone(reason) if unknown.is_none() => return Outcome::NotDone(reason),
                Outcome::NotDone(_) => {}
                Outcome::Unknown(reason) => unknown = unknown.or(Some(reason)),
            }
            self.at += 1;
            let Some((_, next)) = self.node() else { break };
            at = next;
        }
        Outcome::Unknown(unknown.unwrap_or_default())
    }

    /// Reads a register: as of now, or from the state of the node as it is. Whether that went well.
    pub async fn read(&mut self, key: &str, local: bool) -> bool {
        let Some((node, at)) = self.node() else { return false };
        let name = key.to_owned();
        let call = if local { Call::LocalRead { key: name } } else { Call::Read { key: name } };
        // Whoever sends the newest revision that anybody was answered gets everything that was acknowledged.
        let min = if local { self.seen } else { self.roster.newest().max(self.seen) };
        let op = self.invoke(node, call);
        let rest = self.connection(at);
        let path = format!("/org/{key}");
        let reply = rest.send(Method::GET, &path, None, Uuid::new_v4(), min, ATTEMPT_PATIENCE).await;
        let what = match reply {
            Reply::Answered { status: 200, data, revision, .. } => {
                self.saw(revision);
                // A register that was never written is called like its key.
                let value = data["name"].as_str().filter(|name| *name != key).map(str::to_owned);
                What::Ok { op, value, revision }
            }
            Reply::Answered { status, message, .. } => {
                What::Fail { op, reason: format!("{status} {message}") }
            }
            Reply::NotSent(reason) | Reply::Lost(reason) => What::Fail { op, reason },
        };
        let went_well = matches!(what, What::Ok { .. });
        self.recorder.push(what);
        went_well
    }

    /// Goes to the next node.
    pub fn wander(&mut self) {
        self.at += 1;
    }

    fn invoke(&self, node: NodeId, call: Call) -> u64 {
        let op = self.recorder.name();
        self.recorder.push(What::Invoke { client: self.number, op, node, call });
        op
    }

    fn saw(&mut self, revision: Option<Revision>) {
        self.seen = self.seen.max(revision);
        if let Some(revision) = revision {
            self.roster.saw(revision);
        }
    }

    /// The node that this client is at.
    fn node(&self) -> Option<(NodeId, SocketAddr)> {
        let members = self.roster.members();
        let (_, id, entry) = members.get(self.at % members.len().max(1))?;
        Some((*id, entry.https))
    }

    fn connection(&mut self, at: SocketAddr) -> &mut Rest {
        let endpoint = &self.endpoint;
        self.connections.entry(at).or_insert_with(|| Rest::new(endpoint.clone(), at))
    }
}

fn judge_write(reply: Reply) -> Outcome {
    match reply {
        Reply::Answered { status: 200 | 201, revision, .. } => Outcome::Done(revision),
        Reply::Answered { code: Some(Code::OutcomeUnknown | Code::NotVisibleYet), message, .. } => {
            Outcome::Unknown(message)
        }
        // A node that has failed in between says nothing of the outcome.
        Reply::Answered { status: 500, message, .. } => Outcome::Unknown(message),
        Reply::Answered { status, message, data, .. } => {
            let data = if data == Value::Null { String::new() } else { format!(" {data}") };
            Outcome::NotDone(format!("{status} {message}{data}"))
        }
        Reply::NotSent(reason) => Outcome::NotDone(reason),
        Reply::Lost(reason) => Outcome::Unknown(reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_certainly_happened_or_not_is_called_so() {
        let answered = |status, code| Reply::Answered {
            status,
            code,
            message: "said".to_owned(),
            data: Value::Null,
            revision: None,
        };
        for (reply, expected) in [
            (answered(200, None), "done"),
            (answered(503, Some(Code::NotAppended)), "not done"),
            (answered(503, Some(Code::Behind)), "not done"),
            (answered(404, Some(Code::NotFound)), "not done"),
            (answered(500, Some(Code::Internal)), "unknown"),
            (answered(504, Some(Code::OutcomeUnknown)), "unknown"),
            (answered(504, Some(Code::NotVisibleYet)), "unknown"),
            (Reply::NotSent("refused".to_owned()), "not done"),
            (Reply::Lost("reset".to_owned()), "unknown"),
        ] {
            let what = format!("{reply:?}");
            let judged = match judge_write(reply) {
                Outcome::Done(_) => "done",
                Outcome::NotDone(_) => "not done",
                Outcome::Unknown(_) => "unknown",
            };
            assert_eq!(judged, expected, "{what}");
        }
    }
}
