//! Certificates that others issue: asking for them, and looking at them before they are served.

use std::time::Duration;

use pangolin_core::{name::HostName, record::Digest, time::Timestamp};
use rcgen::{CertificateParams, DistinguishedName};
use rustls::{
    RootCertStore, client::verify_server_cert_signed_by_trust_anchor, crypto::aws_lc_rs,
    server::ParsedCertificate, sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime, pem::PemObject as _};
use x509_parser::{
    extensions::{GeneralName, ParsedExtension},
    prelude::X509Certificate,
};
use zeroize::Zeroizing;

use super::{IdentityError, NodeKey, authority::dns, sha256};

/// Most certificates of a chain.
const CHAIN_MAX: usize = 10;
/// TLS feature extension (RFC 7633): a server that has it must staple revocation answers.
const TLS_FEATURE: &str = "1.3.6.1.5.5.7.1.24";

/// A request for a certificate, with the key that it is about.
pub struct CertificateRequest {
    /// PKCS #8 private key.
    pub key_pkcs8: Zeroizing<Vec<u8>>,
    /// The signing request (RFC 2986), DER.
    pub csr: Vec<u8>,
}

impl std::fmt::Debug for CertificateRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CertificateRequest")
    }
}

/// What a certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspected {
    /// The names that it is good for, sorted.
    pub names: Vec<HostName>,
    /// SHA-256 of its public key.
    pub spki: Digest,
    /// Start of validity.
    pub not_before: Timestamp,
    /// End of validity.
    pub not_after: Timestamp,
    /// Identifier of the key that signed it, if it says so.
    pub authority_key: Option<Vec<u8>>,
    /// Its serial number, as it is encoded.
    pub serial: Vec<u8>,
    /// Who issued it.
    pub issuer: String,
    /// It asks for stapled revocation answers, which the edge does not give.
    pub must_staple: bool,
}

/// A fresh P-256 key, and a request for a certificate on it for these names.
///
/// # Errors
/// No random bytes, or a name that no certificate can carry.
pub fn request_certificate(names: &[HostName]) -> Result<CertificateRequest, IdentityError> {
    let key = NodeKey::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = names.iter().map(|name| dns(name.as_str())).collect::<Result<_, _>>()?;
    let request = params.serialize_request(&key).map_err(|error| IdentityError::Sign(error.to_string()))?;
    Ok(CertificateRequest { key_pkcs8: key.to_pkcs8(), csr: request.der().to_vec() })
}

/// Reads a certificate.
///
/// # Errors
/// It is none, or is good for no host.
pub fn inspect_certificate(der: &[u8]) -> Result<Inspected, IdentityError> {
    let bad = |reason: String| IdentityError::Certificate(reason);
    let (rest, certificate) = x509_parser::parse_x509_certificate(der)
        .map_err(|error| bad(format!("it is not an X.509 certificate: {error}")))?;
    if !rest.is_empty() {
        return Err(bad("something stands behind its end".to_owned()));
    }
    let at = |time: x509_parser::time::ASN1Time| {
        let seconds =
            u64::try_from(time.timestamp()).map_err(|_| bad("it is from before 1970".to_owned()))?;
        Ok(Timestamp(seconds.saturating_mul(1000)))
    };
    let authority_key =
        certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(id) => {
                id.key_identifier.as_ref().map(|key| key.0.to_vec())
            }
            _ => None,
        });
    let must_staple = certificate.extensions().iter().any(|e| e.oid.to_id_string() == TLS_FEATURE);
    Ok(Inspected {
        names: names_of(&certificate)?,
        spki: sha256(certificate.tbs_certificate.subject_pki.raw),
        not_before: at(certificate.validity().not_before)?,
        not_after: at(certificate.validity().not_after)?,
        authority_key,
        serial: certificate.raw_serial().to_vec(),
        issuer: certificate.issuer().to_string(),
        must_staple,
    })
}

fn names_of(certificate: &X509Certificate<'_>) -> Result<Vec<HostName>, IdentityError> {
    let bad = |reason: String| IdentityError::Certificate(reason);
    let extension = certificate.subject_alternative_name();
    let extension = extension.map_err(|error| bad(format!("its names cannot be read: {error}")))?;
    let mut names = Vec::new();
    for name in extension.iter().flat_map(|extension| &extension.value.general_names) {
        if let GeneralName::DNSName(name) = name {
            names.push(name.parse::<HostName>().map_err(|error| bad(format!("it has a bad name: {error}")))?);
        }
    }
    names.sort_unstable();
    names.dedup();
    if names.is_empty() { Err(bad("it is good for no host".to_owned())) } else { Ok(names) }
}

