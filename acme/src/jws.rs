//! Requests signed with the key of an account (RFC 7515, RFC 8555 §6.2): flattened JSON, ES256.

use std::fmt;

use aws_lc_rs::{
    digest, hmac,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use rustls_acme::acme::Account;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::error::AcmeError;

/// The key of an account. Does not print.
pub struct AccountKey {
    pub(crate) pair: EcdsaKeyPair,
}

impl fmt::Debug for AccountKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccountKey")
    }
}

pub(crate) fn base64(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

impl AccountKey {
    /// A fresh key, PKCS #8: a secret.
    #[must_use]
    pub fn generate() -> Zeroizing<Vec<u8>> {
        Zeroizing::new(Account::generate_key_pair())
    }

    /// The key that [`AccountKey::generate`] made.
    ///
    /// # Errors
    /// It is none.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, AcmeError> {
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der).map_err(|_| AcmeError::Key)?;
        Ok(Self { pair })
    }

    /// The public key (RFC 7517), its members in the order of RFC 7638.
    fn jwk(&self) -> Value {
        // An uncompressed point: 4, then both coordinates.
        let point = self.pair.public_key().as_ref();
        let (x, y) = point.get(1..).unwrap_or_default().split_at(point.len().saturating_sub(1) / 2);
        json!({ "crv": "P-256", "kty": "EC", "x": base64(x), "y": base64(y) })
    }

    /// What the TXT record says that proves a name: the digest of the key authorization (RFC 8555 §8.1, §8.4).
    #[must_use]
    pub fn txt_value(&self, token: &str) -> String {
        // Its members stand in the order that RFC 7638 §3 asks for.
        let thumbprint = digest::digest(&digest::SHA256, self.jwk().to_string().as_bytes());
        let authorization = format!("{token}.{}", base64(thumbprint));
        base64(digest::digest(&digest::SHA256, authorization.as_bytes()))
    }

    /// A signed request. Without an account it names the key itself; without a payload it reads (POST-as-GET).
    pub(crate) fn sign(
        &self,
        account: Option<&str>,
        nonce: &str,
        url: &str,
        payload: Option<&Value>,
    ) -> Result<String, AcmeError> {
        let mut protected = json!({ "alg": "ES256", "nonce": nonce, "url": url });
        match account {
            Some(account) => protected["kid"] = json!(account),
            None => protected["jwk"] = self.jwk(),
        }
        let protected = base64(protected.to_string());
        let payload = payload.map(|payload| base64(payload.to_string())).unwrap_or_default();
        let signature = self.raw_signature(&protected, &payload)?;
        let body = json!({ "protected": protected, "payload": payload, "signature": signature });
        Ok(body.to_string())
    }

    /// What asks for this key in the place of an account's former one, signed by this key (RFC 8555 §7.3.5).
    pub(crate) fn take_over(&self, account: &str, former: &Self, url: &str) -> Result<Value, AcmeError> {
        let protected = base64(json!({ "alg": "ES256", "jwk": self.jwk(), "url": url }).to_string());
        let payload = base64(json!({ "account": account, "oldKey": former.jwk() }).to_string());
        let signature = self.raw_signature(&protected, &payload)?;
        Ok(json!({ "protected": protected, "payload": payload, "signature": signature }))
    }

    /// The signature of a request, base64url.
    fn raw_signature(&self, protected: &str, payload: &str) -> Result<String, AcmeError> {
        let signed = format!("{protected}.{payload}");
        let signature = self.pair.sign(&SystemRandom::new(), signed.as_bytes());
        signature.map(base64).map_err(|_| AcmeError::Key)
    }

    /// The proof that an account given by other means is ours (RFC 8555 §7.3.4).
    pub(crate) fn bind(&self, key_id: &str, key: &[u8], url: &str) -> Value {
        let protected = base64(json!({ "alg": "HS256", "kid": key_id, "url": url }).to_string());
        let payload = base64(self.jwk().to_string());
        let tag =
            hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), format!("{protected}.{payload}").as_bytes());
        json!({ "protected": protected, "payload": payload, "signature": base64(tag) })
    }
}

#[cfg(test)]
mod tests {
    use rustls_acme::acme::{Challenge, ChallengeType, Directory};

    use super::*;

    #[test]
    fn the_proof_of_a_name_is_what_the_library_makes_of_it() {
        let der = AccountKey::generate();
        let key = AccountKey::from_pkcs8(&der).expect("a key");
        let url = || "https://ca.test/".to_owned();
        let library = Account {
            key_pair: AccountKey::from_pkcs8(&der).expect("a key").pair,
            directory: Directory { new_nonce: url(), new_account: url(), new_order: url() },
            kid: url(),
        };
        let challenge =
            Challenge { typ: ChallengeType::Http01, url: url(), token: "a-token".to_owned(), error: None };
        let challenges = [challenge];
        let (_, authorization) = library.http_01(&challenges).expect("a key authorization");
        // Its JWK has more members than RFC 7638 hashes; the thumbprint is the same.
        let expected = base64(digest::digest(&digest::SHA256, authorization.as_bytes()));
        assert_eq!(key.txt_value("a-token"), expected);
    }

    #[test]
    fn a_key_never_prints_and_other_bytes_are_none() {
        let der = AccountKey::generate();
        let key = AccountKey::from_pkcs8(&der).expect("a key");
        assert_eq!(format!("{key:?}"), "AccountKey");
        assert!(AccountKey::from_pkcs8(b"no key").is_err());
    }
}
