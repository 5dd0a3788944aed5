//! What happened in a run, in the order of one monotonic clock: what clients asked and were answered, which faults
//! began and ended, and what was seen of the nodes. The simulator and the cluster of real processes write the same
//! history; the [invariants](crate::invariants) judge nothing else.
//!
//! On disk it is `history.jsonl`: the [`Header`] on the first line, then one [`Event`] per line.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    io::{self, BufRead, Write},
    path::Path,
};

use pangolin_core::{NodeId, Revision, SiteId};
use serde::{Deserialize, Serialize};

/// How long before a span of time lateness still counts for it, in microseconds: what was held up then goes on now.
const LATE_BEFORE: u64 = 2_000_000;

/// Time that is excused for each microsecond that somebody had to wait for a processor: nodes wait for each other, too.
pub const PER_LATE: u64 = 10;

/// Version of the format.
pub const FORMAT: u32 = 1;

/// What a run was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// [`FORMAT`].
    pub format: u32,
    /// Who ran it: `sim` or `netns`.
    pub kind: String,
    /// What its faults and its load were drawn from.
    pub seed: u64,
    /// The one command that repeats it.
    pub command: String,
    /// Names of the invariants that this run has to put to the test: one that nothing was found to check for makes
    /// the verdict unknown.
    pub expects: BTreeSet<String>,
    /// The faults that have to have happened at least once, by [`Fault::kind`].
    pub faults: BTreeSet<String>,
    /// How many requests have to have been answered with success.
    pub load: usize,
}

/// Names an operation within a run.
pub type OpId = u64;

/// A moment and what happened then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Microseconds since the run began, by one monotonic clock.
    pub at: u64,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum What {
    /// A client asks. It asks one thing at a time.
    Invoke {
        /// Who.
        client: u64,
        /// The operation.
        op: OpId,
        /// The node that it asks.
        node: NodeId,
        /// What.
        #[serde(flatten)]
        call: Call,
    },
    /// It was answered: the operation has taken place.
    Ok {
        /// Which.
        op: OpId,
        /// What a read found; none if there is nothing under the key.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        value: Option<String>,
        /// Of a write: where it was committed. Of a read: the state that it was answered from.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        revision: Option<Revision>,
    },
    /// It was refused: the operation has certainly not taken place, and will not.
    Fail {
        /// Which.
        op: OpId,
        /// Why.
        reason: String,
    },
    /// It is not known whether it has taken place, or will.
    Unknown {
        /// Which.
        op: OpId,
        /// Why.
        reason: String,
    },
    /// A fault begins.
    FaultStarted(Fault),
    /// It ends.
    FaultEnded {
        /// Which.
        fault: u64,
    },
    /// All faults have ended: from here on the cluster has to serve again.
    Healed,
    /// A node's process runs.
    Started {
        /// Which.
        node: NodeId,
    },
    /// It has ended: killed, crashed, or stopped.
    Stopped {
        /// Which.
        node: NodeId,
    },
    /// It is no member any more, for good. If its host joins again, it does as another node.
    Removed {
        /// Which.
        node: NodeId,
    },
    /// A node was looked at.
    Observed(Observed),
    /// The home of a site, as a node knows it.
    Placement {
        /// Who says so.
        node: NodeId,
        /// The state that it says so from.
        revision: Revision,
        /// The site.
        site: SiteId,
        /// Grows with every move.
        epoch: u64,
        /// Where the tunnel ends.
        home: NodeId,
    },
    /// Something outside the log was done under a fence, and was let through.
    Effect {
        /// By whom.
        node: NodeId,
        /// On what: effects on different things are not compared.
        target: String,
        /// The fence that it was decided under: terms, epochs or revisions of one target grow.
        fence: u64,
        /// Where the log says that it was done. Effects that have a place in the log are compared in its order, all
        /// others in that of the clock.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        revision: Option<Revision>,
    },
    /// A node's DNS answered.
    DnsAnswer(DnsAnswer),
    /// For those who read.
    Note {
        /// What.
        text: String,
    },
    /// A visitor asked a node for the published page, and was answered or gave up.
    Probe(Probe),
    /// What the process of a node takes of its host.
    Usage(Usage),
    /// The harness, or a node's threads taken together, had to wait so long for a processor: the machine is busy, and
    /// silence before this is nobody's fault.
    Late {
        /// How much, in microseconds.
        micros: u64,
    },
    /// Something happened that must not happen, whatever the faults: a panic, an end without a reason, a start on a
    /// disk that has lost what was acknowledged.
    Wrong {
        /// The node.
        node: NodeId,
        /// What.
        text: String,
    },
}

