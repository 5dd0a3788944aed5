//! What is kept about the tunnel fabric beside sites and their placements: what operators say of where tunnels are to
//! end, and keys by which sites come into being.

use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use crate::{
    id::{NodeId, SiteId},
    name::Slug,
    record::Digest,
    time::Timestamp,
};

/// Largest weight of a node.
pub const WEIGHT_MAX: u16 = 256;
/// Most provisioning keys of a cluster.
pub const PROVISIONING_KEYS_MAX: usize = 1000;
/// Longest life of a provisioning key that ends, in seconds: ten years.
pub const PROVISIONING_LIFETIME_MAX: u64 = 10 * 365 * 86_400;

/// How much of the sites a node takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Capacity {
    /// How many sites have their home there, in proportion to the weights of the other nodes: 1 to [`WEIGHT_MAX`].
    pub weight: u16,
    /// To how many sites it is home while other nodes have room; none = any number. A failover is never refused for
    /// it.
    pub sites: Option<u32>,
}

impl Default for Capacity {
    fn default() -> Self {
        Self { weight: 1, sites: None }
    }
}

impl Capacity {
    /// What is wrong with it.
    ///
    /// # Errors
    /// A value is out of range.
    pub fn check(self) -> Result<(), String> {
        if !(1..=WEIGHT_MAX).contains(&self.weight) {
            return Err(format!(
                "a weight lies between 1 and {WEIGHT_MAX}: to give a node nothing, drain it"
            ));
        }
        if self.sites == Some(0) {
            return Err("a node is home to 1 site at least: to give it none, drain it".to_owned());
        }
        Ok(())
    }
}

/// A key with which connectors make sites, and get credentials for them, by themselves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProvisioningKey {
    /// Public half, 15 characters.
    pub id: String,
    /// Owner of the sites that come of it.
    pub org: Slug,
    /// What it is for; also the name of sites whose connectors give none.
    pub name: String,
    /// SHA-256 of the secret half, which is random and long, so that a fast hash is enough.
    pub secret: Digest,
    /// How many sites may come of it; none = any number.
    pub uses: Option<u32>,
    /// How many have.
    pub used: u32,
    /// The last of them.
    pub last: Option<SiteId>,
    /// After this it is worthless; none = never.
    pub expires_at: Option<Timestamp>,
    /// When it was made.
    pub created_at: Timestamp,
}

/// What is kept. What is as usual has no entry: equal states are equal bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fabric {
    /// How much nodes take, where it is not as usual.
    pub capacities: OrdMap<NodeId, Capacity>,
    /// The regions that sites lie in, as nodes name theirs.
    pub regions: OrdMap<SiteId, Slug>,
    /// Provisioning keys by their public half.
    pub provisioning_keys: OrdMap<String, ProvisioningKey>,
}

impl Fabric {
    /// How much a node takes.
    #[must_use]
    pub fn capacity(&self, node: NodeId) -> Capacity {
        self.capacities.get(&node).copied().unwrap_or_default()
    }
}

/// A change of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FabricChange {
    /// How much a node takes.
    CapacitySet {
        /// The node.
        node: NodeId,
        /// How much.
        capacity: Capacity,
    },
    /// Where a site lies; none = not said any more.
    SiteRegionSet {
        /// The site.
        site: SiteId,
        /// The region.
        region: Option<Slug>,
    },
    /// New provisioning key.
    ProvisioningKeyCreated {
        /// Public half.
        id: String,
        /// Owner of the sites that come of it.
        org: Slug,
        /// What it is for.
        name: String,
        /// SHA-256 of the secret half.
        secret: Digest,
        /// How many sites may come of it; none = any number.
        uses: Option<u32>,
        /// For how many seconds it is good from when this is applied; none = for ever.
        lifetime_s: Option<u64>,
    },
    /// A provisioning key is worthless from here on. The sites that came of it stay.
    ProvisioningKeyRemoved(String),
    /// A connector has made its site with a provisioning key.
    SiteProvisioned {
        /// The key's public half.
        key: String,
        /// Display name; none = the key's.
        name: Option<String>,
        /// Public half of the connector's credentials.
        connector_id: String,
        /// SHA-256 of the secret half.
        connector_secret: Digest,
    },
}

impl FabricChange {
    /// The variant's name, for logs.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::CapacitySet { .. } => "CapacitySet",
            Self::SiteRegionSet { .. } => "SiteRegionSet",
            Self::ProvisioningKeyCreated { .. } => "ProvisioningKeyCreated",
            Self::ProvisioningKeyRemoved(_) => "ProvisioningKeyRemoved",
            Self::SiteProvisioned { .. } => "SiteProvisioned",
        }
    }
}