/// Looks at a chain, leaf first, and its key before they are served: each certificate is signed by the next one and
/// valid at `now`, and the key, PKCS #8, is the leaf's. Whether its root is trusted is for visitors to say.
///
/// # Errors
/// What is wrong with it.
pub fn check_chain(chain: &[Vec<u8>], key_pkcs8: &[u8], now: Timestamp) -> Result<Inspected, IdentityError> {
    let bad = |reason: String| IdentityError::Certificate(reason);
    let leaf = chain.first().ok_or_else(|| bad("the chain is empty".to_owned()))?;
    if chain.len() > CHAIN_MAX {
        return Err(bad(format!("the chain has {} certificates, more than {CHAIN_MAX}", chain.len())));
    }
    let inspected = inspect_certificate(leaf)?;
    let ders: Vec<CertificateDer<'static>> = chain.iter().cloned().map(CertificateDer::from).collect();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key_pkcs8));
    let key = aws_lc_rs::sign::any_supported_type(&key).map_err(|_| IdentityError::Key)?;
    CertifiedKey::new(ders.clone(), key).keys_match().map_err(|_| IdentityError::Mismatch)?;
    if inspected.not_after <= now {
        return Err(bad(format!("its validity ended at {}", inspected.not_after)));
    }
    if let Some((last, between)) = ders[1..].split_last() {
        let mut top = RootCertStore::empty();
        top.add(last.clone()).map_err(|error| bad(format!("the last certificate of the chain: {error}")))?;
        let parsed = ParsedCertificate::try_from(&ders[0]).map_err(|error| bad(error.to_string()))?;
        let at = UnixTime::since_unix_epoch(Duration::from_millis(now.0));
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &top, between, at, algorithms)
            .map_err(|error| bad(format!("the chain does not hold together: {error}")))?;
    }
    Ok(inspected)
}

/// The certificates in a PEM text (RFC 7468), DER.
///
/// # Errors
/// It is none, has none, or too many.
pub fn pem_certificates(pem: &[u8]) -> Result<Vec<Vec<u8>>, IdentityError> {
    let bad = |reason: String| IdentityError::Certificate(reason);
    let mut found = Vec::new();
    for der in CertificateDer::pem_slice_iter(pem) {
        found.push(der.map_err(|error| bad(format!("it is not PEM: {error}")))?.to_vec());
        if found.len() > CHAIN_MAX {
            return Err(bad(format!("there are more than {CHAIN_MAX} certificates")));
        }
    }
    if found.is_empty() {
        return Err(bad("there is no certificate (-----BEGIN CERTIFICATE-----)".to_owned()));
    }
    Ok(found)
}

/// The private key in a PEM text (RFC 7468), PKCS #8.
///
/// # Errors
/// There is none of that form.
pub fn pem_private_key(pem: &[u8]) -> Result<Zeroizing<Vec<u8>>, IdentityError> {
    let key = PrivatePkcs8KeyDer::from_pem_slice(pem);
    key.map(|key| Zeroizing::new(key.secret_pkcs8_der().to_vec())).map_err(|_| IdentityError::Pem)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use proptest::prelude::*;
    use rcgen::{CustomExtension, KeyPair};

    use super::*;
    use crate::identity::AuthorityKey;

    fn hosts(names: &[&str]) -> Vec<HostName> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    fn now() -> Timestamp {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        Timestamp(u64::try_from(since.as_millis()).unwrap())
    }

    #[test]
    fn a_chain_is_taken_with_its_own_key_and_no_other_and_only_in_its_time() {
        let authority = AuthorityKey::create("test").unwrap();
        let names = hosts(&["*.a.test", "a.test"]);
        let issue = || authority.issue(&names, SystemTime::now(), Duration::from_secs(3600)).unwrap();
        let (one, other) = (issue(), issue());
        let read = check_chain(&one.chain, &one.key_pkcs8, now()).unwrap();
        assert_eq!((read.names, read.must_staple), (names.clone(), false));
        assert!(read.authority_key.is_some() && !read.serial.is_empty());
        let key = check_chain(&one.chain, &other.key_pkcs8, now());
        assert!(matches!(key, Err(IdentityError::Mismatch)), "{key:?}");
        assert!(check_chain(&one.chain, b"no key", now()).is_err());
        let late = check_chain(&one.chain, &one.key_pkcs8, now() + Duration::from_secs(7200));
        assert!(late.unwrap_err().to_string().contains("ended at"));
        let stranger = AuthorityKey::create("stranger").unwrap();
        let broken = vec![one.chain[0].clone(), stranger.certificate().to_vec()];
        let broken = check_chain(&broken, &one.key_pkcs8, now()).unwrap_err().to_string();
        assert!(broken.contains("does not hold together"), "{broken}");
        assert!(check_chain(&[], &one.key_pkcs8, now()).is_err());
    }

    #[test]
    fn a_request_carries_the_names_and_is_signed_by_its_key() {
        let request = request_certificate(&hosts(&["*.a.test", "a.test"])).unwrap();
        let parsed =
            rcgen::CertificateSigningRequestParams::from_der(&request.csr.as_slice().into()).unwrap();
        assert_eq!(parsed.params.subject_alt_names.len(), 2);
        NodeKey::from_pkcs8(&request.key_pkcs8).unwrap();
        assert_eq!(format!("{request:?}"), "CertificateRequest");
    }

    #[test]
    fn a_certificate_that_must_be_stapled_is_noticed() {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
        // SEQUENCE { INTEGER 5 }: status_request.
        let feature =
            CustomExtension::from_oid_content(&[1, 3, 6, 1, 5, 5, 7, 1, 24], vec![0x30, 3, 2, 1, 5]);
        params.custom_extensions.push(feature);
        let certificate = params.self_signed(&key).unwrap();
        assert!(inspect_certificate(certificate.der()).unwrap().must_staple);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(inspect_certificate(&bytes).is_err());
        }
    }
}
