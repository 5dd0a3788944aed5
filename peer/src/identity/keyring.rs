//! The keyring: key-encryption keys (KEKs) that wrap the data key of everything sealed.
//!
//! Each sealed object has a data key of its own (AES-256-GCM, so a random nonce never meets another message of
//! the same key), wrapped by the active KEK. Both layers are bound to what the object is (`aad`), so that one
//! object's ciphertext cannot stand in for another's. The keyring itself never enters the log, a database or
//! an argument list: it comes from a credential of the service manager, or from a file with mode 0600.
//!
//! Rotation: [`Keyring::make`] on one node, [`Keyring::take`] on all others, [`Keyring::activate`], re-wrap what is
//! stored ([`Keyring::rewrap`] leaves the content as it is), [`Keyring::retire`] the old one. A retired KEK stays, to open
//! backups that were made under it; nothing new depends on it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    fmt::Write as _,
};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf,
};
use pangolin_core::record::{Digest, Sealed};
use zeroize::Zeroizing;

use super::{IdentityError, private_file::PrivateFileError, random, sha256};

/// First line of a keyring file; the number is the format.
const HEADING: &str = "pangolin-keyring 1";

/// Most KEKs in one keyring: a rotation needs two, backups of long ago the others. The oldest retired one goes first.
const KEYS_MAX: usize = 16;
/// From what a fingerprint is derived: it must not be a key of any purpose.
const FINGERPRINT: &str = "fingerprint of a key-encryption key";

/// Digits of the checksum at the end of a keyring file.
const CHECKSUM_DIGITS: usize = 16;

