//! What sealed things are bound to: a sealed value moved to another place does not open there.

use pangolin_core::{ClusterState, HostName, TokenId, keyring::SealedPlace};

/// The nodes' certificate authority.
pub const AUTHORITY: &str = "authority";
/// The internal certificate issuer.
pub const ISSUER: &str = "issuer";

/// The secret of a join token.
#[must_use]
pub fn token(id: TokenId) -> String {
    format!("token|{id}")
}

/// The key that signs a DNS zone.
#[must_use]
pub fn zone_key(zone: &HostName) -> String {
    format!("zone key|{zone}")
}

/// A shared secret for zone transfers.
#[must_use]
pub fn transfer_key(name: &HostName) -> String {
    format!("transfer key|{name}")
}

/// The key of the account at a directory.
#[must_use]
pub fn account(directory: &str) -> String {
    format!("account|{directory}")
}

/// The key of the account that the one at a directory is bound to.
#[must_use]
pub fn external_account(directory: &str) -> String {
    format!("external account|{directory}")
}

/// The private key of a certificate for these names.
#[must_use]
pub fn certificate(names: &[HostName]) -> String {
    let mut names: Vec<&str> = names.iter().map(HostName::as_str).collect();
    names.sort_unstable();
    format!("certificate|{}", names.join(","))
}

/// To what the sealed thing at a place of the state is bound; none if there is nothing.
#[must_use]
pub fn place(state: &ClusterState, place: &SealedPlace) -> Option<String> {
    Some(match place {
        SealedPlace::Authority => AUTHORITY.to_owned(),
        SealedPlace::InternalIssuer => ISSUER.to_owned(),
        SealedPlace::Token(id) => token(*id),
        SealedPlace::Certificate(id) => certificate(&state.certificates().get(id)?.names),
        SealedPlace::Order(id) => certificate(&state.issuance().upkeeps.get(id)?.names),
        SealedPlace::Account(directory) | SealedPlace::NextAccount(directory) => account(directory),
        SealedPlace::External(directory) => external_account(directory),
        SealedPlace::ZoneKey(zone) | SealedPlace::NextZoneKey(zone) => zone_key(zone),
        SealedPlace::TransferKey(name) => transfer_key(name),
    })
}
