//! What a node keeps in its journal, and how the journal is read: `GET /node/journal`.
//!
//! The node stores [`JournalEntry`] through `pangolin_core::codec`, and journals outlive versions: variants of
//! [`JournalEvent`] are only ever appended, and none changes its fields. A golden test guards the encoding.

use std::{fmt, net::IpAddr};

use pangolin_core::{
    HostName, NodeId, Revision, SiteId, Timestamp,
    record::{AdminState, Verdict},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Moment, cluster::optional_revision};

/// A node by id and by the name that it had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NamedNode {
    /// Its id.
    pub node_id: NodeId,
    /// Its short name; empty if this node did not know it.
    pub name: String,
}

impl fmt::Display for NamedNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name.as_str() {
            "" => write!(f, "node {}", self.node_id),
            name => write!(f, "node {name} (id {})", self.node_id),
        }
    }
}

/// A site by id and by the name that it had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NamedSite {
    /// Its id.
    pub site_id: SiteId,
    /// `ORG/NICE_ID`; empty if this node did not know it.
    pub name: String,
}

impl fmt::Display for NamedSite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name.as_str() {
            "" => write!(f, "site {}", self.site_id),
            name => write!(f, "site {name} (id {})", self.site_id),
        }
    }
}

/// A write that was asked of this node's API by a caller who had proved who they are, and how it was answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiWrite {
    /// Who asked.
    pub who: String,
    /// From where; none on the local socket.
    pub remote: Option<IpAddr>,
    /// The verb.
    pub verb: String,
    /// The path, cut off where it is longer than any that is known.
    pub path: String,
    /// The HTTP status of the answer; none if the caller went away before there was one, so that the write may or
    /// may not have happened.
    pub status: Option<u16>,
    /// The request's id.
    pub request_id: String,
}

/// What can happen on and around a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum JournalEvent {
    /// The program started on this host.
    NodeStarted {
        /// Version of the program.
        version: String,
        /// The run before left no last word: it was killed, it crashed, or the host lost its power.
        unclean: bool,
    },
    /// It stops, in order or because a part of it failed. What it finishes after that stands behind this.
    NodeStopped {
        /// Why.
        reason: String,
    },
    /// Another leader, or another term of the same one.
    LeaderChanged {
        /// Who leads.
        leader: NamedNode,
        /// Raft term.
        term: u64,
    },
    /// The cluster has judged a node anew.
    VerdictChanged {
        /// The node.
        node: NamedNode,
        /// The judgement.
        verdict: Verdict,
        /// Why.
        cause: String,
    },
    /// An operator wants something else of a node.
    AdminChanged {
        /// The node.
        node: NamedNode,
        /// What is wanted.
        admin: AdminState,
    },
    /// A node is in the cluster.
    NodeJoined {
        /// The node.
        node: NamedNode,
        /// Why; none if it was there before this node knew of it.
        cause: Option<String>,
    },
    /// A node is in the cluster no more.
    NodeLeft {
        /// The node.
        node: NamedNode,
    },
    /// A site has got a home, or another one.
    SitePlaced {
        /// The site.
        site: NamedSite,
        /// Its home.
        home: NamedNode,
        /// Where it was before.
        from: Option<NamedNode>,
        /// Why.
        cause: String,
    },
    /// A connector has registered with a key that was not known.
    ConnectorRegistered {
        /// Its site.
        site: NamedSite,
        /// Its version, as it says.
        version: String,
        /// Another key was known before.
        replaced: bool,
    },
    /// A certificate was issued.
    CertificateIssued {
        /// Names it is good for.
        names: Vec<HostName>,
        /// Counts renewals.
        generation: u64,
        /// End of validity.
        not_after: Moment,
    },
    /// Another node answers this one, or has ceased to.
    PeerSeen {
        /// The other node.
        node: NamedNode,
        /// It answers.
        alive: bool,
    },
    /// The tunnel between a site and this node carries, or has ceased to.
    TunnelSeen {
        /// The site.
        site: NamedSite,
        /// It carries.
        alive: bool,
    },
    /// A connector has opened its control socket on this node, or is gone from it.
    SocketSeen {
        /// Its site.
        site: NamedSite,
        /// It is here.
        attached: bool,
    },
    /// The API was asked to write.
    ApiWrite(ApiWrite),
    /// Something happened that is not in the journal.
    EntriesLost {
        /// How many entries.
        count: u64,
    },
}

impl JournalEvent {
    /// Why it happened, as far as it is known.
    #[must_use]
    pub fn why(&self) -> Option<String> {
        match self {
            Self::NodeStarted { unclean: true, .. } => {
                Some("the run before left no last word: killed, crashed, or out of power".to_owned())
            }
            Self::NodeStopped { reason } => Some(reason.clone()),
            Self::VerdictChanged { cause, .. } | Self::SitePlaced { cause, .. } => Some(cause.clone()),
            Self::NodeJoined { cause, .. } => cause.clone(),
            Self::ApiWrite(write) => {
                let from = write.remote.map(|remote| format!(" from {remote}")).unwrap_or_default();
                Some(format!("{}{from}, request {}", write.who, write.request_id))
            }
            Self::EntriesLost { .. } => Some("the journal could not keep up, or its disk failed".to_owned()),
            Self::NodeStarted { .. }
            | Self::LeaderChanged { .. }
            | Self::AdminChanged { .. }
            | Self::NodeLeft { .. }
            | Self::ConnectorRegistered { .. }
            | Self::CertificateIssued { .. }
            | Self::PeerSeen { .. }
            | Self::TunnelSeen { .. }
            | Self::SocketSeen { .. } => None,
        }
    }
}

