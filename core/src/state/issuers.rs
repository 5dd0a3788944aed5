//! What commands do to issuers, and to the cluster's accounts there.

use super::{
    Applied, ClusterState,
    issuance::{DER_MAX, VALUES_MAX, check_sealed, check_texts, check_url, invalid},
};
use crate::{
    id::CertificateId,
    issuance::{Account, ISSUERS_MAX, Issuer},
    name::Slug,
    outcome::{Object, Refusal},
    record::{Digest, Sealed},
    time::Timestamp,
};

/// Most accounts: those of issuers that are configured no more are kept for revocations.
const ACCOUNTS_MAX: usize = 64;

fn check_issuer(issuer: &Issuer) -> Result<(), Refusal> {
    check_url(&issuer.directory)?;
    check_texts("contacts", issuer.contacts.iter())?;
    check_texts("CAA names", issuer.caa.iter())?;
    check_texts("profiles", issuer.profile.iter())?;
    if issuer.roots.len() > VALUES_MAX || issuer.roots.iter().any(|root| root.len() > DER_MAX) {
        return Err(invalid(format!(
            "at most {VALUES_MAX} certificates to trust, of at most {DER_MAX} bytes"
        )));
    }
    if let Some(external) = &issuer.external {
        check_texts("external accounts", std::iter::once(&external.key_id))?;
        check_sealed(&external.key)?;
    }
    let rates = [issuer.rates.orders, issuer.rates.zone, issuer.rates.set, issuer.rates.failures];
    if rates.into_iter().flatten().any(|rate| rate.burst == 0) {
        return Err(invalid("a rate lets at least one through"));
    }
    Ok(())
}

/// Whether these can be the issuers.
pub(super) fn check_issuers(issuers: &[Issuer]) -> Result<(), Refusal> {
    if issuers.len() > ISSUERS_MAX {
        return Err(Refusal::Limit { what: "issuers".into(), limit: ISSUERS_MAX as u64 });
    }
    for (position, issuer) in issuers.iter().enumerate() {
        check_issuer(issuer)?;
        let before = &issuers[..position];
        if before.iter().any(|other| other.name == issuer.name || other.directory == issuer.directory) {
            return Err(invalid(format!("two issuers have the name or the directory of {}", issuer.name)));
        }
    }
    Ok(())
}

impl ClusterState {
    pub(super) fn set_issuer(&mut self, issuer: &Issuer, first: bool, before: Option<&Digest>) -> Applied {
        let mut issuers = self.issuance.issuers.clone();
        let at = issuers.iter().position(|known| known.name == issuer.name);
        if at.map(|at| issuers[at].digest()).as_ref() != before {
            return Err(Refusal::Changed(Object::Issuer(issuer.name.clone())));
        }
        match at {
            Some(at) if !first => issuers[at] = issuer.clone(),
            at => {
                if let Some(at) = at {
                    issuers.remove(at);
                }
                issuers.insert(if first { 0 } else { issuers.len() }, issuer.clone());
            }
        }
        self.set_issuers(issuers)
    }

    pub(super) fn remove_issuer(&mut self, name: &Slug) -> Applied {
        let kept: Vec<Issuer> =
            self.issuance.issuers.iter().filter(|issuer| issuer.name != *name).cloned().collect();
        if kept.len() == self.issuance.issuers.len() {
            return Err(Refusal::NotFound(Object::Issuer(name.clone())));
        }
        self.set_issuers(kept)
    }

    pub(super) fn set_issuers(&mut self, issuers: Vec<Issuer>) -> Applied {
        check_issuers(&issuers)?;
        self.issuance.issuers = issuers;
        // Whatever the issuers did not like may be well now.
        let parked: Vec<CertificateId> =
            self.issuance.upkeeps.values().filter(|upkeep| upkeep.parked).map(|upkeep| upkeep.id).collect();
        for id in parked {
            if let Some(upkeep) = self.issuance.upkeeps.get_mut(&id) {
                upkeep.parked = false;
                upkeep.not_before = Timestamp::default();
            }
        }
        Ok(None)
    }

    pub(super) fn make_account(&mut self, directory: &str, key: &Sealed) -> Applied {
        check_url(directory)?;
        check_sealed(key)?;
        if self.issuance.accounts.contains_key(directory) {
            return Err(invalid(format!("there is a key for an account at {directory} already")));
        }
        if self.issuance.accounts.len() >= ACCOUNTS_MAX {
            return Err(Refusal::Limit { what: "accounts at issuers".into(), limit: ACCOUNTS_MAX as u64 });
        }
        let account = Account { key: key.clone(), url: None, caa: Vec::new() };
        self.issuance.accounts.insert(directory.to_owned(), account);
        Ok(None)
    }

    pub(super) fn make_next_account_key(&mut self, directory: &str, key: &Sealed) -> Applied {
        check_sealed(key)?;
        if !self.issuance.accounts.contains_key(directory) {
            return Err(invalid(format!("there is no account at {directory}")));
        }
        if self.rollovers.account_keys.contains_key(directory) {
            return Err(invalid(format!("the key of the account at {directory} is being exchanged already")));
        }
        self.rollovers.account_keys.insert(directory.to_owned(), key.clone());
        Ok(None)
    }

    pub(super) fn change_account_key(&mut self, directory: &str) -> Applied {
        let key = self.next_account_key(directory)?;
        if let Some(account) = self.issuance.accounts.get_mut(directory) {
            account.key = key;
        }
        Ok(None)
    }

    /// Takes out the next key of an account.
    pub(super) fn next_account_key(&mut self, directory: &str) -> Result<Sealed, Refusal> {
        let key = self.rollovers.account_keys.remove(directory);
        key.ok_or_else(|| invalid(format!("the key of the account at {directory} is not being exchanged")))
    }

    pub(super) fn register_account(&mut self, directory: &str, url: &str, caa: &[String]) -> Applied {
        check_url(url)?;
        check_texts("CAA names", caa.iter())?;
        let account = self.issuance.accounts.get_mut(directory);
        let account =
            account.ok_or_else(|| invalid(format!("no key was made for an account at {directory}")))?;
        account.url = Some(url.to_owned());
        account.caa = caa.to_vec();
        Ok(None)
    }

    pub(super) fn lose_account(&mut self, directory: &str, url: &str) -> Applied {
        let account = self.issuance.accounts.get_mut(directory);
        let account = account.filter(|account| account.url.as_deref() == Some(url));
        let account = account.ok_or_else(|| invalid(format!("{url} is not the account at {directory}")))?;
        account.url = None;
        Ok(None)
    }
}
