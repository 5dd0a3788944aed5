//! Decisions: what commands have changed, when, by whom and why.
//!
//! Every command that changes something leaves one [`Decision`] in the state, the same on every node. What is recorded
//! is stored, so a change of it is a change of meaning like that of a command; how it is worded is not stored.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    access::Principal,
    command::Cause,
    id::{Epoch, NodeId, RequestId, Revision},
    name::Slug,
    outcome::Object,
    record::{AdminState, Verdict},
    time::Timestamp,
};

/// Most changes that a decision tells one by one; the rest is counted.
pub const CHANGES_MAX: usize = 16;
/// Longest reason that is kept, in bytes: whoever proposed a command chose its length.
pub const REASON_MAX: usize = 512;
/// Most earlier decisions that one names as its cause.
pub const LINKS_MAX: usize = 8;
/// Longest value told of an edited field, in bytes.
pub const VALUE_MAX: usize = 128;

/// One applied command that changed something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// Where it stands in the log.
    pub revision: Revision,
    /// When, as the log tells time.
    pub at: Timestamp,
    /// The term of the leader that had last taken up its duties; none before the first.
    pub term: Option<u64>,
    /// The request that it answers, if it came from one.
    pub request: Option<RequestId>,
    /// Who decided it, why, and which earlier decisions led to it.
    pub cause: Cause,
    /// What it changed, the matter that it was about first.
    pub changes: Vec<Change>,
    /// How many more changes there were.
    pub more: u32,
}

/// What a change is about: an object with the name and the owner that it had then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// The object.
    pub object: Object,
    /// Its name; empty for objects whose id is their name.
    pub name: String,
    /// The organisation that it belongs to; none = the cluster's.
    pub org: Option<Slug>,
}

/// A node by id and by the name that it had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeName {
    /// Its id.
    pub id: NodeId,
    /// Its name.
    pub name: String,
}

/// One thing that changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// What it is about.
    pub subject: Subject,
    /// What happened to it.
    pub what: What,
}

/// What happened to a subject.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    /// It came into being.
    Made,
    /// It is no more.
    Gone,
    /// Some of its values changed.
    Edited(Vec<Edit>),
    /// The cluster has judged a node.
    Judged(Verdict),
    /// An operator wants something of a node.
    Wanted(AdminState),
    /// A site got a place for its tunnel.
    Placed {
        /// The node that carries it first.
        home: NodeName,
        /// Where it was before.
        from: Option<NodeName>,
        /// Where it goes next, best first.
        standbys: Vec<NodeName>,
        /// Fence number of the placement.
        epoch: Epoch,
    },
    /// A site's connector registered with a key.
    Registered {
        /// Its version, as it says.
        version: String,
        /// It keeps tunnels to several nodes at once.
        multi_homed: bool,
        /// No key was known before.
        first: bool,
    },
    /// A certificate was issued.
    Issued {
        /// Counts renewals.
        generation: u64,
        /// End of validity.
        not_after: Timestamp,
    },
    /// A leader took up its duties.
    Leads {
        /// Raft term.
        term: u64,
        /// The leader.
        leader: NodeName,
        /// The one before it.
        before: Option<NodeName>,
    },
    /// A join token let a node in.
    Used(NodeName),
    /// A leader handed the leadership on because somebody asked for it.
    Handed {
        /// Who led.
        from: NodeName,
        /// Who took over.
        to: NodeName,
    },
    /// A new history began: a survivor was made a cluster of its own, or a backup was restored on a new host.
    LineageBegun {
        /// Its number.
        lineage: u64,
        /// The revision of the history before that it goes on from.
        from: Revision,
    },
    /// An earlier catalog took the place of the present one.
    Restored {
        /// The revision that it was taken from.
        from: Revision,
    },
}

/// One value that changed. Of a secret both sides are empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edit {
    /// Which.
    pub field: String,
    /// What it was.
    pub before: String,
    /// What it is now.
    pub after: String,
}

/// The sides of an object that change independently: the last decision on each is worth keeping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Aspect {
    /// Whether it exists.
    Existence,
    /// Its values.
    Values,
    /// How the cluster judges it.
    Verdict,
    /// What an operator wants of it.
    Admin,
    /// Where it is placed.
    Placement,
    /// Who registered for it.
    Connector,
    /// What was issued for it.
    Issuance,
    /// Who leads.
    Leadership,
    /// Who used it.
    Use,
}