/// Why a keyring cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// Not a keyring of this version.
    #[error("this is not a keyring: {0}")]
    Format(String),
    /// Bytes have changed.
    #[error("the keyring is damaged: its checksum does not match; restore it from another node or a backup")]
    Checksum,
    /// Sealed by a key that is not here.
    #[error("key-encryption key {0} is not in this node's keyring; fetch the keyring of another node")]
    UnknownKey(u32),
    /// Not what was sealed.
    #[error("the sealed content is refused: it is damaged, or was sealed for another purpose than {aad:?}")]
    Refused {
        /// For what it should have been sealed.
        aad: String,
    },
    /// Not encrypted to any recovery key.
    #[error("it is not encrypted to a recovery key: only the keyring of the cluster opens it")]
    NoRecovery,
    /// Encrypted to another recovery key.
    #[error("it is encrypted to the recovery key {wanted}; the one given is {given}")]
    OtherRecovery {
        /// Fingerprint of the one that opens it.
        wanted: String,
        /// Fingerprint of the one that was tried.
        given: String,
    },
    /// Not a point that can be encrypted to.
    #[error(
        "the cluster's recovery key cannot be encrypted to: make a new one with `pangolinctl backup new-key`"
    )]
    BadRecovery,
    /// Would leave a keyring that cannot seal.
    #[error("key-encryption key {0} is the active one; activate another one first")]
    Active(u32),
    /// Too many in use.
    #[error("the keyring has {KEYS_MAX} keys, which is the limit, and none of them is retired")]
    Full,
    /// Handed over by mistake, or by somebody else.
    #[error("what was handed over is not key-encryption key {0}")]
    OtherKey(u32),
    /// The file.
    #[error(transparent)]
    File(#[from] PrivateFileError),
    /// No entropy.
    #[error(transparent)]
    Random(#[from] IdentityError),
}

/// KEKs by their numbers; one of them is active, the others only open what they once wrapped. Prints the
/// numbers alone.
#[derive(Clone, PartialEq, Eq)]
pub struct Keyring {
    keys: BTreeMap<u32, Zeroizing<[u8; 32]>>,
    active: u32,
    /// Those that open old backups, and are used for nothing else.
    retired: BTreeSet<u32>,
}

impl Keyring {
    /// A keyring with one fresh KEK, number 1.
    ///
    /// # Errors
    /// No random bytes.
    pub fn create() -> Result<Self, KeyringError> {
        let keys = BTreeMap::from([(1, Zeroizing::new(random()?))]);
        Ok(Self { keys, active: 1, retired: BTreeSet::new() })
    }

    /// The number of the KEK that wraps what is sealed now.
    #[must_use]
    pub fn active(&self) -> u32 {
        self.active
    }

    /// The numbers of all KEKs.
    pub fn numbers(&self) -> impl Iterator<Item = u32> {
        self.keys.keys().copied()
    }

    /// Whether a KEK is retired.
    #[must_use]
    pub fn is_retired(&self, number: u32) -> bool {
        self.retired.contains(&number)
    }

    /// Tells a KEK from others, and nothing about it; none if it is not here.
    #[must_use]
    pub fn fingerprint(&self, number: u32) -> Option<Digest> {
        self.keys.get(&number).map(|key| Digest(derive_from(key, FINGERPRINT)))
    }

    /// Makes the KEK with this number, that only opens until it is activated, unless it is there already.
    ///
    /// # Errors
    /// Too many, or no random bytes.
    pub fn make(&mut self, number: u32) -> Result<(), KeyringError> {
        if self.keys.contains_key(&number) {
            return Ok(());
        }
        self.make_room()?;
        self.keys.insert(number, Zeroizing::new(random()?));
        Ok(())
    }

    /// A KEK, to be handed to another node; none if it is not here.
    #[must_use]
    pub fn hand_over(&self, number: u32) -> Option<Zeroizing<[u8; 32]>> {
        self.keys.get(&number).cloned()
    }

    /// Takes a KEK that was handed over, if it is the one with this fingerprint. It takes the place of another one with
    /// its number, which no node was ever told of.
    ///
    /// # Errors
    /// Too many, or not the one that is meant.
    pub fn take(
        &mut self,
        number: u32,
        key: Zeroizing<[u8; 32]>,
        fingerprint: &Digest,
    ) -> Result<(), KeyringError> {
        if derive_from(&key, FINGERPRINT) != fingerprint.0 {
            return Err(KeyringError::OtherKey(number));
        }
        if !self.keys.contains_key(&number) {
            self.make_room()?;
        }
        self.keys.insert(number, key);
        Ok(())
    }

    fn make_room(&mut self) -> Result<(), KeyringError> {
        if self.keys.len() >= KEYS_MAX {
            let oldest = self.retired.pop_first().ok_or(KeyringError::Full)?;
            self.keys.remove(&oldest);
        }
        Ok(())
    }

    /// Makes a KEK the one that wraps.
    ///
    /// # Errors
    /// There is no such KEK.
    pub fn activate(&mut self, number: u32) -> Result<(), KeyringError> {
        self.key(number)?;
        self.active = number;
        self.retired.remove(&number);
        Ok(())
    }

    /// Takes a KEK out of use: from here on it opens what is sealed with it, and nothing is derived from it.
    ///
    /// # Errors
    /// It is the active one, or not there.
    pub fn retire(&mut self, number: u32) -> Result<(), KeyringError> {
        if number == self.active {
            return Err(KeyringError::Active(number));
        }
        self.key(number)?;
        self.retired.insert(number);
        Ok(())
    }

    /// Everything that either of two keyrings of one cluster holds, with what `newer` says of it.
    #[must_use]
    pub fn joined(mut self, newer: Self) -> Self {
        self.keys.extend(newer.keys);
        self.retired.extend(newer.retired);
        self.retired.remove(&newer.active);
        self.active = newer.active;
        self
    }

    /// Encrypts `content` under a fresh data key. `aad` says what it is (for example `certificate/42/3`) and has
    /// to be the same when it is opened.
    ///
    /// # Errors
    /// No random bytes.
    pub fn seal(&self, content: &[u8], aad: &str) -> Result<Sealed, KeyringError> {
        Ok(self.seal_keeping_key(content, aad)?.0)
    }

    /// As [`Keyring::seal`]; gives the data key as well.
    pub(super) fn seal_keeping_key(
        &self,
        content: &[u8],
        aad: &str,
    ) -> Result<(Sealed, Zeroizing<[u8; 32]>), KeyringError> {
        let data_key = Zeroizing::new(random::<32>()?);
        let sealed = Sealed {
            kek: self.active,
            wrapped_key: encrypt(self.key(self.active)?, &wrap_aad(self.active, aad), data_key.as_slice())?,
            content: encrypt(&data_key, &content_aad(aad), content)?,
        };
        Ok((sealed, data_key))
    }

    /// Decrypts the content with the data key itself.
    pub(super) fn open_with(
        data_key: &[u8; 32],
        sealed: &Sealed,
        aad: &str,
    ) -> Result<Zeroizing<Vec<u8>>, KeyringError> {
        decrypt(data_key, &content_aad(aad), &sealed.content).ok_or_else(|| refused(aad))
    }

    /// Decrypts what [`Keyring::seal`] made with the same `aad`.
    ///
    /// # Errors
    /// The KEK is not here, the bytes are not intact, or they were sealed for something else.
    pub fn open(&self, sealed: &Sealed, aad: &str) -> Result<Zeroizing<Vec<u8>>, KeyringError> {
        let data_key = self.unwrap_key(sealed, aad)?;
        decrypt(&data_key, &content_aad(aad), &sealed.content).ok_or_else(|| refused(aad))
    }

    /// The same content under the active KEK; only the data key is encrypted anew.
    ///
    /// # Errors
    /// As [`Keyring::open`].
    pub fn rewrap(&self, sealed: &Sealed, aad: &str) -> Result<Sealed, KeyringError> {
        let data_key = self.unwrap_key(sealed, aad)?;
        Ok(Sealed {
            kek: self.active,
            wrapped_key: encrypt(self.key(self.active)?, &wrap_aad(self.active, aad), data_key.as_slice())?,
            content: sealed.content.clone(),
        })
    }

    /// The keys for the purpose `label`, the same on every node that has the keyring: HKDF-SHA256 (RFC 5869) of each
    /// KEK in use. The first one, of the active KEK, is to be used; the others are to be accepted as well, because nodes
    /// go over to a KEK one after the other, and what was made before a rotation stays good for a while.
    #[must_use]
    pub fn derive(&self, label: &str) -> Vec<Zeroizing<[u8; 32]>> {
        let others = self.keys.keys().rev().filter(|number| **number != self.active);
        let in_use =
            std::iter::once(&self.active).chain(others).filter(|number| !self.retired.contains(number));
        in_use
            .filter_map(|number| self.keys.get(number))
            .map(|key| Zeroizing::new(derive_from(key, label)))
            .collect()
    }

    /// The first of the keys that [`Keyring::derive`] gives.
    #[must_use]
    #[expect(
        clippy::unwrap_used,
        reason = "the active KEK is there: every way to a keyring makes sure of it"
    )]
    pub fn derive_one(&self, label: &str) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(derive_from(self.keys.get(&self.active).unwrap(), label))
    }

    /// The keyring as a text with a format number and a checksum: a secret.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        // Enough room from the start: a growing string would leave copies of the keys behind.
        let mut text = Zeroizing::new(String::with_capacity(64 + 96 * self.keys.len()));
        text.push_str(HEADING);
        text.push('\n');
        for (number, key) in &self.keys {
            let state = match *number {
                number if number == self.active => "active",
                number if self.retired.contains(&number) => "retired",
                _ => "decrypt-only",
            };
            let mut digits = Zeroizing::new([0; 64]);
            let _ = hex::encode_to_slice(key.as_slice(), digits.as_mut_slice());
            let digits = std::str::from_utf8(digits.as_slice()).unwrap_or_default();
            let _ = writeln!(text, "{number} {state} {digits}");
        }
        let checksum = checksum(text.as_bytes());
        let _ = writeln!(text, "checksum {checksum}");
        Zeroizing::new(text.as_bytes().to_vec())
    }

    /// The keyring that [`Keyring::to_bytes`] wrote.
    ///
    /// # Errors
    /// Not a keyring, of a newer format, or damaged.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, KeyringError> {
        let text = std::str::from_utf8(bytes).map_err(|_| format_error("it is not text"))?;
        let heading = text.lines().next().unwrap_or_default();
        if heading != HEADING {
            let known = heading.starts_with("pangolin-keyring ");
            let why = if known { "its format is of another version" } else { "the first line is not one's" };
            return Err(format_error(why));
        }
        let (body, last) = text
            .rsplit_once("checksum ")
            .filter(|(body, _)| body.ends_with('\n'))
            .ok_or_else(|| format_error("the checksum is missing: it may be cut off"))?;
        if last.strip_suffix('\n').unwrap_or(last) != checksum(body.as_bytes()) {
            return Err(KeyringError::Checksum);
        }
        let (mut keys, mut active, mut retired) = (BTreeMap::new(), None, BTreeSet::new());
        for line in body.lines().skip(1) {
            let (number, state, key) = parse_line(line).ok_or_else(|| format_error("a line is malformed"))?;
            if state == "active" && active.replace(number).is_some() {
                return Err(format_error("two keys are active"));
            }
            if state == "retired" {
                retired.insert(number);
            }
            if keys.insert(number, key).is_some() || keys.len() > KEYS_MAX {
                return Err(format_error("a number is there twice, or there are too many keys"));
            }
        }
        let active = active.ok_or_else(|| format_error("no key is active"))?;
        Ok(Self { keys, active, retired })
    }

    fn key(&self, number: u32) -> Result<&[u8; 32], KeyringError> {
        self.keys.get(&number).map(|key| &**key).ok_or(KeyringError::UnknownKey(number))
    }

    fn unwrap_key(&self, sealed: &Sealed, aad: &str) -> Result<Zeroizing<[u8; 32]>, KeyringError> {
        let kek = self.key(sealed.kek)?;
        let plain = decrypt(kek, &wrap_aad(sealed.kek, aad), &sealed.wrapped_key);
        let plain = plain.ok_or_else(|| refused(aad))?;
        let mut data_key = Zeroizing::new([0; 32]);
        if plain.len() != data_key.len() {
            return Err(refused(aad));
        }
        data_key.copy_from_slice(&plain);
        Ok(data_key)
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring")
            .field("keys", &self.keys.keys().collect::<Vec<_>>())
            .field("active", &self.active)
            .field("retired", &self.retired)
            .finish()
    }
}

