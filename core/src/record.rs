//! The records that make up the state: what an organisation, a site, a node … is.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use imbl::{OrdMap, OrdSet};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::{
    command::Cause,
    feature::FeatureLevel,
    id::{
        CertificateId, ClusterId, DomainId, Epoch, NodeId, ResourceId, Revision, RoleId, SiteId, TargetId,
        TokenId, UserId,
    },
    name::{HostName, Slug},
    time::Timestamp,
};

/// A WireGuard public key (Curve25519).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TunnelKey(pub [u8; 32]);

/// SHA-256 of something secret or large.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Digest(pub [u8; 32]);

/// Bytes encrypted under a data key of their own, which is wrapped by a key-encryption key (KEK) that never
/// enters the state. Opened and made by the keyring of `pangolin-peer`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// Which KEK of the keyring wraps the data key.
    pub kek: u32,
    /// The data key, encrypted: nonce, ciphertext, tag.
    pub wrapped_key: Vec<u8>,
    /// The content, encrypted: nonce, ciphertext, tag.
    pub content: Vec<u8>,
}

/// The public half of the recovery key (X25519): backups are encrypted to it, so that they outlive every host. The
/// private half is shown once, to the operator, and kept nowhere in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RecoveryPublic(pub [u8; 32]);

// --- cluster ---------------------------------------------------------------------------------------------------

/// What `init` fixed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// Which cluster this is.
    pub id: ClusterId,
    /// Its name.
    pub name: Slug,
    /// When `init` ran.
    pub created_at: Timestamp,
    /// The authority that certifies nodes to each other.
    pub authority: Authority,
    /// The authority behind the internal certificate issuer, for labs and the demo.
    pub issuer: Authority,
}

/// A certificate authority: its certificate in the open, its key sealed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authority {
    /// X.509 certificate, DER.
    pub certificate: Vec<u8>,
    /// PKCS #8 private key.
    pub key: Sealed,
}

/// What administrators may change about the cluster as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The cluster's own DNS zone: nodes and the control host live in it.
    pub zone: HostName,
    /// Where the API, the dashboard and the connectors' control channel are reached.
    pub control_host: HostName,
    /// Addresses inside the tunnels: nodes get the first block, sites the rest.
    pub tunnel_network: Ipv4Net,
    /// Seconds that resolvers may keep an address that follows health.
    pub ttl: u32,
}

/// Whether a node holds data or only votes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeRole {
    /// Carries traffic and runs every duty.
    Data,
    /// Only votes: holds no KEK, takes no API writes, carries no traffic.
    Witness,
}

/// What the operator wants of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdminState {
    /// In service.
    Active,
    /// Gives its work away and gets none.
    Drained,
    /// Gives its work away and is taken out of the cluster as soon as the others can do without it.
    Leaving,
}

/// How the cluster looks after its voters by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Autopilot {
    /// Milliseconds that a learner has to be in contact and caught up before it votes.
    pub stable_ms: u32,
    /// Seconds after which a stable learner takes the place of a voter that is down; none = never.
    pub exchange_after_s: Option<u32>,
    /// Seconds after which a node that is down is taken out of the cluster, if the others stand another failure
    /// without it; none = never.
    pub remove_after_s: Option<u32>,
}

impl Default for Autopilot {
    /// Long enough that a node which restarts twice in a row is not taken for stable, short enough that a host votes
    /// within 10 s of joining. Nothing is removed unless somebody asked for it.
    fn default() -> Self {
        Self { stable_ms: 3000, exchange_after_s: Some(60), remove_after_s: None }
    }
}

/// What the cluster has decided about a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Reached by its peers.
    Up,
    /// Not reached by a majority of its peers for a while.
    Down,
}

