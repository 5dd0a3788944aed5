//! Commands: the facts that enter the log.
//!
//! Architecture invariant: variants are only ever appended, and none changes its meaning: nodes of two versions
//! apply the same log. `tests/golden.rs` guards the encoding.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    dns::DnsChange,
    fabric::FabricChange,
    feature::{self, FeatureLevel},
    id::{
        CertificateId, DomainId, Epoch, NodeId, RequestId, ResourceId, Revision, RoleId, SiteId, TargetId,
        TokenId, UserId,
    },
    issuance::CertificatesChange,
    keyring::KeyringChange,
    name::{HostName, Slug},
    record::{
        AdminState, Authority, Autopilot, Digest, HealthCheck, JoinToken, KeyScope, Method, NodeSpec,
        RecordKind, RecordSet, RecoveryPublic, Sealed, Settings, TunnelKey, Verdict,
    },
    time::Timestamp,
    traffic::TrafficChange,
};

/// Who is behind a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Actor {
    /// A person or program with administrator rights on a node's own socket.
    Operator(String),
    /// An API key.
    ApiKey(String),
    /// A user.
    User(UserId),
    /// The leader, of its own accord.
    Leader(NodeId),
    /// A node, of its own accord.
    Node(NodeId),
    /// A site's connector.
    Connector(SiteId),
}

impl Actor {
    /// Whether a person, or a program in a person's name, wanted it; otherwise the cluster did it by itself.
    #[must_use]
    pub fn is_operator(&self) -> bool {
        matches!(self, Self::Operator(_) | Self::ApiKey(_) | Self::User(_))
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operator(name) => write!(f, "operator {name}"),
            Self::ApiKey(id) => write!(f, "API key {id}"),
            Self::User(id) => write!(f, "user {id}"),
            Self::Leader(id) => write!(f, "leader (node {id})"),
            Self::Node(id) => write!(f, "node {id}"),
            Self::Connector(id) => write!(f, "connector of site {id}"),
        }
    }
}

/// Why a command was proposed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// Who is behind it.
    pub actor: Actor,
    /// What moved them, in words for the operator: of an automatic decision, what was observed, by whom, since when.
    pub reason: String,
    /// The earlier decisions that led to it, nearest first.
    pub because: Vec<Revision>,
}

impl Cause {
    /// A cause.
    pub fn new(actor: Actor, reason: impl Into<String>) -> Self {
        Self { actor, reason: reason.into(), because: Vec::new() }
    }

    /// Names earlier decisions that led to this one.
    #[must_use]
    pub fn because(mut self, decisions: impl IntoIterator<Item = Revision>) -> Self {
        for revision in decisions {
            if !self.because.contains(&revision) {
                self.because.push(revision);
            }
        }
        self
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.actor, self.reason)
    }
}

/// The condition under which a decision still holds when it is applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fence {
    /// Holds always.
    #[default]
    None,
    /// Holds while this term's leader leads.
    Term(u64),
    /// Holds while this term's leader leads and the site's placement is at this epoch.
    Placement {
        /// Term of the deciding leader.
        term: u64,
        /// The site.
        site: SiteId,
        /// Epoch that the decision was taken on.
        epoch: Epoch,
    },
}

/// A fact proposed for the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Names the request, so that it is done once. None for the leader's own decisions, which carry a fence.
    pub request: Option<RequestId>,
    /// When it was proposed; `apply` lets time only go forward.
    pub at: Timestamp,
    /// Why.
    pub cause: Cause,
    /// Until when it holds.
    pub fence: Fence,
    /// The fact.
    pub body: Body,
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.body.name(), self.cause)
    }
}

