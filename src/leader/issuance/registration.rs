//! Registers the cluster's account at an issuer: before the first order, and again when the issuer has forgotten it.

use pangolin_acme::{AccountKey, External};
use pangolin_core::{ClusterState, issuance::CertificatesChange};
use pangolin_peer::identity::Keyring;
use tracing::info;

use super::{Clients, refusal::Refusal};
use crate::seal;

/// The next fact about the account at a directory that is not registered: that it has a key, or is registered, and the
/// reason. Safe to repeat: an issuer finds the account that a key has.
pub(super) async fn registered(
    state: &ClusterState,
    keyring: &Keyring,
    clients: &Clients,
    directory: &str,
) -> Result<(&'static str, CertificatesChange), Refusal> {
    let issuance = state.issuance();
    let Some(account) = issuance.accounts.get(directory) else {
        let key = keyring.seal(&AccountKey::generate(), &seal::account(directory));
        let key = key.map_err(|error| error.to_string())?;
        return Ok((
            "an account needs a key",
            CertificatesChange::AccountKeyMade { directory: directory.to_owned(), key },
        ));
    };
    let open = |sealed, aad: &str| keyring.open(sealed, aad).map_err(|error| error.to_string());
    let key = AccountKey::from_pkcs8(&open(&account.key, &seal::account(directory))?)?;
    let issuer = issuance.issuer(directory);
    let external = match issuer.and_then(|issuer| issuer.external.as_ref()) {
        Some(external) => {
            let key = open(&external.key, &seal::external_account(directory))?;
            Some(External { key_id: external.key_id.clone(), key })
        }
        None => None,
    };
    let contacts = issuer.map(|issuer| issuer.contacts.clone()).unwrap_or_default();
    let client = clients.get(state, directory)?;
    let url = client.register(&key, &contacts, external.as_ref()).await?;
    let caa = client.directory().await?.meta.caa_identities.clone();
    info!(directory, account = url, "registered an account");
    let change = CertificatesChange::AccountRegistered { directory: directory.to_owned(), url, caa };
    Ok(("the issuer has registered the account", change))
}
