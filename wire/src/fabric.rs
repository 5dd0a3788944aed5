//! How much nodes take, where sites lie, and the keys by which sites come into being.

use pangolin_core::Slug;
use serde::{Deserialize, Serialize};

use crate::{
    Moment, Pagination,
    shape::{answer, request},
};

answer! {
    /// A key with which connectors make sites by themselves.
    ProvisioningKey {
        /// Public half.
        provisioning_key_id: String,
        /// Owner of the sites that come of it.
        org_id: Slug,
        /// What it is for; also the name of sites whose connectors give none.
        name: String,
        /// How many sites may come of it; none = any number.
        uses: Option<u32>,
        /// How many have.
        used: u32,
        /// After this it is worthless; none = never.
        expires_at: Option<Moment>,
        /// When it was made.
        created_at: Moment,
    }

    /// Answer of `PUT /org/{orgId}/provisioning-key`.
    CreatedProvisioningKey {
        /// The key.
        #[serde(flatten)]
        provisioning_key: ProvisioningKey,
        /// What connectors are given. Shown this once; none when the request had been answered before.
        key: Option<String>,
    }

    /// Answer of `GET /org/{orgId}/provisioning-keys`.
    ProvisioningKeyList {
        /// The keys, by id.
        provisioning_keys: Vec<ProvisioningKey>,
        /// Which part of them.
        pagination: Pagination,
    }
}

request! {
    /// Request of `POST /node/{nodeId}/capacity`: what is not given stays.
    SetCapacity {
        /// To how many sites it is home, in proportion to the weights of the other nodes: 1 to 256.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        weight: Option<u16>,
        /// To how many sites it is home while other nodes have room; 0 = any number.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        capacity: Option<u32>,
    }

    /// Request of `POST /site/{siteId}/region`.
    SetSiteRegion {
        /// The region that the site lies in, as nodes name theirs; none = not said.
        #[serde(default)]
        region: Option<Slug>,
    }

    /// Request of `PUT /org/{orgId}/provisioning-key`.
    CreateProvisioningKey {
        /// What it is for; also the name of sites whose connectors give none.
        name: String,
        /// How many sites may come of it; 1 if not said, 0 = any number.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        uses: Option<u32>,
        /// For how many seconds it is good; a day if not said, 0 = for ever.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lifetime_seconds: Option<u64>,
        /// Public half, if the client makes its own credentials: so a repeat after an unknown outcome still knows
        /// them. Goes with `secret`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        provisioning_key_id: Option<String>,
        /// Secret half, if the client makes its own credentials.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        secret: Option<String>,
    }
}