/// The facts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    /// `init` made the cluster with its first node.
    ClusterCreated(Box<ClusterCreated>),
    /// A leader takes up its duties.
    LeaderStarted {
        /// Raft term.
        term: u64,
        /// The leader.
        node: NodeId,
    },
    /// A join token was made.
    TokenCreated(Box<JoinToken>),
    /// A join token was withdrawn.
    TokenRevoked(TokenId),
    /// A node was let in: consumes the token and admits the node in one step.
    NodeAdmitted(Box<NodeAdmitted>),
    /// A node reports what it is now (addresses, ports, version).
    NodeChanged {
        /// The node.
        node: NodeId,
        /// What it is now. Name, role and certificate key stay.
        spec: Box<NodeSpec>,
    },
    /// The operator wants something of a node.
    NodeAdmin {
        /// The node.
        node: NodeId,
        /// What is wanted.
        admin: AdminState,
    },
    /// The cluster's judgement of a node.
    NodeVerdict {
        /// The node.
        node: NodeId,
        /// The judgement.
        verdict: Verdict,
    },
    /// A node has left for good.
    NodeRemoved(NodeId),
    /// Where a site's tunnel ends.
    SitePlaced {
        /// The site.
        site: SiteId,
        /// The node that carries it first.
        home: NodeId,
        /// Where it goes next, best first.
        standbys: Vec<NodeId>,
    },
    /// A connector has registered with this key.
    ConnectorRegistered {
        /// The site.
        site: SiteId,
        /// Its WireGuard key.
        tunnel_key: TunnelKey,
        /// Its version.
        version: String,
        /// It keeps tunnels to several nodes at once.
        multi_homed: bool,
    },
    /// A certificate was issued.
    CertificateIssued(Box<CertificateIssued>),
    /// The cluster's settings were changed.
    SettingsChanged(Box<Settings>),
    /// What operators want was changed.
    Catalog(Box<CatalogChange>),
    /// Every node understands this feature level: from here on it may be used, and older programs are kept out.
    FeatureLevelRaised(FeatureLevel),
    /// A rolling upgrade goes on.
    Upgrade(UpgradeChange),
    /// Backups are encrypted to another recovery key from here on.
    RecoveryKeyChanged(RecoveryPublic),
    /// A part of an earlier catalog was brought in; it counts for nothing until it is complete and
    /// [`Body::CatalogReplaced`]. Part 0 drops what was brought in before.
    CatalogStaged {
        /// SHA-256 of the whole encoding of the [`Catalog`](crate::state::Catalog).
        catalog: Digest,
        /// Which part, from 0.
        part: u32,
        /// The part.
        bytes: Vec<u8>,
    },
    /// The catalog that was brought in takes the place of the present one. What was revoked or consumed stays so.
    CatalogReplaced {
        /// SHA-256 of the whole.
        catalog: Digest,
        /// How many parts it has.
        parts: u32,
        /// The revision that it is taken from.
        from: Revision,
    },
    /// A new history begins: a survivor was made a cluster of its own, or a backup was restored on a new host.
    LineageBegun(Box<LineageBegun>),
    /// An operator wants a learner to vote.
    NodePromoted(NodeId),
    /// How the cluster looks after its voters was changed.
    AutopilotChanged(Autopilot),
    /// The cluster is taken apart: all nodes but one are to leave.
    Disbanded {
        /// The one that stays.
        survivor: NodeId,
    },
    /// The leadership was handed on because somebody asked for it.
    LeadershipHanded {
        /// Who led.
        from: NodeId,
        /// Who took over.
        to: NodeId,
    },
    /// A certificate that nothing needs any more is gone.
    CertificateRemoved(CertificateId),
    /// DNS was changed.
    Dns(Box<DnsChange>),
    /// Issuers, accounts and orders of certificates were changed.
    Certificates(Box<CertificatesChange>),
    /// The keys that seal were changed.
    Keyring(Box<KeyringChange>),
    /// How traffic comes in, or is shared among targets, was changed.
    Traffic(Box<TrafficChange>),
    /// What is said of where tunnels are to end, or the keys by which sites come into being, was changed.
    Fabric(Box<FabricChange>),
    /// What the version that is made for tests of upgrades adds to this one.
    #[cfg(pangolin_next)]
    Noted,
}