/// A visitor's request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// The node whose edge was asked.
    pub node: NodeId,
    /// When, in microseconds since the run began.
    pub sent: u64,
    /// What went wrong; none if the page came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// What a process takes of its host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// The node.
    pub node: NodeId,
    /// The id of its process.
    pub process: u32,
    /// Resident memory, in bytes.
    pub memory: u64,
    /// Open files and sockets.
    pub descriptors: usize,
}

/// What a client asks. A key stands for one register.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "call", rename_all = "snake_case")]
pub enum Call {
    /// Replaces the value. No two writes of a run write the same one.
    Write {
        /// Where.
        key: String,
        /// What.
        value: String,
    },
    /// Reads the value as of now: the answer includes everything that was acknowledged before, anywhere.
    Read {
        /// Where.
        key: String,
    },
    /// Reads a node's own state: it may be behind, but never behind what this client has seen.
    LocalRead {
        /// Where.
        key: String,
    },
}

impl Call {
    /// The register.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Write { key, .. } | Self::Read { key } | Self::LocalRead { key } => key,
        }
    }
}

/// A fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Names it within the run.
    pub fault: u64,
    /// What sort: `crash`, `partition-halves`, ….
    pub kind: String,
    /// The nodes that are hit.
    pub nodes: BTreeSet<NodeId>,
    /// More, for those who read.
    pub detail: String,
}

/// What a node is in the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It leads, as it believes.
    Leader,
    /// It does not.
    Other,
}

/// What was seen of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// Which.
    pub node: NodeId,
    /// What it is.
    pub role: Role,
    /// In which term.
    pub term: u64,
    /// How far it has applied the log.
    pub applied: Revision,
    /// Digest of its state there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
}

/// An answer of a node's DNS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsAnswer {
    /// Who answered.
    pub node: NodeId,
    /// What was asked for: owner name and type.
    pub question: String,
    /// Response code: 0 if there is an answer, or the name has none of the type. With any other nothing else is known.
    #[serde(default, skip_serializing_if = "is_fine")]
    pub code: u8,
    /// SOA serial of the zone: a pure function of the revision that the answers follow from.
    pub serial: u32,
    /// The values, in order of the answer; empty if there are none.
    pub answers: Vec<String>,
    /// How far the node is known to have applied the log when it was asked.
    pub applied: Revision,
    /// The nodes that the answer sends people to, where it names addresses of nodes.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub names: BTreeSet<NodeId>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
fn is_fine(code: &u8) -> bool {
    *code == 0
}

/// A run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    /// What it was.
    pub header: Header,
    /// What happened, in order.
    pub events: Vec<Event>,
}

/// How an operation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It has taken place.
    Ok {
        /// What a read found.
        value: Option<String>,
        /// See [`What::Ok`].
        revision: Option<Revision>,
    },
    /// It has not.
    Fail,
    /// Nobody knows, also because the run was over first.
    Unknown,
}

/// An operation from its call to its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Its name.
    pub op: OpId,
    /// Who asked.
    pub client: u64,
    /// Whom.
    pub node: NodeId,
    /// What.
    pub call: Call,
    /// When it was asked.
    pub from: u64,
    /// When it was answered; of unknown outcomes, when the client gave up.
    pub to: u64,
    /// How it ended.
    pub end: End,
}

impl History {
    /// An empty history.
    #[must_use]
    pub fn new(header: Header) -> Self {
        Self { header, events: Vec::new() }
    }

    /// Notes what happens at `at`.
    pub fn push(&mut self, at: u64, what: What) {
        self.events.push(Event { at, what });
    }

