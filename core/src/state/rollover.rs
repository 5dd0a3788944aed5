//! What commands do to keys that are being exchanged.

use std::time::Duration;

use super::{Applied, ClusterState};
use crate::{
    dns::{KEY_TTL, ZONE_KEY_BYTES, ZoneKey},
    name::HostName,
    outcome::Refusal,
    record::Sealed,
    rollover::{KeptKey, ParentFound, ParentSeen, Rollovers},
};

fn invalid(reason: impl Into<String>) -> Refusal {
    Refusal::Invalid(reason.into())
}

impl ClusterState {
    /// What is known of keys that are being exchanged.
    #[must_use]
    pub fn rollovers(&self) -> &Rollovers {
        &self.rollovers
    }

    pub(super) fn start_rollover(&mut self, zone: &HostName, public: &[u8], private: &Sealed) -> Applied {
        let current = self.signed(zone)?;
        if public.len() != ZONE_KEY_BYTES || public == current.public {
            return Err(invalid(format!("the next key of a zone is another one, of {ZONE_KEY_BYTES} bytes")));
        }
        if self.rollovers.zone_keys.contains_key(zone) {
            return Err(invalid(format!("the key of {zone} is being exchanged already")));
        }
        let key = ZoneKey { public: public.to_vec(), private: private.clone(), made_at: self.time };
        self.rollovers.zone_keys.insert(zone.clone(), key);
        // What the parent has was told of other keys.
        self.rollovers.parents.remove(zone);
        Ok(None)
    }

    /// Notes what the parent has, and lets a key go that nobody needs any more.
    pub(super) fn hear_parent(
        &mut self,
        zone: &HostName,
        found: ParentFound,
        kept: Option<KeptKey>,
    ) -> Applied {
        self.signed(zone)?;
        if kept.is_some() {
            self.next_key(zone)?;
        }
        let seen = ParentSeen::after(self.rollovers.parents.get(zone), found, self.time);
        self.rollovers.parents.insert(zone.clone(), seen);
        match (self.key_needed(zone, kept), kept) {
            (Some(_), _) => Ok(None),
            (None, Some(kept)) => self.end_rollover(zone, kept),
            (None, None) => self.stop_signing(zone),
        }
    }

    /// Why the key of a signed zone cannot go yet of which `kept` is to stay (none: neither), as far as it is known what
    /// the parent has; none = it can.
    #[must_use]
    pub fn key_needed(&self, zone: &HostName, kept: Option<KeptKey>) -> Option<String> {
        let Some(seen) = self.rollovers.parents.get(zone) else {
            return Some(format!("nobody has asked the parent of {zone}"));
        };
        let lacks = match kept {
            Some(KeptKey::Next) => {
                (!seen.found.next).then_some("no DS record of the next key: enter it there")
            }
            Some(KeptKey::Current) => {
                (!seen.found.current).then_some("no DS record of the key that is to stay: enter it there")
            }
            None => seen.found.any.then_some(
                "a DS record, so that resolvers that validate would refuse every answer: remove it there",
            ),
        };
        if let Some(lacks) = lacks {
            return Some(format!("the parent of {zone} has {lacks}"));
        }
        // What was signed with the former key alone has to have left the resolvers as well.
        let next = self.rollovers.zone_keys.get(zone).filter(|_| kept == Some(KeptKey::Next));
        let everywhere = next.map(|next| next.made_at + Duration::from_secs(self.longest_ttl(zone).into()));
        let ready = seen.settled_at().max(everywhere.unwrap_or_default());
        (ready > self.time).then(|| {
            format!("the parent of {zone} has what it should, but resolvers may keep what was there before until {ready}")
        })
    }

    /// Seconds that resolvers may keep what the zone has, its keys among it.
    fn longest_ttl(&self, zone: &HostName) -> u32 {
        let of_zone = self.record_sets.iter().filter(|((name, _), _)| name.is_within(zone));
        of_zone.map(|(_, set)| set.ttl).max().unwrap_or(0).max(KEY_TTL)
    }

    pub(super) fn end_rollover(&mut self, zone: &HostName, kept: KeptKey) -> Applied {
        let next = self.next_key(zone)?.clone();
        if kept == KeptKey::Next {
            self.dns.zone_keys.insert(zone.clone(), next);
        }
        self.rollovers.zone_keys.remove(zone);
        self.rollovers.parents.remove(zone);
        Ok(None)
    }

    pub(super) fn stop_signing(&mut self, zone: &HostName) -> Applied {
        self.signed(zone)?;
        self.dns.zone_keys.remove(zone);
        self.rollovers.zone_keys.remove(zone);
        self.rollovers.parents.remove(zone);
        Ok(None)
    }

    fn signed(&self, zone: &HostName) -> Result<&ZoneKey, Refusal> {
        self.dns.zone_keys.get(zone).ok_or_else(|| invalid(format!("the zone {zone} is not signed")))
    }

    fn next_key(&self, zone: &HostName) -> Result<&ZoneKey, Refusal> {
        let next = self.rollovers.zone_keys.get(zone);
        next.ok_or_else(|| invalid(format!("the key of {zone} is not being exchanged")))
    }
}