/// What happened, for people.
impl fmt::Display for JournalEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NodeStarted { version, .. } => write!(f, "this node started, version {version}"),
            Self::NodeStopped { .. } => f.write_str("this node stops"),
            Self::LeaderChanged { leader, term } => write!(f, "{leader} leads in term {term}"),
            Self::VerdictChanged { node, verdict: Verdict::Up, .. } => write!(f, "{node} is up"),
            Self::VerdictChanged { node, verdict: Verdict::Down, .. } => write!(f, "{node} is down"),
            Self::AdminChanged { node, admin: AdminState::Active } => write!(f, "{node} is in service"),
            Self::AdminChanged { node, admin: AdminState::Leaving } => {
                write!(f, "{node} is to leave the cluster")
            }
            Self::AdminChanged { node, admin: AdminState::Drained } => {
                write!(f, "{node} gives its work away")
            }
            Self::NodeJoined { node, .. } => write!(f, "{node} is in the cluster"),
            Self::NodeLeft { node } => write!(f, "{node} has left the cluster"),
            Self::SitePlaced { site, home, from: None, .. } => write!(f, "{site} is placed on {home}"),
            Self::SitePlaced { site, home, from: Some(from), .. } => {
                write!(f, "{site} moves from {from} to {home}")
            }
            Self::ConnectorRegistered { site, version, replaced } => {
                let key = if *replaced { "another key" } else { "its first key" };
                write!(f, "the connector of {site} registered with {key}, version {version}")
            }
            Self::CertificateIssued { names, generation, not_after } => {
                let names: Vec<&str> = names.iter().map(HostName::as_str).collect();
                let names = names.join(", ");
                write!(f, "certificate {generation} of {names} issued, good until {not_after}")
            }
            Self::PeerSeen { node, alive: true } => write!(f, "{node} answers this node"),
            Self::PeerSeen { node, alive: false } => write!(f, "{node} does not answer this node"),
            Self::TunnelSeen { site, alive: true } => write!(f, "the tunnel from {site} carries here"),
            Self::TunnelSeen { site, alive: false } => write!(f, "the tunnel from {site} is dead here"),
            Self::SocketSeen { site, attached: true } => {
                write!(f, "the connector of {site} attached to this node")
            }
            Self::SocketSeen { site, attached: false } => {
                write!(f, "the connector of {site} is gone from this node")
            }
            Self::ApiWrite(ApiWrite { verb, path, status: Some(status), .. }) => {
                write!(f, "{verb} {path} was answered {status}")
            }
            Self::ApiWrite(ApiWrite { verb, path, status: None, .. }) => {
                write!(f, "{verb} {path} was not answered: the caller went away")
            }
            Self::EntriesLost { count } => write!(f, "{count} entries are missing here"),
        }
    }
}

/// One entry as the node stores it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalEntry {
    /// When it happened: by the log's time where the cluster did it, else by this node's clock.
    pub at: Timestamp,
    /// The revision that shows it; none for what is not in the state.
    pub revision: Option<Revision>,
    /// What happened.
    pub event: JournalEvent,
}

/// One entry as it is read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JournalLine {
    /// Its number in this node's journal; to read on, send the last one as `after`.
    pub serial: u64,
    /// When it happened.
    pub at: Moment,
    /// The revision that shows it.
    #[serde(default, with = "optional_revision")]
    pub revision: Option<Revision>,
    /// What happened, for people.
    pub what: String,
    /// Why, for people.
    pub why: Option<String>,
    /// The same for programs: a [`JournalEvent`], or null if this version of the node cannot read it. Left open,
    /// so that a client reads the lines of a newer node.
    pub event: Value,
}

impl JournalLine {
    /// The line of an entry.
    #[must_use]
    pub fn new(serial: u64, entry: &JournalEntry) -> Self {
        Self {
            serial,
            at: Moment(entry.at),
            revision: entry.revision,
            what: entry.event.to_string(),
            why: entry.event.why(),
            event: serde_json::to_value(&entry.event).unwrap_or_default(),
        }
    }

    /// The line of an entry that cannot be read.
    #[must_use]
    pub fn unreadable(serial: u64, at: Timestamp, reason: &str) -> Self {
        let what = "an entry that this version cannot read".to_owned();
        Self {
            serial,
            at: Moment(at),
            revision: None,
            what,
            why: Some(reason.to_owned()),
            event: Value::Null,
        }
    }
}

/// Answer of `GET /node/journal`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JournalPage {
    /// Whose journal it is.
    pub node_id: NodeId,
    /// The entries, oldest first.
    pub entries: Vec<JournalLine>,
}