/// Where a node is reached and what it brought along when it joined.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSpec {
    /// Short name, unique in the cluster; also its label in the cluster's zone.
    pub name: Slug,
    /// Whether it holds data or only votes.
    pub role: NodeRole,
    /// Where peers reach it.
    pub peer_address: SocketAddr,
    /// SHA-256 of its certificate key (`SubjectPublicKeyInfo`, DER).
    pub spki: Digest,
    /// What DNS answers for it; the first of a family comes first.
    pub public_addresses: Vec<IpAddr>,
    /// Port of its edge for HTTPS.
    pub https_port: u16,
    /// Where connectors send WireGuard datagrams: a host or address, with port.
    pub tunnel_endpoint: String,
    /// Its WireGuard key.
    pub tunnel_key: TunnelKey,
    /// Placement hint.
    pub region: Option<Slug>,
    /// Version of the program.
    pub version: String,
    /// Highest feature level that the program understands.
    pub feature_level: FeatureLevel,
}

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// Where it is reached.
    pub spec: NodeSpec,
    /// Its own address inside the tunnels.
    pub tunnel_address: Ipv4Addr,
    /// What the operator wants of it.
    pub admin: AdminState,
    /// Since when.
    pub admin_at: Timestamp,
    /// Who wanted it, and why.
    pub admin_cause: Cause,
    /// An operator wants it to vote, also where the number of voters gets even.
    pub promoted: bool,
    /// The node that joined in its place: this one stays until that one votes.
    pub replaced_by: Option<NodeId>,
    /// What the cluster has decided about it.
    pub verdict: Verdict,
    /// When the verdict was given.
    pub verdict_at: Timestamp,
    /// Why.
    pub verdict_cause: Cause,
    /// When it joined.
    pub admitted_at: Timestamp,
    /// Since when its program has understood the feature level that it understands.
    pub level_since: Timestamp,
    /// How often it went down again soon after it had come up: the more often, the longer it has to be reached
    /// before it counts as up.
    pub flaps: u32,
}

impl Node {
    /// Whether new work and DNS answers go to this node.
    #[must_use]
    pub fn in_service(&self) -> bool {
        self.verdict == Verdict::Up && self.admin == AdminState::Active && self.spec.role == NodeRole::Data
    }
}

/// A rolling upgrade, from its beginning until it is finished.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upgrade {
    /// When it began.
    pub started_at: Timestamp,
    /// Who began it.
    pub cause: Cause,
    /// The nodes are going back to the version that they came from.
    pub rollback: bool,
    /// The feature level at its beginning: once it is raised, no node can go back.
    pub feature_level: FeatureLevel,
    /// The nodes that were there when it began.
    pub nodes: OrdMap<NodeId, UpgradeNode>,
}

/// A node in a rolling upgrade.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpgradeNode {
    /// The version it came from.
    pub from_version: String,
    /// How far it is.
    pub step: UpgradeStep,
    /// What the operator wanted of the node before it was taken out of service.
    pub admin: AdminState,
}

/// How far a node is in a rolling upgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpgradeStep {
    /// Its turn has not come.
    Waiting,
    /// It is out of service, for its program to be replaced.
    UnderWay,
    /// It is back in service.
    Done,
}

/// Who leads, since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leadership {
    /// Raft term.
    pub term: u64,
    /// The leader of that term.
    pub node: NodeId,
    /// When it took up its duties.
    pub since: Timestamp,
}

/// A single-use permission to join.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinToken {
    /// Its public half.
    pub id: TokenId,
    /// The secret half, sealed: only a node that holds the KEK can check a proof.
    pub secret: Sealed,
    /// What the joiner becomes.
    pub role: NodeRole,
    /// After this it is worthless.
    pub expires_at: Timestamp,
    /// The node whose place the joiner takes.
    pub replaces: Option<NodeId>,
    /// When it was made.
    pub created_at: Timestamp,
    /// Who joined with it: the digest of the request that did, and the node that came of it. The same request
    /// repeated gets the same answer.
    pub used: Option<(Digest, NodeId)>,
}

// --- catalog ---------------------------------------------------------------------------------------------------

/// An organisation: owner of sites, domains and resources.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Org {
    /// Its short name, which is its id.
    pub id: Slug,
    /// Display name.
    pub name: String,
    /// When it was made.
    pub created_at: Timestamp,
}

