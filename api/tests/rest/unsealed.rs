//! The one-node cluster of these tests has no keys to seal with: what comes in is taken as it is. `tests/issuance` has
//! nodes that look at it.

use pangolin_api::{ApiFailure, CertificatePort};
use pangolin_core::{
    Timestamp,
    command::CertificateIssued,
    issuance::{Issuer, Rates},
    record::Sealed,
};
use pangolin_wire::{ImportCertificate, SetIssuer};

pub(crate) struct Unsealed;

impl CertificatePort for Unsealed {
    /// The text of the chain is the one name that it is good for.
    fn import(&self, certificate: &ImportCertificate) -> Result<CertificateIssued, ApiFailure> {
        let name = certificate.chain.parse().map_err(|error| ApiFailure::invalid(format!("{error}")))?;
        Ok(CertificateIssued {
            names: vec![name],
            chain: vec![certificate.chain.clone().into_bytes()],
            key: Sealed { kek: 1, wrapped_key: vec![], content: vec![] },
            not_before: Timestamp(0),
            not_after: Timestamp(u64::MAX / 2),
        })
    }

    fn account_key(&self, _: &str) -> Result<Sealed, ApiFailure> {
        Ok(Sealed { kek: 1, wrapped_key: vec![], content: vec![] })
    }

    fn issuer(&self, wanted: &SetIssuer, _: Option<&Issuer>) -> Result<Issuer, ApiFailure> {
        Ok(Issuer {
            name: wanted.name.clone(),
            directory: wanted.directory.clone(),
            roots: vec![],
            contacts: wanted.contacts.clone(),
            profile: wanted.profile.clone(),
            external: None,
            caa: wanted.caa.clone(),
            rates: Rates::default(),
        })
    }
}
