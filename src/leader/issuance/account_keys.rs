//! Exchanges the keys of accounts: the next one is in the log before the issuer is asked to take it, so that any leader can
//! go on with either.

use std::time::Duration;

use pangolin_acme::{AccountKey, AcmeError, Problem};
use pangolin_core::{
    ClusterState,
    issuance::{CertificatesChange, account_keys_due},
};
use pangolin_peer::identity::Keyring;
use tokio::time::sleep;
use tracing::{info, warn};

use super::{
    Clients,
    refusal::{Refusal, Waits},
    steps::account,
};
use crate::{keys::Keys, leader::Leading, seal};

/// How often it is looked whether an issuer is to take a key.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Whether an issuer will say the same the next time: not of nonces, of limits, and of faults of its own.
fn is_final(problem: &Problem) -> bool {
    problem.status < 500 && problem.status != 429 && !problem.is("badNonce") && !problem.is("rateLimited")
}

impl Leading {
    /// Has issuers take the next keys of accounts.
    pub(super) async fn account_keys_loop(&self, keyring: &Keys, clients: &Clients) {
        let mut waits: Waits<String> = Waits::default();
        loop {
            let (state, now) = (self.cluster.state(), self.cluster.time_of_most());
            for directory in account_keys_due(&state) {
                let matter = directory.to_owned();
                if waits.holds(&state, now, directory, &matter) {
                    continue;
                }
                let done = self.change_account_key(&state, &keyring.now(), clients, directory).await;
                if let Err(refusal) = done {
                    warn!(directory, %refusal, "the key of an account could not be exchanged yet");
                    clients.forget(directory);
                    waits.failed(directory, matter, &refusal);
                }
            }
            waits.retain(|directory| state.rollovers().account_keys.contains_key(directory));
            drop(state);
            sleep(LOOK_EVERY).await;
        }
    }

    async fn change_account_key(
        &self,
        state: &ClusterState,
        keyring: &Keyring,
        clients: &Clients,
        directory: &str,
    ) -> Result<(), Refusal> {
        let registered =
            state.issuance().accounts.get(directory).is_some_and(|account| account.url.is_some());
        if registered {
            let sealed = state.rollovers().account_keys.get(directory);
            let sealed = sealed.ok_or_else(|| "there is no next key".to_owned())?;
            let key = keyring.open(sealed, &seal::account(directory)).map_err(|error| error.to_string())?;
            let key = AccountKey::from_pkcs8(&key)?;
            let client = clients.get(state, directory)?;
            let account = account(state, keyring, directory)?;
            match client.change_key(&account, &key).await {
                Ok(()) => info!(directory, "the issuer knows the account by its next key"),
                // Orders wait for the exchange: one that comes to nothing must not hold them up.
                Err(AcmeError::Refused(problem)) if is_final(&problem) => {
                    warn!(directory, %problem, "the issuer refuses the next key of the account, which keeps its own");
                    let change = CertificatesChange::AccountKeyKept { directory: directory.to_owned() };
                    let reason = format!("the issuer refuses the next key: {problem}");
                    return Ok(self.tell(state, &reason, change).await?);
                }
                Err(error) => return Err(error.into()),
            }
        }
        // An account that the issuer does not know is registered with the next key.
        let change = CertificatesChange::AccountKeyChanged { directory: directory.to_owned() };
        Ok(self.tell(state, "the issuer has taken the next key", change).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_an_issuer_means_for_good_ends_an_exchange() {
        let cases = [
            (0, "", true),
            (400, "malformed", true),
            (409, "", true),
            (400, "badNonce", false),
            (429, "rateLimited", false),
            (500, "serverInternal", false),
            (503, "", false),
        ];
        for (status, kind, ends) in cases {
            let problem = Problem { status, kind: kind.to_owned(), detail: String::new(), retry_after: None };
            assert_eq!(is_final(&problem), ends, "{status} {kind}");
        }
    }
}