/// A person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Id.
    pub id: UserId,
    /// E-mail address in lower case, unique.
    pub email: String,
    /// Display name.
    pub name: String,
    /// May do everything.
    pub administrator: bool,
    /// Organisations that the person belongs to, with the roles held there.
    pub memberships: OrdMap<Slug, OrdSet<RoleId>>,
    /// When the user was made.
    pub created_at: Timestamp,
}

/// A named set of grants within an organisation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Role {
    /// Id.
    pub id: RoleId,
    /// Where it counts.
    pub org: Slug,
    /// Name, unique in the organisation.
    pub name: String,
    /// The organisation's administrators: made with it, cannot be removed.
    pub administrators: bool,
}

/// How far an API key reaches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyScope {
    /// The whole cluster.
    Cluster,
    /// One organisation.
    Org(Slug),
}

/// A bearer key for the API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKey {
    /// Public half, 15 characters.
    pub id: String,
    /// What it is for.
    pub name: String,
    /// How far it reaches.
    pub scope: KeyScope,
    /// SHA-256 of the secret half, which is random and long, so that a fast hash is enough.
    pub secret: Digest,
    /// When it was made.
    pub created_at: Timestamp,
}

/// A private network with a connector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Site {
    /// Id.
    pub id: SiteId,
    /// Owner.
    pub org: Slug,
    /// Short name, unique in the organisation.
    pub nice_id: Slug,
    /// Display name.
    pub name: String,
    /// Public half of the connector's credentials, 15 characters.
    pub connector_id: String,
    /// SHA-256 of the secret half, which is random and long, so that a fast hash is enough.
    pub connector_secret: Digest,
    /// The site's address inside the tunnels, the same from every node.
    pub address: Ipv4Addr,
    /// Off = no tunnel.
    pub enabled: bool,
    /// Log index of the last change of what its connector has to know (the control protocol's `configVersion`).
    pub config_version: u64,
    /// When it was made.
    pub created_at: Timestamp,
}

/// A DNS domain under which an organisation publishes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Domain {
    /// Id.
    pub id: DomainId,
    /// Owner.
    pub org: Slug,
    /// The domain; unique in the cluster, and none lies within another organisation's.
    pub name: HostName,
    /// When it was made.
    pub created_at: Timestamp,
}

/// What people reach by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resource {
    /// Id.
    pub id: ResourceId,
    /// Owner.
    pub org: Slug,
    /// Short name, unique in the organisation.
    pub nice_id: Slug,
    /// Display name.
    pub name: String,
    /// The domain it belongs to.
    pub domain: DomainId,
    /// Its full name, unique in the cluster; a wildcard serves one label.
    pub host: HostName,
    /// Off = not in DNS and not routed.
    pub enabled: bool,
    /// When it was made.
    pub created_at: Timestamp,
}

/// How a target is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// HTTP/1.1 in the clear.
    Http,
    /// HTTP over TLS.
    Https,
    /// HTTP/2 in the clear with prior knowledge.
    H2c,
    /// Bytes.
    Tcp,
    /// Datagrams.
    Udp,
}

/// How a target is checked: by its site's connector, or by the nodes that reach it themselves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// Path asked for; none = a TCP connection is enough.
    pub path: Option<String>,
    /// Seconds between checks.
    pub interval: u32,
    /// Seconds until a check counts as failed.
    pub timeout: u32,
    /// Failures in a row that make a target unhealthy.
    pub unhealthy_threshold: u32,
}

/// An address behind a site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Id.
    pub id: TargetId,
    /// What it serves.
    pub resource: ResourceId,
    /// The site whose connector reaches it.
    pub site: SiteId,
    /// How it is spoken to.
    pub method: Method,
    /// Host name or address as seen from the site.
    pub host: String,
    /// Port there.
    pub port: u16,
    /// Port on the site's tunnel address where the connector listens for it. Unique within the site.
    pub tunnel_port: u16,
    /// Off = gets no traffic.
    pub enabled: bool,
    /// How it is checked; none = taken as healthy.
    pub health_check: Option<HealthCheck>,
}

