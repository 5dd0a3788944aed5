//! P-256 key pairs: of nodes, of the authority, of issued certificates.

use std::fmt;

use aws_lc_rs::{
    digest,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use pangolin_core::record::Digest;
use rcgen::{CertificateParams, DistinguishedName, PublicKeyData, SignatureAlgorithm, SigningKey};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

use super::IdentityError;

/// A P-256 key pair. What it prints is its public half's digest, never the key.
pub struct NodeKey {
    pair: EcdsaKeyPair,
    pkcs8: Zeroizing<Vec<u8>>,
}

impl NodeKey {
    /// A fresh key pair.
    ///
    /// # Errors
    /// The system gives no random bytes.
    pub fn generate() -> Result<Self, IdentityError> {
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new())
            .map_err(|_| IdentityError::Random)?;
        Self::from_pkcs8(document.as_ref())
    }

    /// The key pair written by [`NodeKey::to_pkcs8`].
    ///
    /// # Errors
    /// Not an unencrypted PKCS#8 document with a P-256 key.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, IdentityError> {
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, der).map_err(|_| IdentityError::Key)?;
        Ok(Self { pair, pkcs8: Zeroizing::new(der.to_vec()) })
    }

    /// The private key as an unencrypted PKCS#8 document (RFC 5208): a secret.
    #[must_use]
    pub fn to_pkcs8(&self) -> Zeroizing<Vec<u8>> {
        self.pkcs8.clone()
    }

    /// A certificate signing request (RFC 2986, DER) that proves possession of the key. It asks for no names:
    /// the authority gives them.
    ///
    /// # Errors
    /// The request cannot be signed.
    pub fn csr_der(&self) -> Result<Vec<u8>, IdentityError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let request = params.serialize_request(self).map_err(|e| IdentityError::Sign(e.to_string()))?;
        Ok(request.der().to_vec())
    }

    /// SHA-256 of the public key (`SubjectPublicKeyInfo`, DER): what the membership records of a node.
    #[must_use]
    pub fn spki_digest(&self) -> Digest {
        sha256(&self.subject_public_key_info())
    }

    /// The key in the form that TLS configurations take.
    pub(crate) fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.pkcs8.to_vec()))
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeKey(public {})", hex::encode(self.spki_digest().0))
    }
}

impl Clone for NodeKey {
    #[expect(clippy::unwrap_used, reason = "the bytes have been parsed before, when this key was made")]
    fn clone(&self) -> Self {
        Self::from_pkcs8(&self.pkcs8).unwrap()
    }
}

impl PublicKeyData for NodeKey {
    fn der_bytes(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl SigningKey for NodeKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signature = self.pair.sign(&SystemRandom::new(), message);
        signature.map(|s| s.as_ref().to_vec()).map_err(|_| rcgen::Error::RemoteKeyError)
    }
}

/// SHA-256 of the public key in a certificate (`SubjectPublicKeyInfo`, DER).
///
/// # Errors
/// Not an X.509 certificate.
pub fn spki_digest_of_certificate(der: &[u8]) -> Result<Digest, IdentityError> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der)
        .map_err(|e| IdentityError::Certificate(format!("it is not an X.509 certificate: {e}")))?;
    Ok(sha256(certificate.tbs_certificate.subject_pki.raw))
}

/// When a certificate's validity ends.
///
/// # Errors
/// Not an X.509 certificate, or one from before 1970.
pub fn expiry_of_certificate(der: &[u8]) -> Result<std::time::SystemTime, IdentityError> {
    let bad = |reason: String| IdentityError::Certificate(reason);
    let (_, certificate) = x509_parser::parse_x509_certificate(der)
        .map_err(|e| bad(format!("it is not an X.509 certificate: {e}")))?;
    let seconds = u64::try_from(certificate.validity().not_after.timestamp())
        .map_err(|_| bad("its validity ended before 1970".to_owned()))?;
    Ok(std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds))
}

/// SHA-256.
pub(crate) fn sha256(bytes: &[u8]) -> Digest {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    Digest(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_its_pkcs8_form_and_never_prints_itself() {
        let key = NodeKey::generate().unwrap();
        let again = NodeKey::from_pkcs8(&key.to_pkcs8()).unwrap();
        assert_eq!(key.spki_digest(), again.spki_digest());
        assert_ne!(key.spki_digest(), NodeKey::generate().unwrap().spki_digest());
        let printed = format!("{key:?}");
        assert!(!printed.contains(&hex::encode(&key.to_pkcs8()[40..60])), "{printed}");
        assert!(matches!(NodeKey::from_pkcs8(b"no key"), Err(IdentityError::Key)));
    }
}
