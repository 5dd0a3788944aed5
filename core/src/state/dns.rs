//! Changes of DNS.

use std::{collections::BTreeSet, net::SocketAddr};

use imbl::{OrdMap, ordmap::Entry};
use ipnet::IpNet;

use super::{Applied, ClusterState};
use crate::{
    dns::{
        AnswerPolicy, DEFAULT_TTL, DnsChange, REGION_RULES_MAX, SECONDARIES_MAX, TRANSFER_KEYS_MAX,
        ZONE_KEY_BYTES, ZoneKey,
    },
    id::ResourceId,
    name::{HostName, Slug},
    outcome::{Object, Refusal},
    plan::apexes,
    record::{RecordData, RecordKind, RecordSet, Sealed},
};

impl ClusterState {
    pub(super) fn change_dns(&mut self, change: &DnsChange) -> Applied {
        use DnsChange as C;
        match change {
            C::RecordAdded { name, ttl, data } => self.add_record(name, *ttl, data),
            C::RecordRemoved { name, kind, data } => self.remove_record(name, *kind, data.as_ref()),
            C::RecordsImported { zone, replace, sets } => self.import_records(zone, *replace, sets),
            C::PolicySet { resource, policy } => self.set_policy(*resource, *policy),
            C::RegionSet { network, region } => self.set_region(*network, region.as_ref()),
            C::SigningStarted { zone, public, private } => self.start_signing(zone, public, private),
            C::SigningStopped(zone) => self.stop_signing(zone),
            C::TransferKeySet { name, secret } => self.set_transfer_key(name, secret.as_ref()),
            C::SecondarySet { zone, address, key } => self.set_secondary(zone, *address, key.as_ref()),
            C::RolloverStarted { zone, public, private } => self.start_rollover(zone, public, private),
            C::ParentAsked { zone, found, kept } => self.hear_parent(zone, *found, *kept),
            C::RolloverEnded { zone, kept } => self.end_rollover(zone, *kept),
        }
    }

    fn add_record(&mut self, name: &HostName, ttl: Option<u32>, data: &RecordData) -> Applied {
        let key = (name.clone(), data.kind());
        let mut set = match self.record_sets.get(&key) {
            Some(set) => set.clone(),
            None => RecordSet { ttl: ttl.unwrap_or(DEFAULT_TTL), data: Vec::new() },
        };
        let known = set.data.contains(data);
        if known && ttl.is_none_or(|ttl| ttl == set.ttl) {
            return Err(Refusal::Invalid(format!("{name} has this {} record already", data.kind())));
        }
        if !known {
            set.data.push(data.clone());
        }
        set.ttl = ttl.unwrap_or(set.ttl);
        self.set_record_set(name, data.kind(), Some(&set))
    }

    fn remove_record(&mut self, name: &HostName, kind: RecordKind, data: Option<&RecordData>) -> Applied {
        let missing = || Refusal::NotFound(Object::RecordSet(name.clone()));
        let Entry::Occupied(mut entry) = self.record_sets.entry((name.clone(), kind)) else {
            return Err(missing());
        };
        let set = entry.get_mut();
        let before = set.data.len();
        set.data.retain(|known| data.is_some_and(|data| known != data));
        if set.data.len() == before {
            return Err(Refusal::Invalid(format!("{name} has no such {kind} record")));
        }
        if set.data.is_empty() {
            entry.remove();
        }
        Ok(None)
    }

    fn import_records(&mut self, zone: &HostName, replace: bool, sets: &[(HostName, RecordSet)]) -> Applied {
        self.need_zone(zone)?;
        if replace {
            let kept = self.record_sets.iter().filter(|((name, _), _)| !name.is_within(zone));
            self.record_sets = kept.map(|(key, set)| (key.clone(), set.clone())).collect();
        }
        for (name, set) in sets {
            if !name.is_within(zone) {
                return Err(Refusal::Invalid(format!("{name} does not lie in the zone {zone}")));
            }
            let Some(kind) = set.data.first().map(RecordData::kind) else { continue };
            let known = self.record_sets.get(&(name.clone(), kind));
            let mut data = known.map(|known| known.data.clone()).unwrap_or_default();
            let fresh: Vec<RecordData> = set.data.iter().filter(|d| !data.contains(d)).cloned().collect();
            data.extend(fresh);
            self.set_record_set(name, kind, Some(&RecordSet { ttl: set.ttl, data }))?;
        }
        Ok(None)
    }

    fn set_policy(&mut self, resource: ResourceId, policy: AnswerPolicy) -> Applied {
        if !self.resources.contains_key(&resource) {
            return Err(Refusal::NotFound(Object::Resource(resource)));
        }
        // The default needs no entry: equal states are equal bytes.
        if policy == AnswerPolicy::default() {
            self.dns.policies.remove(&resource);
        } else {
            self.dns.policies.insert(resource, policy);
        }
        Ok(None)
    }

