//! The recovery key: opens backups when no node and no keyring is left.
//!
//! `init` makes the pair and shows the private half once; the public half is in the state, and every backup is
//! encrypted to it: HPKE (RFC 9180, base mode, X25519 with HKDF-SHA256 and AES-256-GCM), which carries the data key
//! of the backup together with the keyring, so that what is restored can be used.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use pangolin_core::record::{RecoveryPublic, Sealed};
use rustls::crypto::{
    aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_AES_256 as SUITE,
    hpke::{EncapsulatedSecret, Hpke as _, HpkePrivateKey, HpkePublicKey},
};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{IdentityError, Keyring, KeyringError, sha256};

/// First part of every recovery key; the number is the format.
const FORMAT: &str = "pgr1";
/// Bytes of the checksum.
const CHECKSUM: usize = 4;
/// Longest text looked at: a recovery key has 99 characters.
const LENGTH_MAX: usize = 256;
/// What HPKE is used for (`info` of RFC 9180 §5.1).
const INFO: &[u8] = b"pangolin-recovery-v1";
/// Digits by which people tell recovery keys apart.
const FINGERPRINT_DIGITS: usize = 16;

/// The private half, with its public one. Its text is shown once; its `Debug` form keeps the secret to itself.
#[derive(Clone, PartialEq, Eq)]
pub struct RecoveryKey {
    public: RecoveryPublic,
    secret: Zeroizing<[u8; 32]>,
}

/// Why a text is no recovery key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecoveryKeyError {
    /// Something else altogether.
    #[error("this is not a recovery key: one begins with `{FORMAT}.` and has four parts separated by dots")]
    Shape,
    /// A part is missing a piece.
    #[error("the recovery key is not complete; copy it again, from `{FORMAT}.` to its end")]
    Length,
    /// Mistyped.
    #[error("the recovery key has a typing error: its checksum does not match; copy it again")]
    Checksum,
}

/// A data key and the keyring, encrypted to a recovery key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Escrow {
    /// To which one.
    pub public: RecoveryPublic,
    /// Encapsulated secret.
    encapsulated: Vec<u8>,
    /// Ciphertext.
    content: Vec<u8>,
}

/// Content that both the cluster's keyring and the recovery key open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Locked {
    /// For the keyring.
    pub sealed: Sealed,
    /// For the recovery key; none where the cluster has none.
    pub escrow: Option<Escrow>,
}

/// The digits by which people tell recovery keys apart.
#[must_use]
pub fn fingerprint(key: &RecoveryPublic) -> String {
    let mut digits = hex::encode(sha256(&key.0).0);
    digits.truncate(FINGERPRINT_DIGITS);
    digits
}

impl RecoveryKey {
    /// A fresh pair.
    ///
    /// # Errors
    /// The system gives no random bytes.
    pub fn generate() -> Result<Self, IdentityError> {
        let (public, secret) = SUITE.generate_key_pair().map_err(|_| IdentityError::Random)?;
        let public: [u8; 32] = public.0.try_into().map_err(|_| IdentityError::Key)?;
        let mut bytes = Zeroizing::new([0; 32]);
        let length = secret.secret_bytes().len();
        if length != bytes.len() {
            return Err(IdentityError::Key);
        }
        bytes.copy_from_slice(secret.secret_bytes());
        Ok(Self { public: RecoveryPublic(public), secret: bytes })
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> RecoveryPublic {
        self.public
    }

    /// The one string that operators keep: `pgr1.PUBLIC.SECRET.CHECKSUM`, the parts in base64url.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        let secret = Zeroizing::new(URL_SAFE_NO_PAD.encode(self.secret.as_slice()));
        let body = Zeroizing::new(format!("{FORMAT}.{}.{}", URL_SAFE_NO_PAD.encode(self.public.0), *secret));
        Zeroizing::new(format!("{}.{}", *body, checksum(&body)))
    }

    /// Opens what [`Keyring::lock`] made for this key: the content, and the keyring of then.
    ///
    /// # Errors
    /// It is for another recovery key, for none, for another purpose, or damaged.
    pub fn open(&self, locked: &Locked, aad: &str) -> Result<(Zeroizing<Vec<u8>>, Keyring), KeyringError> {
        let escrow = locked.escrow.as_ref().ok_or(KeyringError::NoRecovery)?;
        if escrow.public != self.public {
            return Err(KeyringError::OtherRecovery {
                wanted: fingerprint(&escrow.public),
                given: fingerprint(&self.public),
            });
        }
        let refused = || KeyringError::Refused { aad: aad.to_owned() };
        let plain = SUITE
            .open(
                &EncapsulatedSecret(escrow.encapsulated.clone()),
                INFO,
                aad.as_bytes(),
                &escrow.content,
                &HpkePrivateKey::from(self.secret.to_vec()),
            )
            .map(Zeroizing::new)
            .map_err(|_| refused())?;
        let (data_key, keyring) = plain.split_first_chunk::<32>().ok_or_else(refused)?;
        let content = Keyring::open_with(data_key, &locked.sealed, aad)?;
        Ok((content, Keyring::from_bytes(keyring)?))
    }
}

