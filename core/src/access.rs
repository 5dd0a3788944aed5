//! Who may do what.

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;

use crate::{
    fabric::ProvisioningKey,
    name::Slug,
    record::{Digest, KeyScope, Site},
    state::ClusterState,
};

/// SHA-256 of a machine-made secret. Such secrets are random and long, so a fast hash is enough.
#[must_use]
pub fn digest(secret: &str) -> Digest {
    Digest(Sha256::digest(secret.as_bytes()).into())
}

/// Compares in constant time.
fn matches(secret: &str, expected: Digest) -> bool {
    digest(secret).0.ct_eq(&expected.0).into()
}

/// Somebody who has proved who they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Principal {
    /// Whoever may open a node's local socket: may do everything.
    Operator(String),
    /// The holder of an API key.
    ApiKey {
        /// Public half.
        id: String,
        /// How far it reaches.
        scope: KeyScope,
    },
}

impl Principal {
    /// Whether cluster-wide things (nodes, tokens, organisations, users, settings) may be seen and changed.
    #[must_use]
    pub fn is_administrator(&self) -> bool {
        matches!(self, Self::Operator(_) | Self::ApiKey { scope: KeyScope::Cluster, .. })
    }

    /// Whether what belongs to an organisation may be seen and changed.
    #[must_use]
    pub fn may_administer(&self, org: &Slug) -> bool {
        self.is_administrator()
            || matches!(self, Self::ApiKey { scope: KeyScope::Org(own), .. } if own == org)
    }
}

/// Who holds the API key `ID.SECRET`.
#[must_use]
pub fn principal_of_key(state: &ClusterState, key: &str) -> Option<Principal> {
    let (id, secret) = key.split_once('.')?;
    let known = state.api_keys().get(id)?;
    matches(secret, known.secret)
        .then(|| Principal::ApiKey { id: known.id.clone(), scope: known.scope.clone() })
}

/// The provisioning key `ID.SECRET`, whether it is still good for something or not.
#[must_use]
pub fn provisioning_key<'a>(state: &'a ClusterState, key: &str) -> Option<&'a ProvisioningKey> {
    let (id, secret) = key.split_once('.')?;
    let known = state.fabric().provisioning_keys.get(id)?;
    matches(secret, known.secret).then_some(known)
}

/// The enabled site whose connector signs in with these credentials.
#[must_use]
pub fn site_of_credentials<'a>(
    state: &'a ClusterState,
    connector_id: &str,
    secret: &str,
) -> Option<&'a Site> {
    let site = state.site_of_connector(connector_id)?;
    (matches(secret, site.connector_secret) && site.enabled).then_some(site)
}