    /// The operations in the order in which they were called.
    #[must_use]
    pub fn operations(&self) -> Vec<Operation> {
        let mut all: Vec<Operation> = Vec::new();
        let mut open: BTreeMap<OpId, usize> = BTreeMap::new();
        for Event { at, what } in &self.events {
            let (op, end) = match what {
                What::Invoke { client, op, node, call } => {
                    open.insert(*op, all.len());
                    all.push(Operation {
                        op: *op,
                        client: *client,
                        node: *node,
                        call: call.clone(),
                        from: *at,
                        to: u64::MAX,
                        end: End::Unknown,
                    });
                    continue;
                }
                What::Ok { op, value, revision } => {
                    (op, End::Ok { value: value.clone(), revision: *revision })
                }
                What::Fail { op, .. } => (op, End::Fail),
                What::Unknown { op, .. } => (op, End::Unknown),
                _ => continue,
            };
            if let Some(operation) = open.remove(op).and_then(|place| all.get_mut(place)) {
                operation.to = *at;
                operation.end = end;
            }
        }
        all
    }

    /// How long somebody had to wait for a processor between two moments, and shortly before, in microseconds: 0 in a
    /// simulation.
    #[must_use]
    pub fn late_between(&self, from: u64, to: u64) -> u64 {
        let first = self.events.partition_point(|event| event.at < from.saturating_sub(LATE_BEFORE));
        let events = self.events[first..].iter().take_while(|event| event.at <= to);
        let late = events.filter_map(|event| match event.what {
            What::Late { micros } => Some(micros),
            _ => None,
        });
        late.sum()
    }

    /// Writes it as `history.jsonl` wants it.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn write_to(&self, out: &mut impl Write) -> io::Result<()> {
        serde_json::to_writer(&mut *out, &self.header)?;
        out.write_all(b"\n")?;
        for event in &self.events {
            serde_json::to_writer(&mut *out, event)?;
            out.write_all(b"\n")?;
        }
        out.flush()
    }

    /// Writes the file.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        self.write_to(&mut io::BufWriter::new(std::fs::File::create(path)?))
    }

    /// Reads what [`History::write_to`] has written.
    ///
    /// # Errors
    /// What the system refuses, and the number of the first line that is none.
    pub fn read_from(input: impl BufRead) -> io::Result<Self> {
        let mut lines = input.lines();
        let invalid = |line: usize, error: serde_json::Error| {
            io::Error::new(io::ErrorKind::InvalidData, format!("line {line} of the history: {error}"))
        };
        let header = lines.next().unwrap_or_else(|| Ok(String::new()))?;
        let header: Header = serde_json::from_str(&header).map_err(|error| invalid(1, error))?;
        if header.format != FORMAT {
            let found = header.format;
            return Err(io::Error::other(format!("the history has format {found}, known here is {FORMAT}")));
        }
        let events = lines
            .enumerate()
            .map(|(number, line)| serde_json::from_str(&line?).map_err(|error| invalid(number + 2, error)))
            .collect::<io::Result<_>>()?;
        Ok(Self { header, events })
    }

    /// SHA-256 of the history as it is written: two runs with equal digests were the same, event by event.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut bytes = Vec::new();
        // Memory does not refuse, and nothing in a history has no JSON.
        let _ = self.write_to(&mut bytes);
        hex::encode(<sha2::Sha256 as sha2::Digest>::digest(&bytes))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.kind, self.detail)
    }
}

#[cfg(test)]
pub(crate) mod samples {
    use super::*;

    /// A history that expects nothing.
    pub(crate) fn history(events: impl IntoIterator<Item = (u64, What)>) -> History {
        let header = Header {
            format: FORMAT,
            kind: "sim".into(),
            seed: 1,
            command: "pangolin-chaos sim --seed 1".into(),
            expects: BTreeSet::new(),
            faults: BTreeSet::new(),
            load: 0,
        };
        let mut history = History::new(header);
        events.into_iter().for_each(|(at, what)| history.push(at, what));
        history
    }

    pub(crate) fn rev(index: u64) -> Revision {
        Revision { lineage: 1, index }
    }

    pub(crate) fn write(op: u64, value: &str) -> What {
        write_of(op, op, "k", value)
    }