impl Body {
    /// The variant's name, for logs.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::ClusterCreated(_) => "ClusterCreated",
            Self::LeaderStarted { .. } => "LeaderStarted",
            Self::TokenCreated(_) => "TokenCreated",
            Self::TokenRevoked(_) => "TokenRevoked",
            Self::NodeAdmitted(_) => "NodeAdmitted",
            Self::NodeChanged { .. } => "NodeChanged",
            Self::NodeAdmin { .. } => "NodeAdmin",
            Self::NodeVerdict { .. } => "NodeVerdict",
            Self::NodeRemoved(_) => "NodeRemoved",
            Self::SitePlaced { .. } => "SitePlaced",
            Self::ConnectorRegistered { .. } => "ConnectorRegistered",
            Self::CertificateIssued(_) => "CertificateIssued",
            Self::SettingsChanged(_) => "SettingsChanged",
            Self::Catalog(_) => "Catalog",
            Self::FeatureLevelRaised(_) => "FeatureLevelRaised",
            Self::Upgrade(_) => "Upgrade",
            Self::RecoveryKeyChanged(_) => "RecoveryKeyChanged",
            Self::CatalogStaged { .. } => "CatalogStaged",
            Self::CatalogReplaced { .. } => "CatalogReplaced",
            Self::LineageBegun(_) => "LineageBegun",
            Self::NodePromoted(_) => "NodePromoted",
            Self::AutopilotChanged(_) => "AutopilotChanged",
            Self::Disbanded { .. } => "Disbanded",
            Self::LeadershipHanded { .. } => "LeadershipHanded",
            Self::CertificateRemoved(_) => "CertificateRemoved",
            Self::Dns(change) => change.name(),
            Self::Certificates(_) => "Certificates",
            Self::Keyring(change) => change.name(),
            Self::Traffic(change) => change.name(),
            Self::Fabric(change) => change.name(),
            #[cfg(pangolin_next)]
            Self::Noted => "Noted",
        }
    }

    /// The feature level that the cluster must be committed to before this is proposed. A variant that is new in a
    /// release, or that means something else from a release on, names the level of that release here.
    #[must_use]
    pub fn feature_level(&self) -> FeatureLevel {
        match self {
            #[cfg(pangolin_next)]
            Self::Noted => FeatureLevel(2),
            _ => feature::FIRST,
        }
    }
}

/// See [`Body::Upgrade`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpgradeChange {
    /// The nodes are going to run another version, one after the other.
    Started {
        /// It is the version that ran before the upgrade which is under way.
        rollback: bool,
    },
    /// A node is taken out of service, to run another version.
    NodeBegun(NodeId),
    /// A node runs the other version and is back in service.
    NodeDone(NodeId),
    /// No node is left to be upgraded, and there is no way back.
    Finished,
}

/// See [`Body::ClusterCreated`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterCreated {
    /// Which cluster this is.
    pub id: crate::id::ClusterId,
    /// Its name.
    pub name: Slug,
    /// The authority that certifies nodes.
    pub authority: Authority,
    /// The authority behind the internal issuer.
    pub issuer: Authority,
    /// First settings.
    pub settings: Settings,
    /// Id of the first node.
    pub node: NodeId,
    /// The first node.
    pub spec: NodeSpec,
}

/// See [`Body::NodeAdmitted`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeAdmitted {
    /// The token that is consumed.
    pub token: TokenId,
    /// Digest of the joiner's certificate signing request: a repeat with the same one gets the same answer.
    pub csr: Digest,
    /// The node.
    pub spec: NodeSpec,
}

/// See [`Body::CertificateIssued`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateIssued {
    /// Names it is good for.
    pub names: Vec<HostName>,
    /// Chain, leaf first, DER.
    pub chain: Vec<Vec<u8>>,
    /// PKCS #8 private key.
    pub key: Sealed,
    /// Start of validity.
    pub not_before: Timestamp,
    /// End of validity.
    pub not_after: Timestamp,
}

/// See [`Body::LineageBegun`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineageBegun {
    /// Number of the new history: above every earlier one.
    pub lineage: u64,
    /// Its only node at first.
    pub node: NodeId,
    /// What that node is; none = a survivor stays what it was.
    pub spec: Option<NodeSpec>,
    /// Where the earlier history ends, as far as it is known.
    pub from: Revision,
}