impl What {
    /// The side of its subject that it is about.
    #[must_use]
    pub fn aspect(&self) -> Aspect {
        match self {
            Self::Made | Self::Gone | Self::LineageBegun { .. } => Aspect::Existence,
            Self::Edited(_) | Self::Restored { .. } => Aspect::Values,
            Self::Judged(_) => Aspect::Verdict,
            Self::Wanted(_) => Aspect::Admin,
            Self::Placed { .. } => Aspect::Placement,
            Self::Registered { .. } => Aspect::Connector,
            Self::Issued { .. } => Aspect::Issuance,
            Self::Leads { .. } | Self::Handed { .. } => Aspect::Leadership,
            Self::Used(_) => Aspect::Use,
        }
    }

    /// The nodes that it names besides its subject.
    fn nodes(&self) -> Vec<&NodeName> {
        match self {
            Self::Placed { home, from, standbys, .. } => {
                std::iter::once(home).chain(from).chain(standbys).collect()
            }
            Self::Leads { leader, before, .. } => std::iter::once(leader).chain(before).collect(),
            Self::Used(node) => vec![node],
            Self::Handed { from, to } => vec![from, to],
            _ => Vec::new(),
        }
    }
}

impl Decision {
    /// The part of it that `principal` may see: the changes of what is theirs; none if nothing is.
    #[must_use]
    pub fn seen_by(self: &Arc<Self>, principal: &Principal) -> Option<Arc<Self>> {
        if principal.is_administrator() {
            return Some(self.clone());
        }
        let theirs =
            |change: &&Change| change.subject.org.as_ref().is_some_and(|org| principal.may_administer(org));
        let changes: Vec<Change> = self.changes.iter().filter(theirs).cloned().collect();
        (!changes.is_empty()).then(|| Arc::new(Self { changes, more: 0, ..Self::clone(self) }))
    }

    /// Whether it is about this object, or names it.
    #[must_use]
    pub fn concerns(&self, object: &Object) -> bool {
        self.changes.iter().any(|change| {
            change.subject.object == *object
                || matches!(object, Object::Node(id) if change.what.nodes().iter().any(|node| node.id == *id))
        })
    }

    /// The names under which it knows a node.
    pub(crate) fn name_of(&self, id: NodeId) -> Option<&str> {
        self.changes.iter().find_map(|change| match &change.subject {
            Subject { object: Object::Node(node), name, .. } if *node == id => Some(name.as_str()),
            _ => change.what.nodes().into_iter().find(|node| node.id == id).map(|node| node.name.as_str()),
        })
    }

    /// What it changed, in words.
    #[must_use]
    pub fn text(&self) -> String {
        let mut told: Vec<String> = self.changes.iter().map(ToString::to_string).collect();
        if self.more > 0 {
            told.push(format!("and {} more changes", self.more));
        }
        told.join("; ")
    }
}

/// Cuts a text to at most `limit` bytes, at a character's boundary.
pub(crate) fn cut(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.to_owned();
    }
    let mut end = limit.saturating_sub('…'.len_utf8());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &text[..end])
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name.is_empty() { write!(f, "node {}", self.id) } else { f.write_str(&self.name) }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.name;
        match &self.object {
            Object::Cluster => write!(f, "the cluster"),
            Object::Certificate(id) => write!(f, "the certificate for {name} (id {id})"),
            Object::Issuer(name) => write!(f, "the issuer {name}"),
            Object::Node(id) => write!(f, "node {name} (id {id})"),
            Object::User(id) => write!(f, "user {name} (id {id})"),
            Object::Role(id) => write!(f, "role {name} (id {id})"),
            Object::Site(id) => write!(f, "site {name} (id {id})"),
            Object::Domain(id) => write!(f, "domain {name} (id {id})"),
            Object::Resource(id) => write!(f, "resource {name} (id {id})"),
            Object::Target(id) => write!(f, "target {name} (id {id})"),
            Object::ApiKey(id) => write!(f, "API key {name} ({id})"),
            Object::ProvisioningKey(id) => write!(f, "provisioning key {name} ({id})"),
            Object::Token(_) | Object::Org(_) | Object::RecordSet(_) => self.object.fmt(f),
        }
    }
}

impl fmt::Display for Edit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.before.as_str(), self.after.as_str()) {
            ("", "") => write!(f, "{} replaced", self.field),
            ("", after) => write!(f, "{} = {after}", self.field),
            (before, "") => write!(f, "{} no more {before}", self.field),
            (before, after) => write!(f, "{} {before} -> {after}", self.field),
        }
    }
}

