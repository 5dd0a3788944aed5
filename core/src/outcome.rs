//! What became of a command. A refusal is an outcome like any other: the same on every node.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    id::{
        CertificateId, DomainId, Epoch, NodeId, ResourceId, Revision, RoleId, SiteId, TargetId, TokenId,
        UserId,
    },
    name::{HostName, Slug},
};

/// Something that a command made or speaks of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Object {
    Cluster,
    Node(NodeId),
    Token(TokenId),
    Org(Slug),
    User(UserId),
    Role(RoleId),
    ApiKey(String),
    Site(SiteId),
    Domain(DomainId),
    Resource(ResourceId),
    Target(TargetId),
    RecordSet(HostName),
    Certificate(CertificateId),
    Issuer(Slug),
    ProvisioningKey(String),
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cluster => write!(f, "cluster"),
            Self::Node(id) => write!(f, "node {id}"),
            Self::Token(id) => write!(f, "join token {id}"),
            Self::Org(id) => write!(f, "org {id}"),
            Self::User(id) => write!(f, "user {id}"),
            Self::Role(id) => write!(f, "role {id}"),
            Self::ApiKey(id) => write!(f, "API key {id}"),
            Self::Site(id) => write!(f, "site {id}"),
            Self::Domain(id) => write!(f, "domain {id}"),
            Self::Resource(id) => write!(f, "resource {id}"),
            Self::Target(id) => write!(f, "target {id}"),
            Self::RecordSet(name) => write!(f, "record set {name}"),
            Self::Certificate(id) => write!(f, "certificate {id}"),
            Self::Issuer(name) => write!(f, "issuer {name}"),
            Self::ProvisioningKey(id) => write!(f, "provisioning key {id}"),
        }
    }
}

/// Why a command changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// There is no such thing.
    #[error("there is no {0}")]
    NotFound(Object),
    /// The name is in use.
    #[error("the name {name:?} is taken by {by}")]
    NameTaken {
        /// The name.
        name: String,
        /// Who has it.
        by: Object,
    },
    /// The id is in use.
    #[error("{0} exists already")]
    Exists(Object),
    /// Other things hang on it.
    #[error("{0} is still used by {1}")]
    InUse(Object, Object),
    /// Decided by a leader of the past.
    #[error("decided in term {decided}, but term {current} has begun")]
    StaleTerm {
        /// Term of the decision.
        decided: u64,
        /// Term now.
        current: u64,
    },
    /// Decided on a placement that has moved on.
    #[error("decided on epoch {decided} of site {site}, which is at epoch {current}")]
    StaleEpoch {
        /// The site.
        site: SiteId,
        /// Epoch of the decision.
        decided: Epoch,
        /// Epoch now.
        current: Epoch,
    },
    /// Decided on a state that has moved on.
    #[error("decided on revision {decided}; the cluster is at {current}")]
    StaleRevision {
        /// Revision of the decision.
        decided: Revision,
        /// Where the object was changed last.
        current: Revision,
    },
    /// The token's time is over.
    #[error("join token {0} has expired: create a new one with `pangolinctl token create`")]
    TokenExpired(TokenId),
    /// The token has let a node in.
    #[error("join token {0} has been used by node {1}: create a new one with `pangolinctl token create`")]
    TokenUsed(TokenId, NodeId),
    /// A value is not acceptable.
    #[error("{0}")]
    Invalid(String),
    /// There are too many of them.
    #[error("there are {limit} {what} already, which is the limit")]
    Limit {
        /// Of what.
        what: String,
        /// The limit.
        limit: u64,
    },
    /// The answer to this request has been forgotten.
    #[error("request {serial} of this client is older than those remembered; its outcome is no longer known")]
    Forgotten {
        /// The client's count.
        serial: u64,
    },
    /// There is a cluster already.
    #[error("the cluster exists already")]
    ClusterExists,
    /// There is no cluster yet.
    #[error("the cluster has not been initialised")]
    NoCluster,
    /// Decided on a record that somebody else has changed since.
    #[error("{0} was changed at the same time: look at it, and decide anew")]
    Changed(Object),
    /// A provisioning key has expired or has been used up.
    #[error("provisioning key {key} {why}")]
    KeyWorthless {
        /// Its public half.
        key: String,
        /// What has become of it.
        why: String,
    },
}

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Done; what it made, if it made something.
    Done(Option<Object>),
    /// Nothing was changed.
    Refused(Refusal),
}

impl Outcome {
    /// The outcome as a result.
    ///
    /// # Errors
    /// The refusal.
    pub fn into_result(self) -> Result<Option<Object>, Refusal> {
        match self {
            Self::Done(made) => Ok(made),
            Self::Refused(refusal) => Err(refusal),
        }
    }
}

impl From<Result<Option<Object>, Refusal>> for Outcome {
    fn from(result: Result<Option<Object>, Refusal>) -> Self {
        match result {
            Ok(made) => Self::Done(made),
            Err(refusal) => Self::Refused(refusal),
        }
    }
}