/// One value of a DNS record set.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RecordData {
    /// IPv4 address.
    A(Ipv4Addr),
    /// IPv6 address.
    Aaaa(Ipv6Addr),
    /// Text, any bytes; cut into character strings of 255 when served.
    Txt(Vec<u8>),
    /// Alias.
    Cname(HostName),
    /// Name server.
    Ns(HostName),
    /// Mail exchanger: preference, host.
    Mx(u16, HostName),
    /// Service: priority, weight, port, host.
    Srv(u16, u16, u16, HostName),
    /// Certification authority authorisation: flags, tag, value.
    Caa(u8, String, Vec<u8>),
    /// Any other type: its number, and its data in wire form without compression.
    Other(u16, Vec<u8>),
    /// The name takes no mail (RFC 7505).
    NullMx,
    /// The service is not there (RFC 2782, a target of "."): priority, weight, port.
    NullSrv(u16, u16, u16),
}

impl RecordData {
    /// The record type's name.
    #[must_use]
    pub fn kind(&self) -> RecordKind {
        match self {
            Self::A(_) => RecordKind::A,
            Self::Aaaa(_) => RecordKind::Aaaa,
            Self::Txt(_) => RecordKind::Txt,
            Self::Cname(_) => RecordKind::Cname,
            Self::Ns(_) => RecordKind::Ns,
            Self::Mx(..) | Self::NullMx => RecordKind::Mx,
            Self::Srv(..) | Self::NullSrv(..) => RecordKind::Srv,
            Self::Caa(..) => RecordKind::Caa,
            Self::Other(number, _) => RecordKind::Other(*number),
        }
    }
}

impl fmt::Display for RecordData {
    /// As in a zone file; names are complete.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::A(address) => write!(f, "{address}"),
            Self::Aaaa(address) => write!(f, "{address}"),
            Self::Txt(text) if text.is_empty() => f.write_str("\"\""),
            // A string has 255 bytes at most (RFC 1035 §3.3).
            Self::Txt(text) => text.chunks(255).enumerate().try_for_each(|(number, string)| {
                f.write_str(if number > 0 { " " } else { "" })?;
                quoted(f, string)
            }),
            Self::Cname(name) | Self::Ns(name) => write!(f, "{name}."),
            Self::Mx(preference, host) => write!(f, "{preference} {host}."),
            Self::Srv(priority, weight, port, host) => write!(f, "{priority} {weight} {port} {host}."),
            Self::NullMx => f.write_str("0 ."),
            Self::NullSrv(priority, weight, port) => write!(f, "{priority} {weight} {port} ."),
            Self::Caa(flags, tag, value) => {
                write!(f, "{flags} {tag} ")?;
                quoted(f, value)
            }
            // RFC 3597 §5.
            Self::Other(_, data) => {
                write!(f, "\\# {} ", data.len())?;
                data.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    }
}

/// A character string (RFC 1035 §5.1).
fn quoted(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    f.write_str("\"")?;
    for byte in bytes {
        match byte {
            b'"' | b'\\' => write!(f, "\\{}", char::from(*byte))?,
            b' '..=b'~' => write!(f, "{}", char::from(*byte))?,
            other => write!(f, "\\{other:03}")?,
        }
    }
    f.write_str("\"")
}

/// Types of record sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names are the DNS record types")]
pub enum RecordKind {
    A,
    Aaaa,
    Txt,
    Cname,
    Ns,
    Mx,
    Srv,
    Caa,
    Other(u16),
}

/// Types that have no variant of their own, by the names that people write.
const OTHER_KINDS: &[(&str, u16)] = &[
    ("PTR", 12),
    ("HINFO", 13),
    ("RP", 17),
    ("LOC", 29),
    ("NAPTR", 35),
    ("DS", 43),
    ("SSHFP", 44),
    ("TLSA", 52),
    ("SMIMEA", 53),
    ("OPENPGPKEY", 61),
    ("SVCB", 64),
    ("HTTPS", 65),
    ("SPF", 99),
    ("URI", 256),
];