    fn set_region(&mut self, network: IpNet, region: Option<&Slug>) -> Applied {
        if network != network.trunc() {
            return Err(Refusal::Invalid(format!(
                "{network} has bits behind its prefix: write {}",
                network.trunc()
            )));
        }
        let Some(region) = region else {
            let gone = self.dns.regions.remove(&network);
            return match gone {
                Some(_) => Ok(None),
                None => Err(Refusal::Invalid(format!("nothing is said about {network}"))),
            };
        };
        limited(&self.dns.regions, &network, "rules about regions", REGION_RULES_MAX)?;
        self.dns.regions.insert(network, region.clone());
        Ok(None)
    }

    fn start_signing(&mut self, zone: &HostName, public: &[u8], private: &Sealed) -> Applied {
        self.need_zone(zone)?;
        if public.len() != ZONE_KEY_BYTES {
            return Err(Refusal::Invalid(format!("a zone's key has {ZONE_KEY_BYTES} bytes")));
        }
        if self.dns.zone_keys.contains_key(zone) {
            return Err(Refusal::Invalid(format!("the zone {zone} is signed already")));
        }
        if self.dns.secondaries_of(zone).next().is_some() {
            return Err(Refusal::Invalid(format!(
                "the zone {zone} has secondaries, which cannot sign its answers: remove them first"
            )));
        }
        let key = ZoneKey { public: public.to_vec(), private: private.clone(), made_at: self.time };
        self.dns.zone_keys.insert(zone.clone(), key);
        Ok(None)
    }

    fn set_transfer_key(&mut self, name: &HostName, secret: Option<&Sealed>) -> Applied {
        if let Some(((zone, address), _)) = self.dns.secondaries.iter().find(|(_, key)| *key == name)
            && secret.is_none()
        {
            return Err(Refusal::Invalid(format!(
                "the key {name} is used by the secondary {address} of {zone}"
            )));
        }
        let Some(secret) = secret else {
            let gone = self.dns.transfer_keys.remove(name);
            return match gone {
                Some(_) => Ok(None),
                None => Err(Refusal::Invalid(format!("there is no key {name}"))),
            };
        };
        if self.dns.transfer_keys.contains_key(name) {
            return Err(Refusal::Invalid(format!("there is a key {name} already")));
        }
        limited(&self.dns.transfer_keys, name, "keys for transfers", TRANSFER_KEYS_MAX)?;
        self.dns.transfer_keys.insert(name.clone(), secret.clone());
        Ok(None)
    }

    fn set_secondary(&mut self, zone: &HostName, address: SocketAddr, key: Option<&HostName>) -> Applied {
        let entry = (zone.clone(), address);
        let Some(key) = key else {
            let gone = self.dns.secondaries.remove(&entry);
            return match gone {
                Some(_) => Ok(None),
                None => Err(Refusal::Invalid(format!("{address} is no secondary of {zone}"))),
            };
        };
        self.need_zone(zone)?;
        if self.dns.zone_keys.contains_key(zone) {
            return Err(Refusal::Invalid(format!(
                "the zone {zone} is signed as it is answered, and a secondary cannot do that"
            )));
        }
        if !self.dns.transfer_keys.contains_key(key) {
            return Err(Refusal::Invalid(format!("there is no key {key}")));
        }
        limited(&self.dns.secondaries, &entry, "secondaries", SECONDARIES_MAX)?;
        self.dns.secondaries.insert(entry, key.clone());
        Ok(None)
    }

    fn need_zone(&self, zone: &HostName) -> Result<(), Refusal> {
        if apexes(self).contains(&zone) {
            return Ok(());
        }
        Err(Refusal::Invalid(format!("{zone} is no zone of this cluster")))
    }

    /// Forgets what hangs on resources and zones that are gone.
    pub(super) fn tidy_dns(&mut self) {
        if self.dns == crate::dns::Dns::default() {
            return;
        }
        let zones: BTreeSet<HostName> = apexes(self).into_iter().cloned().collect();
        let resources = &self.resources;
        retain(&mut self.dns.policies, |resource| resources.contains_key(resource));
        retain(&mut self.dns.zone_keys, |zone| zones.contains(zone));
        retain(&mut self.dns.secondaries, |(zone, _)| zones.contains(zone));
        let signed = &self.dns.zone_keys;
        retain(&mut self.rollovers.zone_keys, |zone| signed.contains_key(zone));
        retain(&mut self.rollovers.parents, |zone| signed.contains_key(zone));
    }
}

pub(super) fn retain<K: Ord + Clone, V: Clone>(map: &mut OrdMap<K, V>, keep: impl Fn(&K) -> bool) {
    let gone: Vec<K> = map.keys().filter(|key| !keep(key)).cloned().collect();
    for key in gone {
        map.remove(&key);
    }
}

fn limited<K: Ord, V>(map: &OrdMap<K, V>, key: &K, what: &str, limit: usize) -> Result<(), Refusal> {
    if map.len() < limit || map.contains_key(key) {
        return Ok(());
    }
    Err(Refusal::Limit { what: what.to_owned(), limit: limit as u64 })
}
