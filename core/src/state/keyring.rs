//! Which key-encryption key (KEK) seals, and how what is sealed moves from an older one to it.

use super::{Applied, ClusterState};
use crate::{
    id::NodeId,
    issuance::Issuance,
    keyring::{Kek, KeyringChange, Keys, REWRAPPED_MAX, Rewrapped, SealedPlace},
    outcome::{Object, Refusal},
    record::{AdminState, Digest, NodeRole, Sealed},
};

fn invalid(reason: impl Into<String>) -> Refusal {
    Refusal::Invalid(reason.into())
}

impl ClusterState {
    /// What is known of the cluster's KEKs.
    #[must_use]
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Everything that is sealed, and where it stands.
    #[must_use]
    pub fn sealed(&self) -> Vec<(SealedPlace, &Sealed)> {
        let mut found = Vec::new();
        if let Some(cluster) = &self.cluster {
            found.push((SealedPlace::Authority, &cluster.authority.key));
            found.push((SealedPlace::InternalIssuer, &cluster.issuer.key));
        }
        found.extend(self.tokens.values().map(|token| (SealedPlace::Token(token.id), &token.secret)));
        found.extend(self.certificates.values().map(|c| (SealedPlace::Certificate(c.id), &c.key)));
        let Issuance { issuers, accounts, upkeeps, .. } = &self.issuance;
        for upkeep in upkeeps.values() {
            let key = upkeep.order.as_ref().and_then(|order| order.key.as_ref());
            found.extend(key.map(|key| (SealedPlace::Order(upkeep.id), key)));
        }
        found.extend(accounts.iter().map(|(at, account)| (SealedPlace::Account(at.clone()), &account.key)));
        for issuer in issuers {
            let place = SealedPlace::External(issuer.directory.clone());
            found.extend(issuer.external.as_ref().map(|external| (place, &external.key)));
        }
        let zones = self.dns.zone_keys.iter();
        found.extend(zones.map(|(zone, key)| (SealedPlace::ZoneKey(zone.clone()), &key.private)));
        let transfers = self.dns.transfer_keys.iter();
        found.extend(transfers.map(|(name, secret)| (SealedPlace::TransferKey(name.clone()), secret)));
        let zones = self.rollovers.zone_keys.iter();
        found.extend(zones.map(|(zone, key)| (SealedPlace::NextZoneKey(zone.clone()), &key.private)));
        let accounts = self.rollovers.account_keys.iter();
        found.extend(accounts.map(|(at, key)| (SealedPlace::NextAccount(at.clone()), key)));
        found
    }

    fn sealed_mut(&mut self, place: &SealedPlace) -> Option<&mut Sealed> {
        let Issuance { issuers, accounts, upkeeps, .. } = &mut self.issuance;
        match place {
            SealedPlace::Authority => self.cluster.as_mut().map(|cluster| &mut cluster.authority.key),
            SealedPlace::InternalIssuer => self.cluster.as_mut().map(|cluster| &mut cluster.issuer.key),
            SealedPlace::Token(id) => self.tokens.get_mut(id).map(|token| &mut token.secret),
            SealedPlace::Certificate(id) => self.certificates.get_mut(id).map(|c| &mut c.key),
            SealedPlace::Order(id) => upkeeps.get_mut(id)?.order.as_mut()?.key.as_mut(),
            SealedPlace::Account(directory) => accounts.get_mut(directory).map(|account| &mut account.key),
            SealedPlace::External(directory) => {
                let issuer = issuers.iter_mut().find(|issuer| issuer.directory == *directory)?;
                issuer.external.as_mut().map(|external| &mut external.key)
            }
            SealedPlace::ZoneKey(zone) => self.dns.zone_keys.get_mut(zone).map(|key| &mut key.private),
            SealedPlace::TransferKey(name) => self.dns.transfer_keys.get_mut(name),
            SealedPlace::NextZoneKey(zone) => {
                self.rollovers.zone_keys.get_mut(zone).map(|key| &mut key.private)
            }
            SealedPlace::NextAccount(directory) => self.rollovers.account_keys.get_mut(directory),
        }
    }