/// A change of what operators want. Where an `id` is optional, none lets `apply` give the next one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CatalogChange {
    /// New organisation, with its administrators' role.
    OrgCreated {
        /// Short name.
        id: Slug,
        /// Display name.
        name: String,
    },
    /// Renamed organisation.
    OrgChanged {
        /// Which.
        id: Slug,
        /// Display name.
        name: String,
    },
    /// An organisation that owns nothing any more is gone.
    OrgRemoved(Slug),
    /// New user.
    UserCreated {
        /// Id.
        id: Option<UserId>,
        /// E-mail address.
        email: String,
        /// Display name.
        name: String,
        /// May do everything.
        administrator: bool,
    },
    /// Changed user.
    UserChanged {
        /// Which.
        id: UserId,
        /// Display name.
        name: String,
        /// May do everything.
        administrator: bool,
    },
    /// A user is gone.
    UserRemoved(UserId),
    /// New role.
    RoleCreated {
        /// Id.
        id: Option<RoleId>,
        /// Where it counts.
        org: Slug,
        /// Name.
        name: String,
    },
    /// A role is gone, also from those who held it.
    RoleRemoved(RoleId),
    /// The roles of a user in an organisation; none = no member any more.
    MembershipSet {
        /// The user.
        user: UserId,
        /// The organisation.
        org: Slug,
        /// Roles held there.
        roles: Option<Vec<RoleId>>,
    },
    /// New API key.
    ApiKeyCreated {
        /// Public half.
        id: String,
        /// What it is for.
        name: String,
        /// How far it reaches.
        scope: KeyScope,
        /// SHA-256 of the secret half.
        secret: Digest,
    },
    /// An API key is gone.
    ApiKeyRemoved(String),
    /// New site.
    SiteCreated {
        /// Id.
        id: Option<SiteId>,
        /// Owner.
        org: Slug,
        /// Short name; none = made from the name.
        nice_id: Option<Slug>,
        /// Display name.
        name: String,
        /// Public half of the connector's credentials.
        connector_id: String,
        /// SHA-256 of the secret half.
        connector_secret: Digest,
    },
    /// Changed site.
    SiteChanged {
        /// Which.
        id: SiteId,
        /// Display name.
        name: String,
        /// Off = no tunnel.
        enabled: bool,
    },
    /// New credentials for a site's connector; the old ones are worthless from here on.
    SiteSecretChanged {
        /// Which.
        id: SiteId,
        /// SHA-256 of the new secret half.
        connector_secret: Digest,
    },
    /// A site without targets is gone.
    SiteRemoved(SiteId),
    /// New domain.
    DomainCreated {
        /// Id.
        id: Option<DomainId>,
        /// Owner.
        org: Slug,
        /// The domain.
        name: HostName,
    },
    /// A domain without resources is gone.
    DomainRemoved(DomainId),
    /// New resource.
    ResourceCreated {
        /// Id.
        id: Option<ResourceId>,
        /// Owner.
        org: Slug,
        /// Short name; none = made from the name.
        nice_id: Option<Slug>,
        /// Display name.
        name: String,
        /// The domain it belongs to.
        domain: DomainId,
        /// Its full name.
        host: HostName,
    },
    /// Changed resource.
    ResourceChanged {
        /// Which.
        id: ResourceId,
        /// Display name.
        name: String,
        /// Off = not in DNS and not routed.
        enabled: bool,
    },
    /// A resource is gone, with its targets.
    ResourceRemoved(ResourceId),
    /// New target.
    TargetCreated {
        /// Id.
        id: Option<TargetId>,
        /// What it serves.
        resource: ResourceId,
        /// The site whose connector reaches it.
        site: SiteId,
        /// How it is spoken to.
        method: Method,
        /// Host name or address as seen from the site.
        host: String,
        /// Port there.
        port: u16,
        /// How it is checked.
        health_check: Option<HealthCheck>,
    },
    /// Changed target.
    TargetChanged {
        /// Which.
        id: TargetId,
        /// How it is spoken to.
        method: Method,
        /// Host name or address as seen from the site.
        host: String,
        /// Port there.
        port: u16,
        /// Off = gets no traffic.
        enabled: bool,
        /// How it is checked.
        health_check: Option<HealthCheck>,
    },
    /// A target is gone.
    TargetRemoved(TargetId),
    /// A record set of the operator's own; none = gone.
    RecordSetSet {
        /// Owner name.
        name: HostName,
        /// Its type.
        kind: RecordKind,
        /// Its values.
        set: Option<RecordSet>,
    },
}