impl Keyring {
    /// Encrypts `content` so that both this keyring ([`Keyring::open`] of the sealed part) and the recovery key
    /// ([`RecoveryKey::open`]) open it. `aad` says what it is, and has to be the same then.
    ///
    /// # Errors
    /// No random bytes, or the recovery key is none.
    pub fn lock(
        &self,
        content: &[u8],
        aad: &str,
        recovery: Option<&RecoveryPublic>,
    ) -> Result<Locked, KeyringError> {
        let (sealed, data_key) = self.seal_keeping_key(content, aad)?;
        let escrow = match recovery {
            None => None,
            Some(public) => {
                let plain = Zeroizing::new([data_key.as_slice(), &self.to_bytes()].concat());
                let (encapsulated, content) = SUITE
                    .seal(INFO, aad.as_bytes(), &plain, &HpkePublicKey(public.0.to_vec()))
                    .map_err(|_| KeyringError::BadRecovery)?;
                Some(Escrow { public: *public, encapsulated: encapsulated.0, content })
            }
        };
        Ok(Locked { sealed, escrow })
    }
}

impl fmt::Debug for RecoveryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecoveryKey").field("public", &fingerprint(&self.public)).finish_non_exhaustive()
    }
}

impl FromStr for RecoveryKey {
    type Err = RecoveryKeyError;

    fn from_str(s: &str) -> Result<Self, RecoveryKeyError> {
        let s = s.trim();
        let body = s.strip_prefix(FORMAT).and_then(|rest| rest.strip_prefix('.'));
        let body = body.filter(|_| s.len() <= LENGTH_MAX).ok_or(RecoveryKeyError::Shape)?;
        let parts: Vec<&str> = body.split('.').collect();
        let [public, secret, sum] = parts[..] else { return Err(RecoveryKeyError::Length) };
        if (public.len(), secret.len(), sum.len()) != (43, 43, 6) {
            return Err(RecoveryKeyError::Length);
        }
        if checksum(&s[..s.len() - sum.len() - 1]) != sum {
            return Err(RecoveryKeyError::Checksum);
        }
        Ok(Self { public: RecoveryPublic(*decode(public)?), secret: decode(secret)? })
    }
}

fn decode(text: &str) -> Result<Zeroizing<[u8; 32]>, RecoveryKeyError> {
    let mut bytes = Zeroizing::new([0; 32]);
    // The decoder wants room for its estimate, which may be a little more than what comes out.
    let mut room = Zeroizing::new([0; 48]);
    match URL_SAFE_NO_PAD.decode_slice(text, room.as_mut_slice()) {
        Ok(length) if length == bytes.len() => bytes.copy_from_slice(&room[..length]),
        _ => return Err(RecoveryKeyError::Checksum),
    }
    Ok(bytes)
}

fn checksum(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(&sha256(text.as_bytes()).0[..CHECKSUM])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn keyring_and_recovery_key_open_the_same_and_the_keyring_comes_back() {
        let (ring, key) = (Keyring::create().unwrap(), RecoveryKey::generate().unwrap());
        let locked = ring.lock(b"the state", "backup", Some(&key.public())).unwrap();
        assert_eq!(ring.open(&locked.sealed, "backup").unwrap().as_slice(), b"the state");
        let (content, back) = key.open(&locked, "backup").unwrap();
        assert_eq!((content.as_slice(), back), (b"the state".as_slice(), ring));
        assert!(matches!(key.open(&locked, "other"), Err(KeyringError::Refused { .. })));
    }

    #[test]
    fn another_recovery_key_is_told_and_none_is_told() {
        let (ring, key) = (Keyring::create().unwrap(), RecoveryKey::generate().unwrap());
        let other = RecoveryKey::generate().unwrap();
        let locked = ring.lock(b"x", "backup", Some(&key.public())).unwrap();
        let error = other.open(&locked, "backup").unwrap_err().to_string();
        assert!(error.contains(&fingerprint(&key.public())) && error.contains(&fingerprint(&other.public())));
        let alone = ring.lock(b"x", "backup", None).unwrap();
        assert!(matches!(key.open(&alone, "backup"), Err(KeyringError::NoRecovery)));
        // A key that claims to be the right one still opens nothing.
        let forged = RecoveryKey { public: key.public(), ..other };
        assert!(matches!(forged.open(&locked, "backup"), Err(KeyringError::Refused { .. })));
    }

    #[test]
    fn a_recovery_key_survives_its_text_form_and_every_mistyped_character_is_noticed() {
        let key = RecoveryKey::generate().unwrap();
        let text = key.to_text();
        assert_eq!(format!("  {}\n", *text).parse(), Ok(key.clone()));
        for position in 0..text.len() {
            let mut bytes = text.as_bytes().to_vec();
            bytes[position] = if bytes[position] == b'A' { b'B' } else { b'A' };
            assert!(String::from_utf8(bytes).unwrap().parse::<RecoveryKey>().is_err(), "{position}");
        }
        assert_eq!(text[..60].parse::<RecoveryKey>(), Err(RecoveryKeyError::Length));
        let secret = URL_SAFE_NO_PAD.encode(key.secret.as_slice());
        assert!(text.contains(&secret) && !format!("{key:?}").contains(&secret));
    }

    proptest! {
        #[test]
        fn any_text_is_refused_without_a_panic(text in "(pgr1\\.)?[A-Za-z0-9_.äß-]{0,140}") {
            prop_assert!(text.parse::<RecoveryKey>().is_err());
        }

        #[test]
        fn a_damaged_escrow_is_refused(at in any::<prop::sample::Index>(), bit in 0..8u8, which in any::<bool>()) {
            let (ring, key) = (Keyring::create().unwrap(), RecoveryKey::generate().unwrap());
            let mut locked = ring.lock(b"x", "backup", Some(&key.public())).unwrap();
            let escrow = locked.escrow.as_mut().unwrap();
            let bytes = if which { &mut escrow.encapsulated } else { &mut escrow.content };
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            // X25519 ignores the highest bit of a public value (RFC 7748 §5); the key schedule does not.
            prop_assert!(key.open(&locked, "backup").is_err());
        }
    }
}
