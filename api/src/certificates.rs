//! What the API needs of the node for certificates: only a node opens and seals keys.

use pangolin_core::{command::CertificateIssued, issuance::Issuer, record::Sealed};
use pangolin_wire::{ImportCertificate, SetIssuer};

use crate::failure::ApiFailure;

/// Keys and certificates that come in from operators.
pub trait CertificatePort: Send + Sync {
    /// A certificate of an operator's own, looked at and with its key sealed.
    ///
    /// # Errors
    /// It cannot be served, and why.
    fn import(&self, certificate: &ImportCertificate) -> Result<CertificateIssued, ApiFailure>;

    /// An issuer, with the key of its external account sealed. `known` is what it was before: a key that is not given
    /// again stays.
    ///
    /// # Errors
    /// It cannot be used, and why.
    fn issuer(&self, wanted: &SetIssuer, known: Option<&Issuer>) -> Result<Issuer, ApiFailure>;

    /// A key for an account at this directory, sealed.
    ///
    /// # Errors
    /// This node seals nothing.
    fn account_key(&self, directory: &str) -> Result<Sealed, ApiFailure>;
}
