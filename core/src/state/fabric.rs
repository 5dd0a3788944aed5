//! Changes of what is kept about the tunnel fabric.

use std::time::Duration;

use super::{Applied, ClusterState, catalog::credential_id, dns::retain};
use crate::{
    fabric::{Capacity, FabricChange, PROVISIONING_KEYS_MAX, PROVISIONING_LIFETIME_MAX, ProvisioningKey},
    id::{NodeId, SiteId},
    name::Slug,
    outcome::{Object, Refusal},
    record::Digest,
};

fn worthless(key: &str, why: &str) -> Refusal {
    Refusal::KeyWorthless { key: key.to_owned(), why: why.to_owned() }
}

fn checked_lifetime(seconds: u64) -> Result<Duration, Refusal> {
    if (1..=PROVISIONING_LIFETIME_MAX).contains(&seconds) {
        return Ok(Duration::from_secs(seconds));
    }
    Err(Refusal::Invalid(format!(
        "a provisioning key is good for 1 to {PROVISIONING_LIFETIME_MAX} seconds, or for ever"
    )))
}

impl ClusterState {
    pub(super) fn change_fabric(&mut self, change: &FabricChange) -> Applied {
        match change {
            FabricChange::CapacitySet { node, capacity } => self.set_capacity(*node, *capacity),
            FabricChange::SiteRegionSet { site, region } => self.set_site_region(*site, region.as_ref()),
            FabricChange::ProvisioningKeyCreated { id, org, name, secret, uses, lifetime_s } => {
                let lifetime = lifetime_s.map(checked_lifetime).transpose()?;
                self.create_provisioning_key(ProvisioningKey {
                    id: id.clone(),
                    org: org.clone(),
                    name: name.clone(),
                    secret: *secret,
                    uses: *uses,
                    used: 0,
                    last: None,
                    expires_at: lifetime.map(|lifetime| self.time + lifetime),
                    created_at: self.time,
                })
            }
            FabricChange::ProvisioningKeyRemoved(id) => {
                let removed = self.fabric.provisioning_keys.remove(id);
                removed.map(|_| None).ok_or(Refusal::NotFound(Object::ProvisioningKey(id.clone())))
            }
            FabricChange::SiteProvisioned { key, name, connector_id, connector_secret } => {
                self.provision_site(key, name.as_deref(), connector_id, *connector_secret)
            }
        }
    }

    fn set_capacity(&mut self, node: NodeId, capacity: Capacity) -> Applied {
        if !self.nodes.contains_key(&node) {
            return Err(Refusal::NotFound(Object::Node(node)));
        }
        capacity.check().map_err(Refusal::Invalid)?;
        if capacity == Capacity::default() {
            self.fabric.capacities.remove(&node);
        } else {
            self.fabric.capacities.insert(node, capacity);
        }
        Ok(None)
    }

    fn set_site_region(&mut self, site: SiteId, region: Option<&Slug>) -> Applied {
        if !self.sites.contains_key(&site) {
            return Err(Refusal::NotFound(Object::Site(site)));
        }
        match region {
            Some(region) => drop(self.fabric.regions.insert(site, region.clone())),
            None => drop(self.fabric.regions.remove(&site)),
        }
        Ok(None)
    }

    fn create_provisioning_key(&mut self, key: ProvisioningKey) -> Applied {
        credential_id(&key.id)?;
        self.need_org(&key.org)?;
        crate::name::check_title("name", &key.name).map_err(|error| Refusal::Invalid(error.to_string()))?;
        if key.uses == Some(0) {
            return Err(Refusal::Invalid("a provisioning key is for 1 site at least".to_owned()));
        }
        let keys = &self.fabric.provisioning_keys;
        if keys.contains_key(&key.id) {
            return Err(Refusal::Exists(Object::ProvisioningKey(key.id)));
        }
        if keys.len() >= PROVISIONING_KEYS_MAX {
            let limit = PROVISIONING_KEYS_MAX as u64;
            return Err(Refusal::Limit { what: "provisioning keys".to_owned(), limit });
        }
        let id = key.id.clone();
        self.fabric.provisioning_keys.insert(id.clone(), key);
        Ok(Some(Object::ProvisioningKey(id)))
    }

    /// Makes a site for a connector that has shown a key. A key for one site that is shown again, because the answer
    /// was lost on its way, gives the same site another secret as long as no connector of it has registered.
    fn provision_site(
        &mut self,
        key: &str,
        name: Option<&str>,
        connector_id: &str,
        connector_secret: Digest,
    ) -> Applied {
        let known = self.fabric.provisioning_keys.get(key).cloned();
        let known = known.ok_or_else(|| Refusal::NotFound(Object::ProvisioningKey(key.to_owned())))?;
        if known.expires_at.is_some_and(|end| end < self.time) {
            return Err(worthless(key, "has expired"));
        }
        if known.uses.is_some_and(|uses| known.used >= uses) {
            let waits = |id: &SiteId| self.sites.contains_key(id) && !self.connectors.contains_key(id);
            if known.uses == Some(1)
                && let Some(site) = known.last.filter(waits)
            {
                self.change_site_secret(site, connector_secret)?;
                return Ok(Some(Object::Site(site)));
            }
            return Err(worthless(key, "has been used up"));
        }
        let name = name.unwrap_or(&known.name);
        let made = self.create_site(None, &known.org, None, name, connector_id, connector_secret)?;
        let Some(Object::Site(site)) = made else { return Ok(made) };
        let used = ProvisioningKey { used: known.used.saturating_add(1), last: Some(site), ..known };
        self.fabric.provisioning_keys.insert(used.id.clone(), used);
        Ok(Some(Object::Site(site)))
    }

    /// Forgets what hangs on nodes, sites and organisations that are gone.
    pub(super) fn tidy_fabric(&mut self) {
        let (nodes, sites, orgs) = (&self.nodes, &self.sites, &self.orgs);
        retain(&mut self.fabric.capacities, |node| nodes.contains_key(node));
        retain(&mut self.fabric.regions, |site| sites.contains_key(site));
        let orphaned = |key: &&ProvisioningKey| !orgs.contains_key(&key.org);
        let gone: Vec<String> =
            self.fabric.provisioning_keys.values().filter(orphaned).map(|key| key.id.clone()).collect();
        for id in gone {
            self.fabric.provisioning_keys.remove(&id);
        }
    }
}