    pub(crate) fn write_of(client: u64, op: u64, key: &str, value: &str) -> What {
        let call = Call::Write { key: key.into(), value: value.into() };
        What::Invoke { client, op, node: NodeId(1), call }
    }

    pub(crate) fn read(op: u64) -> What {
        What::Invoke { client: op, op, node: NodeId(1), call: Call::Read { key: "k".into() } }
    }

    pub(crate) fn local_read(client: u64, op: u64) -> What {
        What::Invoke { client, op, node: NodeId(1), call: Call::LocalRead { key: "k".into() } }
    }

    pub(crate) fn written(op: u64, index: u64) -> What {
        What::Ok { op, value: None, revision: Some(rev(index)) }
    }

    pub(crate) fn found(op: u64, value: &str) -> What {
        What::Ok { op, value: (!value.is_empty()).then(|| value.to_owned()), revision: None }
    }

    pub(crate) fn found_at(op: u64, value: &str, index: u64) -> What {
        What::Ok { op, value: (!value.is_empty()).then(|| value.to_owned()), revision: Some(rev(index)) }
    }

    pub(crate) fn unknown(op: u64) -> What {
        What::Unknown { op, reason: "timeout".into() }
    }

    pub(crate) fn fail(op: u64) -> What {
        What::Fail { op, reason: "no leader".into() }
    }

    pub(crate) fn observed(node: u64, role: Role, term: u64, index: u64, state: &str) -> What {
        let state = (!state.is_empty()).then(|| state.to_owned());
        What::Observed(Observed { node: NodeId(node), role, term, applied: rev(index), state })
    }
}

#[cfg(test)]
mod tests {
    use super::{samples::*, *};

    #[test]
    fn a_history_is_read_as_it_was_written() {
        let fault =
            Fault { fault: 1, kind: "crash".into(), nodes: [NodeId(2)].into(), detail: "node 2".into() };
        let dns = DnsAnswer {
            node: NodeId(1),
            question: "app.lab.example A".into(),
            code: 0,
            serial: 7,
            answers: vec!["127.0.0.1".into()],
            applied: rev(7),
            names: [NodeId(1)].into(),
        };
        let all = [
            write(1, "a"),
            written(1, 4),
            read(2),
            found(2, ""),
            local_read(3, 3),
            fail(3),
            write(4, "b"),
            unknown(4),
            What::FaultStarted(fault),
            What::FaultEnded { fault: 1 },
            What::Healed,
            What::Started { node: NodeId(1) },
            What::Stopped { node: NodeId(1) },
            What::Removed { node: NodeId(1) },
            observed(1, Role::Leader, 3, 9, "ab"),
            What::Placement { node: NodeId(1), revision: rev(3), site: SiteId(1), epoch: 2, home: NodeId(3) },
            What::Effect { node: NodeId(1), target: "ca".into(), fence: 3, revision: None },
            What::DnsAnswer(dns),
            What::Note { text: "x".into() },
        ];
        let history = history(all.into_iter().enumerate().map(|(n, what)| (n as u64, what)));
        let mut bytes = Vec::new();
        history.write_to(&mut bytes).expect("written");
        let read = History::read_from(bytes.as_slice()).expect("read");
        assert_eq!((read.digest(), &read), (history.digest(), &history));
        let lines = String::from_utf8(bytes).expect("text");
        assert!(
            lines.contains(r#"{"at":0,"event":"invoke","client":1,"op":1,"node":1,"call":"write""#),
            "{lines}"
        );
        let error = History::read_from(format!("{lines}{{}}\n").as_bytes()).expect_err("no event");
        let line = lines.lines().count() + 1;
        assert!(error.to_string().starts_with(&format!("line {line} ")), "{error}");
    }

    #[test]
    fn an_operation_that_was_never_answered_stays_open() {
        let history = history([(1, write(1, "a")), (2, read(2)), (3, found(2, "a"))]);
        let ends: Vec<(u64, End)> = history.operations().into_iter().map(|op| (op.to, op.end)).collect();
        let ok = End::Ok { value: Some("a".into()), revision: None };
        assert_eq!(ends, [(u64::MAX, End::Unknown), (3, ok)]);
    }
}