#[expect(clippy::unwrap_used, reason = "32 bytes are one block of HKDF")]
fn derive_from(key: &[u8; 32], label: &str) -> [u8; 32] {
    let secret = hkdf::Salt::new(hkdf::HKDF_SHA256, b"pangolin-keyring-v1").extract(key.as_slice());
    let mut derived = [0; 32];
    secret.expand(&[label.as_bytes()], hkdf::HKDF_SHA256).unwrap().fill(&mut derived).unwrap();
    derived
}

fn parse_line(line: &str) -> Option<(u32, &str, Zeroizing<[u8; 32]>)> {
    let mut words = line.split(' ');
    let (number, state, digits) = (words.next()?, words.next()?, words.next()?);
    let known = matches!(state, "active" | "decrypt-only" | "retired");
    let mut key = Zeroizing::new([0; 32]);
    hex::decode_to_slice(digits, key.as_mut_slice()).ok()?;
    (known && words.next().is_none()).then_some((number.parse().ok()?, state, key))
}

fn format_error(why: &str) -> KeyringError {
    KeyringError::Format(why.to_owned())
}

fn refused(aad: &str) -> KeyringError {
    KeyringError::Refused { aad: aad.to_owned() }
}

fn checksum(bytes: &[u8]) -> String {
    let mut digits = hex::encode(sha256(bytes).0);
    digits.truncate(CHECKSUM_DIGITS);
    digits
}