    pub(super) fn change_keyring(&mut self, change: &KeyringChange) -> Applied {
        match change {
            KeyringChange::Made { number, fingerprint } => self.make_key(*number, *fingerprint),
            KeyringChange::Held { node, number } => self.hold_key(*node, *number),
            KeyringChange::Activated(number) => self.activate_key(*number),
            KeyringChange::Rewrapped(rewrapped) => self.rewrap(rewrapped),
            KeyringChange::Retired(number) => self.retire_keys(*number),
        }
    }

    /// A KEK that no node holds is given up for another one: the node that made it is gone.
    fn make_key(&mut self, number: u32, fingerprint: Digest) -> Applied {
        let next = self.keys.next_number();
        if number != next {
            return Err(invalid(format!("key-encryption key {next} is the next one, not {number}")));
        }
        if let Some(known) = self.keys.next.filter(|_| !self.keys.holders.is_empty()) {
            return Err(invalid(format!(
                "a rotation is under way: the nodes are fetching key-encryption key {}",
                known.number
            )));
        }
        self.keys.next = Some(Kek { number, fingerprint, since: self.time });
        self.keys.given = number;
        self.keys.holders.clear();
        Ok(None)
    }

    fn hold_key(&mut self, id: NodeId, number: u32) -> Applied {
        let node = self.nodes.get(&id).ok_or(Refusal::NotFound(Object::Node(id)))?;
        if node.spec.role != NodeRole::Data {
            return Err(invalid("a witness holds no keys"));
        }
        if self.keys.newest().map(|kek| kek.number) != Some(number) {
            return Err(invalid(format!("key-encryption key {number} is not the newest one")));
        }
        self.keys.holders.insert(id);
        Ok(None)
    }

    fn activate_key(&mut self, number: u32) -> Applied {
        let next = self.keys.next.filter(|next| next.number == number && !self.keys.holders.is_empty());
        let next = next.ok_or_else(|| invalid(format!("no node is known to hold key {number}")))?;
        self.keys.active = Some(Kek { since: self.time, ..next });
        self.keys.next = None;
        Ok(None)
    }

    /// What was sealed anew in the meantime stays as it is.
    fn rewrap(&mut self, rewrapped: &[Rewrapped]) -> Applied {
        if rewrapped.len() > REWRAPPED_MAX {
            return Err(Refusal::Limit { what: "sealed things at once".into(), limit: REWRAPPED_MAX as u64 });
        }
        let active = self.keys.active_number();
        for Rewrapped { place, sealed } in rewrapped {
            let Some(known) = self.sealed_mut(place) else { continue };
            if sealed.kek == active && known.kek != active && known.content == sealed.content {
                *known = sealed.clone();
            }
        }
        Ok(None)
    }

    fn retire_keys(&mut self, number: u32) -> Applied {
        if self.keys.next.is_some() || number >= self.keys.active_number() || number <= self.keys.retired {
            return Err(invalid(format!(
                "key-encryption key {number} is not one of those before the active one, or a rotation is under way"
            )));
        }
        if let Some((place, _)) = self.sealed().iter().find(|(_, sealed)| sealed.kek <= number) {
            return Err(invalid(format!("something is still sealed with an older key: {place:?}")));
        }
        let lacks = |node: &&crate::record::Node| {
            node.spec.role == NodeRole::Data
                && node.admin != AdminState::Leaving
                && !self.keys.holders.contains(&node.id)
        };
        if let Some(node) = self.nodes.values().find(lacks) {
            return Err(invalid(format!("{} does not hold the active key yet", node.spec.name)));
        }
        self.keys.retired = number;
        Ok(None)
    }

    /// The nodes of a new history say for themselves what they hold.
    pub(super) fn forget_holders(&mut self) {
        self.keys.holders.clear();
    }
}
