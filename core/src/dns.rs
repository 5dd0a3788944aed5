//! What operators decide about DNS beside the plain record sets: whose addresses a resource's name has, which clients
//! are near to which nodes, which zones are signed, and who may take copies of them.

use std::{fmt, net::SocketAddr, str::FromStr};

use imbl::OrdMap;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{
    id::ResourceId,
    name::{HostName, Slug},
    record::{RecordData, RecordKind, RecordSet, Sealed},
    rollover::{KeptKey, ParentFound},
    time::Timestamp,
};

/// TTL of a record set whose first value came without one, in seconds.
pub const DEFAULT_TTL: u32 = 300;
/// Most rules that say where clients are.
pub const REGION_RULES_MAX: usize = 4096;
/// Most keys for transfers.
pub const TRANSFER_KEYS_MAX: usize = 64;
/// Most secondaries of all zones.
pub const SECONDARIES_MAX: usize = 64;
/// Bytes of a zone key's public half: the point of P-256 without its leading 4 (RFC 6605 §4).
pub const ZONE_KEY_BYTES: usize = 64;
/// Seconds that resolvers may keep a zone's keys, and parents are told to let their digests be kept.
pub const KEY_TTL: u32 = 3600;

/// Which nodes a resource's name leads to. Nodes that are out of service are left out in any case, and all are named
/// when too few are left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AnswerPolicy {
    /// Only the node at which the tunnel to the resource's site ends; the others once it is out of service.
    Home,
    /// That node first, then those that it may end at next, then the others.
    #[default]
    HomeFirst,
    /// Every node, beginning with another one for each resource.
    All,
    /// The nodes in the client's region, home first; every node for clients of whom the region is not known, or has
    /// no node in service.
    Nearest,
}

impl AnswerPolicy {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Home => "home",
            Self::HomeFirst => "home-first",
            Self::All => "all",
            Self::Nearest => "nearest",
        }
    }
}

impl fmt::Display for AnswerPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for AnswerPolicy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Self::Home, Self::HomeFirst, Self::All, Self::Nearest];
        let found = all.into_iter().find(|policy| policy.as_str() == text);
        found.ok_or_else(|| format!("{text:?} is none of home, home-first, all, nearest"))
    }
}

/// The key that signs a zone: it signs the keys and everything else (a CSK), algorithm ECDSAP256SHA256 (RFC 6605).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZoneKey {
    /// What DNSKEY shows of it, [`ZONE_KEY_BYTES`] bytes.
    pub public: Vec<u8>,
    /// The private half, PKCS #8.
    pub private: Sealed,
    /// When the zone was first signed with it.
    pub made_at: Timestamp,
}

/// What is kept about DNS beside the record sets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// Resources whose names are not answered by the default policy.
    pub policies: OrdMap<ResourceId, AnswerPolicy>,
    /// Which region the clients of a network are in; the longest prefix counts.
    pub regions: OrdMap<IpNet, Slug>,
    /// Keys of signed zones, by apex.
    pub zone_keys: OrdMap<HostName, ZoneKey>,
    /// Shared secrets for zone transfers (TSIG, HMAC-SHA256), by name.
    pub transfer_keys: OrdMap<HostName, Sealed>,
    /// Servers that keep copies of a zone, by zone and address, with the name of the key that they use.
    pub secondaries: OrdMap<(HostName, SocketAddr), HostName>,
}

impl Dns {
    /// How a resource's name is answered.
    #[must_use]
    pub fn policy(&self, resource: ResourceId) -> AnswerPolicy {
        self.policies.get(&resource).copied().unwrap_or_default()
    }

    /// The secondaries of a zone, with the names of their keys.
    pub fn secondaries_of(&self, zone: &HostName) -> impl Iterator<Item = (SocketAddr, &HostName)> {
        let of_zone = self.secondaries.iter().filter(move |((owner, _), _)| owner == zone);
        of_zone.map(|((_, address), key)| (*address, key))
    }
}

/// A change of DNS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DnsChange {
    /// A value was added to a record set of the operator's own, which is made if there is none.
    RecordAdded {
        /// Owner name.
        name: HostName,
        /// TTL of the set from here on; none = as it was, or [`DEFAULT_TTL`].
        ttl: Option<u32>,
        /// The value.
        data: RecordData,
    },
    /// A value, or a whole record set of the operator's own, is gone.
    RecordRemoved {
        /// Owner name.
        name: HostName,
        /// Type.
        kind: RecordKind,
        /// The value; none = all of them.
        data: Option<RecordData>,
    },
    /// Record sets were brought in from a zone file: their values are added to those that are there.
    RecordsImported {
        /// The zone.
        zone: HostName,
        /// Drop the operator's own records of the zone first.
        replace: bool,
        /// Owner and values; those of one set may come in several parts.
        sets: Vec<(HostName, RecordSet)>,
    },
    /// How a resource's name is answered.
    PolicySet {
        /// The resource.
        resource: ResourceId,
        /// The policy.
        policy: AnswerPolicy,
    },
    /// Which region the clients of a network are in; none = not said any more.
    RegionSet {
        /// The network.
        network: IpNet,
        /// The region, as nodes name theirs.
        region: Option<Slug>,
    },
    /// A zone is signed from here on.
    SigningStarted {
        /// The zone.
        zone: HostName,
        /// Public half of its key.
        public: Vec<u8>,
        /// Private half.
        private: Sealed,
    },
    /// A zone is not signed any more: an operator says that its DS record is gone everywhere.
    SigningStopped(HostName),
    /// A shared secret for transfers.
    TransferKeySet {
        /// Its name, which both sides use.
        name: HostName,
        /// The secret; none = gone.
        secret: Option<Sealed>,
    },
    /// A server keeps a copy of a zone: it is told of changes, and may transfer the zone with the key.
    SecondarySet {
        /// The zone.
        zone: HostName,
        /// Where the server is told of changes.
        address: SocketAddr,
        /// Name of the key; none = the server is no secondary any more.
        key: Option<HostName>,
    },
    /// The next key of a signed zone is made, and signs beside the one there is.
    RolloverStarted {
        /// The zone.
        zone: HostName,
        /// Public half of the next key.
        public: Vec<u8>,
        /// Private half.
        private: Sealed,
    },
    /// The parent of a signed zone was asked for its DS records, because a key is to go. It goes with this if nobody
    /// needs it any more.
    ParentAsked {
        /// The zone.
        zone: HostName,
        /// What the parent has.
        found: ParentFound,
        /// The key that is to stay; none = the zone is to be unsigned.
        kept: Option<KeptKey>,
    },
    /// One of a zone's two keys is gone: an operator says that the parent's DS records allow it, and that nobody keeps
    /// former ones.
    RolloverEnded {
        /// The zone.
        zone: HostName,
        /// The other one.
        kept: KeptKey,
    },
}

impl DnsChange {
    /// The variant's name, for logs.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::RecordAdded { .. } => "RecordAdded",
            Self::RecordRemoved { .. } => "RecordRemoved",
            Self::RecordsImported { .. } => "RecordsImported",
            Self::PolicySet { .. } => "PolicySet",
            Self::RegionSet { .. } => "RegionSet",
            Self::SigningStarted { .. } => "SigningStarted",
            Self::SigningStopped(_) => "SigningStopped",
            Self::TransferKeySet { .. } => "TransferKeySet",
            Self::SecondarySet { .. } => "SecondarySet",
            Self::RolloverStarted { .. } => "RolloverStarted",
            Self::ParentAsked { .. } => "ParentAsked",
            Self::RolloverEnded { .. } => "RolloverEnded",
        }
    }
}
