//! Which key-encryption key seals, and how what is sealed moves from an older one to it.

use crate::{
    issuance::{Issuance, Rewrapped, SealedPlace},
    outcome::Refusal,
    record::Sealed,
    state::{Applied, ClusterState},
};

/// The key-encryption key that a cluster begins with.
const FIRST: u32 = 1;

fn invalid(reason: impl Into<String>) -> Refusal {
    Refusal::Invalid(reason.into())
}

impl ClusterState {
    /// The number of the key-encryption key that seals.
    #[must_use]
    pub fn active_key(&self) -> u32 {
        self.issuance.keys.active.unwrap_or(FIRST)
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
            let external = issuer.external.as_ref();
            let place = SealedPlace::External(issuer.directory.clone());
            found.extend(external.map(|external| (place, &external.key)));
        }
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
        }
    }

    pub(super) fn activate_key(&mut self, number: u32) -> Applied {
        if number < self.active_key() || self.issuance.keys.retired.contains(&number) {
            return Err(invalid(format!("key-encryption key {number} is older than the active one")));
        }
        self.issuance.keys.active = (number != FIRST).then_some(number);
        Ok(None)
    }

    /// What was sealed anew in the meantime stays as it is.
    pub(super) fn rewrap(&mut self, rewrapped: &[Rewrapped]) -> Applied {
        let active = self.active_key();
        for Rewrapped { place, sealed } in rewrapped {
            let Some(known) = self.sealed_mut(place) else { continue };
            if sealed.kek == active && known.kek != active && known.content == sealed.content {
                *known = sealed.clone();
            }
        }
        Ok(None)
    }

    pub(super) fn retire_key(&mut self, number: u32) -> Applied {
        if number >= self.active_key() {
            return Err(invalid(format!("key-encryption key {number} is not older than the active one")));
        }
        if self.sealed().iter().any(|(_, sealed)| sealed.kek == number) {
            return Err(invalid(format!("something is still sealed under key-encryption key {number}")));
        }
        self.issuance.keys.retired.insert(number);
        Ok(None)
    }
}
