//! What sealed things are bound to: a sealed value moved to another place does not open there.

use pangolin_core::{HostName, TokenId};

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