/// Nodes in the order in which they carry a site: `n3, then n1 n2`.
pub(crate) fn in_order(home: &NodeName, standbys: &[NodeName]) -> String {
    if standbys.is_empty() {
        return home.to_string();
    }
    let standbys: Vec<String> = standbys.iter().map(ToString::to_string).collect();
    format!("{home}, then {}", standbys.join(" "))
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { subject, what } = self;
        match (what, &subject.object) {
            (What::Made, Object::Node(_)) => write!(f, "{subject} joins the cluster"),
            (What::Gone, Object::Node(_)) => write!(f, "{subject} leaves the cluster"),
            (What::Made, Object::Cluster) => write!(f, "the cluster is made"),
            (What::Made, _) => write!(f, "{subject} is made"),
            (What::Gone, _) => write!(f, "{subject} is gone"),
            (What::Edited(edits), _) => {
                let edits: Vec<String> = edits.iter().map(ToString::to_string).collect();
                write!(f, "{subject}: {}", edits.join(", "))
            }
            (What::Judged(Verdict::Up), _) => write!(f, "{subject} is up"),
            (What::Judged(Verdict::Down), _) => write!(f, "{subject} is down"),
            (What::Wanted(AdminState::Active), _) => write!(f, "{subject} is to take work again"),
            (What::Wanted(AdminState::Drained), _) => write!(f, "{subject} is to give its work away"),
            (What::Wanted(AdminState::Leaving), _) => write!(f, "{subject} is to leave the cluster"),
            (What::Placed { home, from: None, standbys, epoch }, _) => {
                write!(f, "{subject} is placed on {} (epoch {epoch})", in_order(home, standbys))
            }
            (What::Placed { home, from: Some(from), standbys, epoch }, _) if from.id == home.id => {
                write!(f, "{subject} stays on {} (epoch {epoch})", in_order(home, standbys))
            }
            (What::Placed { home, from: Some(from), standbys, epoch }, _) => {
                write!(f, "{subject} moves from {from} to {} (epoch {epoch})", in_order(home, standbys))
            }
            (What::Registered { version, multi_homed, first }, _) => {
                let key = if *first { "its first key" } else { "another key" };
                let tunnels = if *multi_homed { "tunnels to several nodes" } else { "one tunnel" };
                write!(f, "the connector of {subject} registered {key}, version {version}, {tunnels}")
            }
            (What::Issued { generation, not_after }, _) => {
                write!(f, "{subject} is issued, generation {generation}, good until {not_after}")
            }
            (What::Leads { term, leader, before: None }, _) => write!(f, "{leader} leads in term {term}"),
            (What::Leads { term, leader, before: Some(before) }, _) => {
                write!(f, "{leader} leads in term {term}, after {before}")
            }
            (What::Used(node), _) => write!(f, "{subject} lets {node} in"),
            (What::Handed { from, to }, _) => write!(f, "{from} hands the leadership to {to}"),
            (What::LineageBegun { lineage, from }, _) => {
                write!(f, "{subject} begins lineage {lineage}, from revision {from}")
            }
            (What::Restored { from }, _) => write!(f, "{subject} gets the catalog of revision {from} back"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::SiteId;

    fn node(id: u64) -> NodeName {
        NodeName { id: NodeId(id), name: format!("n{id}") }
    }

    #[test]
    fn changes_read_as_sentences() {
        let subject = |object, name: &str| Subject { object, name: name.to_owned(), org: None };
        let site = subject(Object::Site(SiteId(4)), "acme/home");
        let n2 = subject(Object::Node(NodeId(2)), "n2");
        let placed = |from: Option<u64>, home| What::Placed {
            home: node(home),
            from: from.map(node),
            standbys: vec![node(1)],
            epoch: Epoch(7),
        };
        let edit = |field: &str, before: &str, after: &str| Edit {
            field: field.into(),
            before: before.into(),
            after: after.into(),
        };
        let edits = vec![edit("enabled", "yes", "no"), edit("region", "", "eu"), edit("secret", "", "")];
        for (subject, what, text) in [
            (&n2, What::Made, "node n2 (id 2) joins the cluster"),
            (&n2, What::Judged(Verdict::Down), "node n2 (id 2) is down"),
            (&n2, What::Wanted(AdminState::Drained), "node n2 (id 2) is to give its work away"),
            (&site, placed(None, 3), "site acme/home (id 4) is placed on n3, then n1 (epoch 7)"),
            (&site, placed(Some(2), 3), "site acme/home (id 4) moves from n2 to n3, then n1 (epoch 7)"),
            (&site, placed(Some(3), 3), "site acme/home (id 4) stays on n3, then n1 (epoch 7)"),
            (
                &site,
                What::Edited(edits),
                "site acme/home (id 4): enabled yes -> no, region = eu, secret replaced",
            ),
        ] {
            assert_eq!(Change { subject: subject.clone(), what }.to_string(), text);
        }
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(cut("short", 8), "short");
        assert_eq!(cut("ääääää", 8), "ää…");
        assert!(cut(&"ä".repeat(1000), REASON_MAX).len() <= REASON_MAX);
    }
}
