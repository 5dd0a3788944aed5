//! Exchanges the keys of accounts: the next one is in the log before the issuer is asked to take it, so that any leader can
//! go on with either.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use pangolin_acme::{AccountKey, AcmeError, Problem};
use pangolin_core::{
    ClusterState,
    issuance::{CertificatesChange, account_keys_due},
};
use pangolin_peer::identity::Keyring;
use tokio::time::sleep;
use tracing::{info, warn};

use super::{Clients, steps::account};
use crate::{keys::Keys, leader::Leading, seal};

/// How often it is looked whether an issuer is to take a key.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Pause after an issuer has not taken one.
const RETRY: Duration = Duration::from_secs(60);

/// Whether an issuer will say the same the next time: not of nonces, of limits, and of faults of its own.
fn is_final(problem: &Problem) -> bool {
    problem.status < 500 && problem.status != 429 && !problem.is("badNonce") && !problem.is("rateLimited")
}

impl Leading {
    /// Has issuers take the next keys of accounts.
    pub(super) async fn account_keys_loop(&self, keyring: &Keys, clients: &Clients) {
        let mut next: BTreeMap<String, Instant> = BTreeMap::new();
        loop {
            let state = self.cluster.state();
            for directory in account_keys_due(&state) {
                if next.get(directory).is_some_and(|at| *at > Instant::now()) {
                    continue;
                }
                if let Err(reason) = self.change_account_key(&state, &keyring.now(), clients, directory).await
                {
                    warn!(directory, reason, "the key of an account could not be exchanged yet");
                    next.insert(directory.to_owned(), Instant::now() + RETRY);
                }
            }
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
    ) -> Result<(), String> {
        let registered =
            state.issuance().accounts.get(directory).is_some_and(|account| account.url.is_some());
        if registered {
            let sealed = state.rollovers().account_keys.get(directory).ok_or("there is no next key")?;
            let key = keyring.open(sealed, &seal::account(directory)).map_err(|error| error.to_string())?;
            let key = AccountKey::from_pkcs8(&key).map_err(|error| error.to_string())?;
            let client = clients.get(state, directory).map_err(|error| error.to_string())?;
            let account = account(state, keyring, directory)?;
            match client.change_key(&account, &key).await {
                Ok(()) => info!(directory, "the issuer knows the account by its next key"),
                // Orders wait for the exchange: one that comes to nothing must not hold them up.
                Err(AcmeError::Refused(problem)) if is_final(&problem) => {
                    warn!(directory, %problem, "the issuer refuses the next key of the account, which keeps its own");
                    let change = CertificatesChange::AccountKeyKept { directory: directory.to_owned() };
                    return self
                        .tell(state, &format!("the issuer refuses the next key: {problem}"), change)
                        .await;
                }
                Err(error) => return Err(error.to_string()),
            }
        }
        // An account that the issuer does not know is registered with the next key.
        let change = CertificatesChange::AccountKeyChanged { directory: directory.to_owned() };
        self.tell(state, "the issuer has taken the next key", change).await
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
