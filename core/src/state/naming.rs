//! What a catalog has of DNS and certificates beside the record sets: how names are answered and signed, who keeps
//! copies, and which issuers are asked.

use std::net::SocketAddr;

use imbl::OrdMap;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{ClusterState, dns::retain, issuers::check_issuers};
use crate::{
    dns::{AnswerPolicy, REGION_RULES_MAX, SECONDARIES_MAX, ZONE_KEY_BYTES, ZoneKey},
    id::ResourceId,
    issuance::Issuer,
    name::{HostName, Slug},
    outcome::Refusal,
};

/// What comes back with an earlier catalog.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Naming {
    policies: OrdMap<ResourceId, AnswerPolicy>,
    regions: OrdMap<IpNet, Slug>,
    zone_keys: OrdMap<HostName, ZoneKey>,
    secondaries: OrdMap<(HostName, SocketAddr), HostName>,
    issuers: Vec<Issuer>,
}

impl Naming {
    /// Whether all of it is as it could have been set.
    pub(super) fn check(&self) -> Result<(), Refusal> {
        for (count, what, limit) in [
            (self.regions.len(), "rules about regions", REGION_RULES_MAX),
            (self.secondaries.len(), "secondaries", SECONDARIES_MAX),
        ] {
            if count > limit {
                return Err(Refusal::Limit { what: what.to_owned(), limit: limit as u64 });
            }
        }
        if self.regions.keys().any(|network| *network != network.trunc()) {
            return Err(Refusal::Invalid("a network has bits behind its prefix".to_owned()));
        }
        if self.zone_keys.values().any(|key| key.public.len() != ZONE_KEY_BYTES) {
            return Err(Refusal::Invalid(format!("a zone's key has {ZONE_KEY_BYTES} bytes")));
        }
        check_issuers(&self.issuers)
    }
}

impl ClusterState {
    pub(super) fn naming(&self) -> Naming {
        Naming {
            policies: self.dns.policies.clone(),
            regions: self.dns.regions.clone(),
            zone_keys: self.dns.zone_keys.clone(),
            secondaries: self.dns.secondaries.clone(),
            issuers: self.issuance.issuers.clone(),
        }
    }

    /// Puts what was then in the place of what is. A zone that is signed now keeps its key, because its parent knows that
    /// one; keys for transfers that are gone were taken from somebody, and stay gone with the secondaries that used them.
    /// What hangs on resources and zones that did not come back is left to be tidied up.
    pub(super) fn restore_naming(&mut self, naming: Naming) {
        let Naming { policies, regions, zone_keys, mut secondaries, issuers } = naming;
        let dns = &mut self.dns;
        (dns.policies, dns.regions) = (policies, regions);
        for (zone, key) in zone_keys {
            dns.zone_keys.entry(zone).or_insert(key);
        }
        let (known, signed) = (&dns.transfer_keys, &dns.zone_keys);
        let unusable: Vec<(HostName, SocketAddr)> = secondaries
            .iter()
            .filter(|(_, key)| !known.contains_key(*key))
            .map(|(at, _)| at.clone())
            .collect();
        retain(&mut secondaries, |at| !signed.contains_key(&at.0) && !unusable.contains(at));
        dns.secondaries = secondaries;
        self.issuance.issuers = issuers;
    }
}