#[cfg(test)]
mod tests {
    use pangolin_core::codec;

    use super::*;

    fn node() -> NamedNode {
        NamedNode { node_id: NodeId(2), name: "n2".to_owned() }
    }

    fn site() -> NamedSite {
        NamedSite { site_id: SiteId(4), name: "lab/home".to_owned() }
    }

    /// Every variant, how it is stored, and how it reads. Append at the end only; a stored form never changes.
    fn golden() -> Vec<(JournalEvent, &'static str, &'static str)> {
        use JournalEvent as E;
        let write = |status| {
            E::ApiWrite(ApiWrite {
                who: "operator uid 0".to_owned(),
                remote: Some(IpAddr::from([192, 0, 2, 9])),
                verb: "PUT".to_owned(),
                path: "/org".to_owned(),
                status,
                request_id: "r".to_owned(),
            })
        };
        let cause = || "c".to_owned();
        vec![
            (
                E::NodeStarted { version: "1".to_owned(), unclean: true },
                "010301010900013101",
                "this node started, version 1 (the run before left no last word: killed, crashed, or out of power)",
            ),
            (E::NodeStopped { reason: cause() }, "0103010109010163", "this node stops (c)"),
            (
                E::LeaderChanged { leader: node(), term: 5 },
                "01030101090202026e3205",
                "node n2 (id 2) leads in term 5",
            ),
            (
                E::VerdictChanged { node: node(), verdict: Verdict::Down, cause: cause() },
                "01030101090302026e32010163",
                "node n2 (id 2) is down (c)",
            ),
            (
                E::AdminChanged { node: node(), admin: AdminState::Drained },
                "01030101090402026e3201",
                "node n2 (id 2) gives its work away",
            ),
            (
                E::NodeJoined { node: node(), cause: Some(cause()) },
                "01030101090502026e32010163",
                "node n2 (id 2) is in the cluster (c)",
            ),
            (E::NodeLeft { node: node() }, "01030101090602026e32", "node n2 (id 2) has left the cluster"),
            (
                E::SitePlaced { site: site(), home: node(), from: Some(node()), cause: cause() },
                "01030101090704086c61622f686f6d6502026e320102026e320163",
                "site lab/home (id 4) moves from node n2 (id 2) to node n2 (id 2) (c)",
            ),
            (
                E::ConnectorRegistered { site: site(), version: "1".to_owned(), replaced: true },
                "01030101090804086c61622f686f6d65013101",
                "the connector of site lab/home (id 4) registered with another key, version 1",
            ),
            (
                E::CertificateIssued {
                    names: vec!["a.b".parse().expect("a name")],
                    generation: 3,
                    not_after: Moment(Timestamp(1_795_243_745_123)),
                },
                "0103010109090103612e620318323032362d31312d32315430363a34393a30352e3132335a",
                "certificate 3 of a.b issued, good until 2026-11-21T06:49:05.123Z",
            ),
            (
                E::PeerSeen { node: node(), alive: false },
                "01030101090a02026e3200",
                "node n2 (id 2) does not answer this node",
            ),
            (
                E::TunnelSeen { site: site(), alive: true },
                "01030101090b04086c61622f686f6d6501",
                "the tunnel from site lab/home (id 4) carries here",
            ),
            (
                E::SocketSeen { site: site(), attached: true },
                "01030101090c04086c61622f686f6d6501",
                "the connector of site lab/home (id 4) attached to this node",
            ),
            (
                write(Some(201)),
                "01030101090d0e6f70657261746f722075696420300100c000020903505554042f6f726701c90172",
                "PUT /org was answered 201 (operator uid 0 from 192.0.2.9, request r)",
            ),
            (
                E::EntriesLost { count: 7 },
                "01030101090e07",
                "7 entries are missing here (the journal could not keep up, or its disk failed)",
            ),
        ]
    }

    #[test]
    fn every_event_is_stored_as_ever_and_reads_well() {
        let hex = |bytes: Vec<u8>| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let mut wrong = Vec::new();
        for (event, stored, text) in golden() {
            let revision = Some(Revision { lineage: 1, index: 9 });
            let entry = JournalEntry { at: Timestamp(3), revision, event };
            let bytes = codec::encode(&entry).expect("encoded");
            assert_eq!(codec::decode::<JournalEntry>(&bytes, 1000).expect("decoded"), entry);
            if hex(bytes.clone()) != stored {
                wrong.push(hex(bytes));
            }
            let line = JournalLine::new(7, &entry);
            let why = line.why.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
            assert_eq!(format!("{}{why}", line.what), text);
            assert_eq!(serde_json::from_value::<JournalEvent>(line.event).expect("JSON"), entry.event);
        }
        assert_eq!(wrong, Vec::<String>::new(), "stored differently");
    }

    #[test]
    fn a_line_of_a_newer_node_is_read() {
        let line = r#"{"serial":1,"at":"2026-11-21T06:49:05.123Z","revision":"1.9","what":"x","why":null,
            "event":{"notYetKnown":{"x":1}},"more":true}"#;
        assert_eq!(serde_json::from_str::<JournalLine>(line).expect("a line").what, "x");
    }
}