fn content_aad(aad: &str) -> String {
    format!("pangolin-sealed-v1|{aad}")
}

fn wrap_aad(kek: u32, aad: &str) -> String {
    format!("pangolin-wrapped-v1|{kek}|{aad}")
}

fn cipher(key: &[u8; 32]) -> Option<LessSafeKey> {
    UnboundKey::new(&AES_256_GCM, key).ok().map(LessSafeKey::new)
}

/// Nonce, ciphertext, tag.
fn encrypt(key: &[u8; 32], aad: &str, plain: &[u8]) -> Result<Vec<u8>, IdentityError> {
    let nonce: [u8; NONCE_LEN] = random()?;
    let mut body = Zeroizing::new(plain.to_vec());
    let tag = cipher(key)
        .and_then(|cipher| {
            let nonce = Nonce::assume_unique_for_key(nonce);
            cipher.seal_in_place_separate_tag(nonce, Aad::from(aad), &mut body).ok()
        })
        .ok_or(IdentityError::Random)?;
    Ok([&nonce, body.as_slice(), tag.as_ref()].concat())
}

fn decrypt(key: &[u8; 32], aad: &str, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (nonce, body) = sealed.split_first_chunk::<NONCE_LEN>()?;
    let mut plain = Zeroizing::new(body.to_vec());
    let nonce = Nonce::assume_unique_for_key(*nonce);
    let length = cipher(key)?.open_in_place(nonce, Aad::from(aad), &mut plain).ok()?.len();
    plain.truncate(length);
    Some(plain)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_sealed_opens_only_for_what_it_was_sealed() {
        let ring = Keyring::create().unwrap();
        let sealed = ring.seal(b"private key", "certificate/42/3").unwrap();
        assert_eq!(ring.open(&sealed, "certificate/42/3").unwrap().as_slice(), b"private key");
        assert!(matches!(ring.open(&sealed, "certificate/43/3"), Err(KeyringError::Refused { .. })));
        let other = Keyring::create().unwrap();
        assert!(matches!(other.open(&sealed, "certificate/42/3"), Err(KeyringError::Refused { .. })));
    }

    #[test]
    fn content_and_data_key_of_two_objects_cannot_be_mixed() {
        let ring = Keyring::create().unwrap();
        let (a, b) = (ring.seal(b"a", "x").unwrap(), ring.seal(b"b", "x").unwrap());
        let mixed = Sealed { content: b.content, ..a };
        assert!(ring.open(&mixed, "x").is_err());
    }

    #[test]
    fn rotation_keeps_the_content_and_takes_the_old_key_out_of_use() {
        let mut ring = Keyring::create().unwrap();
        let old = ring.seal(b"content", "x").unwrap();
        let derived = ring.derive("label");
        ring.make(2).unwrap();
        assert_eq!(ring.active(), 1, "a new key waits until all nodes have it");
        assert_eq!(ring.derive("label")[0], derived[0], "and so do the keys derived from it");
        assert_eq!(ring.derive("label").len(), 2, "which are accepted already");
        ring.activate(2).unwrap();
        assert_eq!(ring.derive("label")[1], derived[0], "what was derived before stays accepted");
        let new = ring.rewrap(&old, "x").unwrap();
        assert_eq!((new.kek, &new.content), (2, &old.content));
        assert!(matches!(ring.retire(2), Err(KeyringError::Active(2))));
        ring.retire(1).unwrap();
        assert_eq!(ring.derive("label"), [ring.derive_one("label")]);
        assert_eq!(ring.open(&new, "x").unwrap().as_slice(), b"content");
        assert_eq!(ring.open(&old, "x").unwrap().as_slice(), b"content", "a backup of then");
        assert_eq!(Keyring::from_bytes(&ring.to_bytes()).unwrap(), ring);
    }

    #[test]
    fn a_key_is_taken_from_another_node_only_if_it_is_the_one_that_is_meant() {
        let (mut maker, mut other) = (Keyring::create().unwrap(), Keyring::create().unwrap());
        maker.make(2).unwrap();
        let fingerprint = maker.fingerprint(2).unwrap();
        maker.make(2).unwrap();
        assert_eq!(maker.fingerprint(2), Some(fingerprint), "what is there is not made again");
        let wrong = other.take(2, maker.hand_over(1).unwrap(), &fingerprint);
        assert!(matches!(wrong, Err(KeyringError::OtherKey(2))));
        other.make(2).unwrap();
        other.take(2, maker.hand_over(2).unwrap(), &fingerprint).unwrap();
        assert_eq!(other.fingerprint(2), Some(fingerprint));
        assert_ne!(maker.fingerprint(1), maker.fingerprint(2));
        assert!(maker.hand_over(3).is_none());
    }

    #[test]
    fn a_full_keyring_gives_up_its_oldest_retired_key_and_none_in_use() {
        let mut ring = Keyring::create().unwrap();
        for number in 2..=16 {
            ring.make(number).unwrap();
        }
        assert!(matches!(ring.make(17), Err(KeyringError::Full)));
        ring.activate(16).unwrap();
        for number in [1, 2] {
            ring.retire(number).unwrap();
        }
        ring.make(17).unwrap();
        assert!(ring.hand_over(1).is_none() && ring.hand_over(2).is_some());
    }

    #[test]
    fn the_file_form_survives_and_every_flipped_bit_is_noticed() {
        let mut ring = Keyring::create().unwrap();
        ring.make(2).unwrap();
        let bytes = ring.to_bytes();
        assert_eq!(Keyring::from_bytes(&bytes).unwrap(), ring);
        // The last byte is a line end, whose absence is forgiven.
        for position in 0..bytes.len() - 1 {
            let mut damaged = bytes.to_vec();
            damaged[position] ^= 1;
            assert!(Keyring::from_bytes(&damaged).is_err(), "byte {position}");
        }
        assert!(Keyring::from_bytes(&bytes[..bytes.len() / 2]).is_err());
    }

    #[test]
    fn keys_are_derived_by_label_and_never_printed() {
        let ring = Keyring::create().unwrap();
        assert_ne!(ring.derive("a"), ring.derive("b"));
        assert_eq!(format!("{ring:?}"), "Keyring { keys: [1], active: 1, retired: {} }");
    }

    proptest! {
        #[test]
        fn random_bytes_are_no_keyring_and_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(Keyring::from_bytes(&bytes).is_err());
        }

        #[test]
        fn random_ciphertexts_are_refused(
            wrapped_key in prop::collection::vec(any::<u8>(), 0..80),
            content in prop::collection::vec(any::<u8>(), 0..80),
        ) {
            let ring = Keyring::create().unwrap();
            let refused = ring.open(&Sealed { kek: 1, wrapped_key, content }, "x").is_err();
            prop_assert!(refused);
        }
    }
}
