//! Keys and certificates that come in from operators: looked at, and sealed.

use std::sync::Arc;

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use pangolin_acme::AccountKey;
use pangolin_api::{ApiFailure, CertificatePort};
use pangolin_core::{
    command::CertificateIssued,
    issuance::{ExternalAccount, Issuer, Rates},
    record::Sealed,
};
use pangolin_peer::identity::{Keyring, check_chain, pem_certificates, pem_private_key};
use pangolin_wire::{Code, ImportCertificate, IssuerRates, SetIssuer};
use zeroize::Zeroizing;

use super::answers::NodeAnswers;
use crate::{clock, keys::Keys, seal};

impl NodeAnswers {
    fn keys(&self) -> Result<Arc<Keyring>, ApiFailure> {
        self.keyring.as_ref().map(Keys::now).ok_or_else(|| {
            ApiFailure::new(Code::Conflict, "this node is a witness and holds no keys")
                .hint("Ask a data node.")
        })
    }

    fn seal_key(&self, content: &[u8], aad: &str) -> Result<Sealed, ApiFailure> {
        self.keys()?.seal(content, aad).map_err(|error| ApiFailure::internal(error.to_string()))
    }
}

impl CertificatePort for NodeAnswers {
    fn import(&self, certificate: &ImportCertificate) -> Result<CertificateIssued, ApiFailure> {
        let invalid = |error: &dyn std::fmt::Display| ApiFailure::invalid(error.to_string());
        let chain = pem_certificates(certificate.chain.as_bytes()).map_err(|error| invalid(&error))?;
        let key = pem_private_key(certificate.key.as_bytes()).map_err(|error| {
            invalid(&error).hint("`openssl pkcs8 -topk8 -nocrypt -in KEY` makes the form that is taken.")
        })?;
        let read = check_chain(&chain, &key, clock::now()).map_err(|error| invalid(&error))?;
        if read.must_staple {
            return Err(ApiFailure::invalid(
                "the certificate must be served with a stapled revocation answer (RFC 7633), which this edge does not \
                 give: visitors would refuse it",
            )
            .hint("Get one without the TLS feature extension."));
        }
        let key = self.seal_key(&key, &seal::certificate(&read.names))?;
        let (not_before, not_after) = (read.not_before, read.not_after);
        Ok(CertificateIssued { names: read.names, chain, key, not_before, not_after })
    }

    fn account_key(&self, directory: &str) -> Result<Sealed, ApiFailure> {
        self.seal_key(&AccountKey::generate(), &seal::account(directory))
    }

    fn issuer(&self, wanted: &SetIssuer, known: Option<&Issuer>) -> Result<Issuer, ApiFailure> {
        let roots = match &wanted.roots {
            Some(pem) => pem_certificates(pem.as_bytes()).map_err(|e| ApiFailure::invalid(e.to_string()))?,
            None => Vec::new(),
        };
        let external = match (&wanted.external_account, &wanted.external_key) {
            (None, None) => None,
            (Some(key_id), Some(key)) => {
                let key = BASE64_URL_SAFE_NO_PAD.decode(key.trim().trim_end_matches('=')).map(Zeroizing::new);
                let key = key.map_err(|error| {
                    ApiFailure::invalid(format!("the key of the external account is not base64url: {error}"))
                })?;
                let key = self.seal_key(&key, &seal::external_account(&wanted.directory))?;
                Some(ExternalAccount { key_id: key_id.clone(), key })
            }
            // The key was given before.
            (Some(key_id), None) => {
                let same = |issuer: &&Issuer| issuer.directory == wanted.directory;
                let known = known.filter(same).and_then(|issuer| issuer.external.clone());
                Some(
                    known
                        .filter(|known| known.key_id == *key_id)
                        .ok_or_else(|| ApiFailure::invalid("an external account needs its key as well"))?,
                )
            }
            (None, Some(_)) => {
                return Err(ApiFailure::invalid("the key of an external account needs its name"));
            }
        };
        let contact = |text: &String| match text.strip_prefix("mailto:") {
            Some(_) => text.clone(),
            None => format!("mailto:{text}"),
        };
        Ok(Issuer {
            name: wanted.name.clone(),
            directory: wanted.directory.clone(),
            roots,
            contacts: wanted.contacts.iter().map(contact).collect(),
            profile: wanted.profile.clone(),
            external,
            caa: wanted.caa.clone(),
            rates: match wanted.rates {
                IssuerRates::Unlimited => Rates::default(),
                IssuerRates::Letsencrypt => Rates::LETS_ENCRYPT,
                IssuerRates::LetsencryptStaging => Rates::LETS_ENCRYPT_STAGING,
            },
        })
    }
}