impl RecordKind {
    /// HTTPS service bindings (RFC 9460).
    pub const HTTPS: Self = Self::Other(65);
    /// Delegation signer (RFC 4034 §5).
    pub const DS: Self = Self::Other(43);

    /// The type's number.
    #[must_use]
    pub fn number(self) -> u16 {
        match self {
            Self::A => 1,
            Self::Ns => 2,
            Self::Cname => 5,
            Self::Mx => 15,
            Self::Txt => 16,
            Self::Aaaa => 28,
            Self::Srv => 33,
            Self::Caa => 257,
            Self::Other(number) => number,
        }
    }

    /// The type of this number.
    #[must_use]
    pub fn from_number(number: u16) -> Self {
        let named = [Self::A, Self::Ns, Self::Cname, Self::Mx, Self::Txt, Self::Aaaa, Self::Srv, Self::Caa];
        named.into_iter().find(|kind| kind.number() == number).unwrap_or(Self::Other(number))
    }

    /// Whether operators may have records of the type. Not those that the cluster makes (SOA, and what belongs to
    /// signing), those that mean something to servers only, and DNAME, which is not followed.
    #[must_use]
    pub fn is_for_operators(self) -> bool {
        let Self::Other(number) = self else { return true };
        let made = matches!(number, 0 | 6 | 39 | 41 | 46..=48 | 50 | 51 | 59 | 60);
        // RFC 6895 §3.1: 128 to 255 are for questions and meta types.
        !made && !(128..=255).contains(&number) && Self::from_number(number) == self
    }
}

impl fmt::Display for RecordKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Other(number) => match OTHER_KINDS.iter().find(|(_, known)| known == number) {
                Some((name, _)) => f.write_str(name),
                None => write!(f, "TYPE{number}"),
            },
            named => f.write_str(&format!("{named:?}").to_uppercase()),
        }
    }
}

impl FromStr for RecordKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let upper = text.to_ascii_uppercase();
        let number = upper.strip_prefix("TYPE").and_then(|number| number.parse().ok());
        let listed = OTHER_KINDS.iter().find(|(name, _)| *name == upper).map(|(_, number)| *number);
        if let Some(number) = number.or(listed) {
            return Ok(Self::from_number(number));
        }
        let named = [Self::A, Self::Ns, Self::Cname, Self::Mx, Self::Txt, Self::Aaaa, Self::Srv, Self::Caa];
        let found = named.into_iter().find(|kind| kind.to_string() == upper);
        found.ok_or_else(|| {
            format!("{text:?} is no record type; others than the usual ones are written TYPE123")
        })
    }
}

/// A record set of the operator's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordSet {
    /// Seconds that resolvers may keep it.
    pub ttl: u32,
    /// Its values, all of one kind.
    pub data: Vec<RecordData>,
}

// --- Raft-born -------------------------------------------------------------------------------------------------

/// Where a single-homed site's tunnel ends, and where it may end next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// The node that carries the site first.
    pub home: NodeId,
    /// Where it goes next, best first.
    pub standbys: Vec<NodeId>,
    /// Grows with every move.
    pub epoch: Epoch,
    /// When it was decided.
    pub since: Timestamp,
    /// Why.
    pub cause: Cause,
}

/// The connector that last registered for a site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connector {
    /// Its WireGuard key.
    pub tunnel_key: TunnelKey,
    /// Its version, as it says.
    pub version: String,
    /// It keeps tunnels to several nodes at once.
    pub multi_homed: bool,
    /// When the key was first seen.
    pub since: Timestamp,
}

/// A certificate with its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// Id.
    pub id: CertificateId,
    /// Names it is good for, sorted.
    pub names: Vec<HostName>,
    /// Counts renewals.
    pub generation: u64,
    /// Chain, leaf first, DER.
    pub chain: Vec<Vec<u8>>,
    /// PKCS #8 private key.
    pub key: Sealed,
    /// Start of validity.
    pub not_before: Timestamp,
    /// End of validity.
    pub not_after: Timestamp,
    /// Where it was committed.
    pub revision: Revision,
}
