//! What can be asked about, and how it is found by the names that people use.

use super::history::History;
use crate::{
    access::Principal,
    id::{NodeId, SiteId},
    name::{HostName, Slug},
    outcome::Object,
    state::ClusterState,
};

/// What is asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum About {
    /// A name: its addresses, targets and certificate.
    Host(HostName),
    /// A site: where its tunnel ends.
    Site(SiteId),
    /// The certificate for a name.
    Certificate(HostName),
    /// A node.
    Node(NodeId),
}

/// The kinds of what can be asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Kind {
    Host,
    Site,
    Certificate,
    Node,
}

/// Why what was asked about is not found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FindError {
    /// Nothing of that name.
    #[error("there is no {what} {name:?}, and none is remembered")]
    Unknown {
        /// What was looked for.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// Several things of that name.
    #[error("{name:?} may be {}: say which", .candidates.join(" or "))]
    Ambiguous {
        /// The name.
        name: String,
        /// What it may be, each in words that are understood.
        candidates: Vec<String>,
    },
    /// Not a name of that kind.
    #[error("{0}")]
    Invalid(String),
}

impl About {
    /// Finds what `name` means: a host name, the number or name of a node, the number, short name or `ORG/SHORT-NAME`
    /// of a site, the name on a certificate or its number. What `principal` may not see is not found. What is gone is
    /// found as long as it is remembered.
    ///
    /// # Errors
    /// See [`FindError`].
    pub fn find(
        state: &ClusterState,
        principal: &Principal,
        kind: Option<Kind>,
        name: &str,
    ) -> Result<Self, FindError> {
        let search = Search { history: History::of(state), principal, name };
        match kind {
            Some(Kind::Host) => search.host().map(Self::Host),
            Some(Kind::Certificate) => search.certificate().map(Self::Certificate),
            Some(Kind::Node) => search.one("node", search.nodes()),
            Some(Kind::Site) => search.one("site", search.sites()),
            None if name.contains('/') => search.one("site", search.sites()),
            None if name.contains('.') => search.host().map(Self::Host),
            None => {
                let mut found = search.nodes();
                found.extend(search.sites());
                search.one("node or site", found)
            }
        }
    }
}

struct Search<'a> {
    history: History<'a>,
    principal: &'a Principal,
    name: &'a str,
}

impl Search<'_> {
    fn unknown(&self, what: &'static str) -> FindError {
        FindError::Unknown { what, name: self.name.chars().take(80).collect() }
    }

    fn one(&self, what: &'static str, mut found: Vec<(String, About)>) -> Result<About, FindError> {
        match (found.len(), found.pop()) {
            (1, Some((_, only))) => Ok(only),
            (0, _) | (_, None) => Err(self.unknown(what)),
            (_, Some(last)) => {
                let candidates = found.into_iter().chain([last]).map(|(words, _)| words).collect();
                Err(FindError::Ambiguous { name: self.name.to_owned(), candidates })
            }
        }
    }

    fn host(&self) -> Result<HostName, FindError> {
        let name: HostName = self.name.parse().map_err(|error| FindError::Invalid(format!("{error}")))?;
        let state = self.history.state;
        if self.principal.is_administrator() {
            return Ok(name);
        }
        let owner = state.owner_of(&name).filter(|org| self.principal.may_administer(org));
        owner.map(|_| name).ok_or_else(|| self.unknown("host"))
    }

    fn certificate(&self) -> Result<HostName, FindError> {
        let Ok(id) = self.name.parse().map(crate::id::CertificateId) else {
            return self.host().map_err(|error| match error {
                FindError::Unknown { .. } => self.unknown("certificate for"),
                other => other,
            });
        };
        let names = self.history.state.certificates().get(&id).map(|certificate| &certificate.names);
        let name = names.and_then(|names| names.iter().find(|name| self.may_see(name)).or(names.first()));
        name.filter(|name| self.may_see(name)).cloned().ok_or_else(|| self.unknown("certificate"))
    }

    fn may_see(&self, name: &HostName) -> bool {
        let owner = self.history.state.owner_of(name);
        self.principal.is_administrator() || owner.is_some_and(|org| self.principal.may_administer(org))
    }

    /// Nodes are the cluster's: only its administrators ask about them.
    fn nodes(&self) -> Vec<(String, About)> {
        if !self.principal.is_administrator() {
            return Vec::new();
        }
        let fits = |id: NodeId, name: &str| name == self.name || id.to_string() == self.name;
        let nodes = self.history.state.nodes().values();
        let found = nodes.filter(|node| fits(node.id, node.spec.name.as_str())).map(|node| node.id);
        let mut found: Vec<NodeId> = found.collect();
        if found.is_empty() {
            let past =
                self.history.gone(|object, name| matches!(object, Object::Node(id) if fits(*id, name)));
            found.extend(past.and_then(|object| match object {
                Object::Node(id) => Some(id),
                _ => None,
            }));
        }
        found.into_iter().map(|id| (format!("node {id}"), About::Node(id))).collect()
    }

    fn sites(&self) -> Vec<(String, About)> {
        let fits = |id: SiteId, full: &str| {
            let short = full.split_once('/').map_or(full, |(_, short)| short);
            full == self.name || short == self.name || id.to_string() == self.name
        };
        let mine = |org: &Slug| self.principal.may_administer(org);
        let state = self.history.state;
        let sites = state.sites().values().filter(|site| mine(&site.org));
        let named = sites.map(|site| (site.id, format!("{}/{}", site.org, site.nice_id)));
        let mut found: Vec<(SiteId, String)> = named.filter(|(id, full)| fits(*id, full)).collect();
        if found.is_empty() {
            let past = self.history.gone(|object, name| {
                let org = name.split_once('/').and_then(|(org, _)| org.parse().ok());
                matches!(object, Object::Site(id) if fits(*id, name)) && org.is_some_and(|org| mine(&org))
            });
            if let Some(Object::Site(id)) = past {
                found.push((id, id.to_string()));
            }
        }
        found.into_iter().map(|(id, full)| (format!("site {full}"), About::Site(id))).collect()
    }
}
