//! Signing as it is answered (DNSSEC): one key for each zone, two while it is exchanged, algorithm ECDSAP256SHA256 (RFC
//! 6605), signatures made on demand and kept, denial by one NSEC record made for the name that was asked (RFC 9824).

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::Arc,
};

use aws_lc_rs::{
    digest::{SHA256, digest},
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use domain::{base::iana::Rtype, rdata::dnssec::RtypeBitmap};
use pangolin_core::{
    dns::{KEY_TTL, ZoneKey},
    name::HostName,
    plan::ZonePlan,
};
use parking_lot::Mutex;

use crate::{
    DnsError,
    name::{NAME_MAX, WireName},
    record::{Set, wire_name},
};

/// ECDSAP256SHA256 (RFC 6605 §2).
const ALGORITHM: u8 = 13;
/// SHA-256 (RFC 4509).
const DIGEST: u8 = 2;
/// Zone key and secure entry point: a CSK is both (RFC 4034 §2.1.1).
const KEY_FLAGS: u16 = 257;
/// Always 3 (RFC 4034 §2.1.2).
const KEY_PROTOCOL: u8 = 3;
/// Signatures are the same for a day, so that they are made once a day and record set.
const DAY: u32 = 86_400;
/// They are valid from a day before: clocks differ.
const BEFORE: u32 = DAY;
/// They are valid for this long after the day's beginning: far longer than any answer is kept.
const AFTER: u32 = 13 * DAY;

/// Signatures kept in each half of a shard.
const KEPT: usize = 2048;
/// Shards, so that threads do not wait for each other.
const SHARDS: usize = 16;

/// Bytes of a signature (RFC 6605 §4).
const SIGNATURE: usize = 64;
type Signature = [u8; SIGNATURE];
/// SHA-256 of what is signed.
type Content = [u8; 32];

/// Keys of signed zones, by apex.
pub type Signers = BTreeMap<HostName, Arc<ZoneSigner>>;

/// A zone's keys, ready to sign. Does not print.
pub struct ZoneSigner {
    apex: Box<[u8]>,
    keys: Vec<SigningKey>,
}

/// One of them.
struct SigningKey {
    key: EcdsaKeyPair,
    random: SystemRandom,
    dnskey: Vec<u8>,
    tag: u16,
    kept: [Mutex<Kept>; SHARDS],
}

/// Signatures made lately: when the younger half is full, it becomes the older one.
#[derive(Default)]
struct Kept {
    younger: HashMap<Content, Signature>,
    older: HashMap<Content, Signature>,
}

impl Kept {
    fn find(&mut self, content: &Content) -> Option<Signature> {
        if let Some(signature) = self.younger.get(content) {
            return Some(*signature);
        }
        let signature = self.older.remove(content)?;
        self.keep(*content, signature);
        Some(signature)
    }

    fn keep(&mut self, content: Content, signature: Signature) {
        if self.younger.len() >= KEPT {
            self.older = std::mem::take(&mut self.younger);
        }
        self.younger.insert(content, signature);
    }
}

/// Makes a key for a zone: the private half as PKCS #8, and the public half as DNSKEY shows it.
///
/// # Errors
/// The system gives no random bytes.
pub fn new_zone_key() -> Result<(Vec<u8>, Vec<u8>), DnsError> {
    let failed = |_| DnsError::Key { what: "a key for a zone cannot be made: no random bytes".to_owned() };
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new());
    let pkcs8 = pkcs8.map_err(failed)?.as_ref().to_vec();
    let public = public_half(&read_key(&pkcs8)?);
    Ok((pkcs8, public))
}

fn read_key(pkcs8: &[u8]) -> Result<EcdsaKeyPair, DnsError> {
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8)
        .map_err(|error| DnsError::Key { what: format!("a zone's key cannot be read: {error}") })
}

/// The point without the byte that says that it is uncompressed.
fn public_half(key: &EcdsaKeyPair) -> Vec<u8> {
    key.public_key().as_ref()[1..].to_vec()
}

/// DNSKEY data of a public half (RFC 4034 §2.1).
fn dnskey(public: &[u8]) -> Vec<u8> {
    let mut data = KEY_FLAGS.to_be_bytes().to_vec();
    data.extend_from_slice(&[KEY_PROTOCOL, ALGORITHM]);
    data.extend_from_slice(public);
    data
}

/// RFC 4034, appendix B.
fn key_tag(dnskey: &[u8]) -> u16 {
    let sum: u32 = dnskey
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)))
        .sum();
    (sum + (sum >> 16)) as u16
}

/// DS data (RFC 4034 §5.1).
fn delegation_signer_data(apex: &[u8], dnskey: &[u8]) -> Vec<u8> {
    let mut data = key_tag(dnskey).to_be_bytes().to_vec();
    data.extend_from_slice(&[ALGORITHM, DIGEST]);
    data.extend_from_slice(digest(&SHA256, &[apex, dnskey].concat()).as_ref());
    data
}

/// What stands at the apex of a zone for the keys with these public halves: DNSKEY, and CDS and CDNSKEY for parents that
/// look for them (RFC 7344).
pub(crate) fn key_sets<'a>(apex: &[u8], publics: impl Iterator<Item = &'a [u8]>) -> [Set; 3] {
    let keys: Vec<Vec<u8>> = publics.map(dnskey).collect();
    let digests: Vec<Vec<u8>> = keys.iter().map(|key| delegation_signer_data(apex, key)).collect();
    [
        Set::of(Rtype::DNSKEY, KEY_TTL, &keys),
        Set::of(Rtype::CDS, KEY_TTL, &digests),
        Set::of(Rtype::CDNSKEY, KEY_TTL, &keys),
    ]
}

/// The same of a planned zone; none if it is not signed.
pub(crate) fn planned_key_sets(apex: &[u8], zone: &ZonePlan) -> Option<[Set; 3]> {
    zone.key.as_ref().map(|_| key_sets(apex, zone.keys().map(|key| &*key.public)))
}

/// DS data of a zone with this public half; empty if the zone's name has no DNS form.
pub(crate) fn signer_data(zone: &HostName, public: &[u8]) -> Vec<u8> {
    wire_name(zone).map(|apex| delegation_signer_data(apex.as_slice(), &dnskey(public))).unwrap_or_default()
}

/// The DS record that the parent of a zone with this key has to have, as a line of a zone file.
#[must_use]
pub fn delegation_signer(zone: &HostName, public: &[u8]) -> String {
    let data = signer_data(zone, public);
    let hex: String = data.iter().skip(4).map(|byte| format!("{byte:02X}")).collect();
    format!("{zone}. {KEY_TTL} IN DS {} {ALGORITHM} {DIGEST} {hex}", key_tag(&dnskey(public)))
}

impl ZoneSigner {
    /// Reads the private half of a zone's key.
    ///
    /// # Errors
    /// It is no such key, or not the one to the `public` half.
    pub fn new(zone: &HostName, pkcs8: &[u8], public: &[u8]) -> Result<Self, DnsError> {
        let apex = wire_name(zone).map_err(|defect| DnsError::Key { what: defect.to_string() })?;
        let signer = Self { apex: apex.as_slice().into(), keys: Vec::new() };
        signer.and(zone, pkcs8, public)
    }

    /// Signs with one more key.
    ///
    /// # Errors
    /// As for [`Self::new`].
    pub fn and(mut self, zone: &HostName, pkcs8: &[u8], public: &[u8]) -> Result<Self, DnsError> {
        let key = read_key(pkcs8)?;
        if public_half(&key) != public {
            return Err(DnsError::Key { what: format!("the key of {zone} has another public half") });
        }
        let dnskey = dnskey(public);
        let (tag, random) = (key_tag(&dnskey), SystemRandom::new());
        self.keys.push(SigningKey { key, random, dnskey, tag, kept: Default::default() });
        Ok(self)
    }

    /// What DNSKEY shows of each key.
    fn publics(&self) -> impl Iterator<Item = &[u8]> {
        self.keys.iter().map(|key| &key.dnskey[4..])
    }

    /// Whether it signs with exactly these keys.
    pub(crate) fn has<'a>(&self, keys: impl Iterator<Item = &'a ZoneKey>) -> bool {
        self.publics().eq(keys.map(|key| &*key.public))
    }

    /// What stands at the apex for the keys.
    pub(crate) fn apex_sets(&self) -> [Set; 3] {
        key_sets(&self.apex, self.publics())
    }

    /// The RRSIG records for a set owned by `owner`, a name in wire form in lower case (RFC 4034 §3): one by each key.
    /// None if the system gives no random bytes.
    pub(crate) fn sign(&self, owner: &WireName, set: &Set, now: u32) -> Option<Set> {
        let by_each = self.keys.iter().map(|key| key.sign(&self.apex, owner, set, now));
        Some(Set::of(Rtype::RRSIG, set.ttl(), &by_each.collect::<Option<Vec<_>>>()?))
    }
}

impl SigningKey {
    fn sign(&self, apex: &[u8], owner: &WireName, set: &Set, now: u32) -> Option<Vec<u8>> {
        let today = now - now % DAY;
        let labels = owner.labels() - usize::from(owner.first_label() == b"*");
        let ttl = set.ttl().to_be_bytes();
        let mut data = Vec::with_capacity(18 + apex.len() + SIGNATURE);
        data.extend_from_slice(&set.kind.to_int().to_be_bytes());
        // At most 127 labels.
        data.extend_from_slice(&[ALGORITHM, labels as u8]);
        data.extend_from_slice(&ttl);
        data.extend_from_slice(&today.wrapping_add(AFTER).to_be_bytes());
        data.extend_from_slice(&today.wrapping_sub(BEFORE).to_be_bytes());
        data.extend_from_slice(&self.tag.to_be_bytes());
        data.extend_from_slice(apex);

        let mut signed = data.clone();
        let mut records: Vec<&[u8]> = set.data().collect();
        records.sort_unstable();
        for record in records {
            signed.extend_from_slice(owner.suffix(0));
            signed.extend_from_slice(&set.kind.to_int().to_be_bytes());
            signed.extend_from_slice(&[0, 1]);
            signed.extend_from_slice(&ttl);
            // Came with a length of 16 bits.
            signed.extend_from_slice(&(record.len() as u16).to_be_bytes());
            signed.extend_from_slice(record);
        }
        data.extend_from_slice(&self.signature(&signed)?);
        Some(data)
    }

    fn signature(&self, signed: &[u8]) -> Option<Signature> {
        let content: Content = digest(&SHA256, signed).as_ref().try_into().ok()?;
        let shard = &self.kept[usize::from(content[0]) % SHARDS];
        if let Some(signature) = shard.lock().find(&content) {
            return Some(signature);
        }
        let signature = self.key.sign(&self.random, signed).ok()?;
        let signature: Signature = signature.as_ref().try_into().ok()?;
        shard.lock().keep(content, signature);
        Some(signature)
    }
}

impl fmt::Debug for ZoneSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ZoneSigner").field(&self.keys.iter().map(|key| key.tag).collect::<Vec<_>>()).finish()
    }
}

/// The NSEC record that says which types `owner` has, and nothing about other names: the next name is the one right
/// behind it (RFC 9824 §3). None if that would be too long.
pub(crate) fn denial(owner: &WireName, types: impl IntoIterator<Item = Rtype>, ttl: u32) -> Option<Set> {
    if owner.len() + 2 > NAME_MAX {
        return None;
    }
    let mut data = vec![1, 0];
    data.extend_from_slice(owner.suffix(0));
    let mut bitmap = RtypeBitmap::<Vec<u8>>::builder();
    for kind in types.into_iter().chain([Rtype::RRSIG, Rtype::NSEC]) {
        let Ok(()) = bitmap.add(kind);
    }
    data.extend_from_slice(bitmap.finalize().as_slice());
    Some(Set::single(Rtype::NSEC, ttl, &data))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_6605_has_its_key_tag_and_digest() {
        // RFC 6605 §6.1.
        let public =
            "GojIhhXUN/u4v54ZQqGSnyhWJwaubCvTmeexv7bR6edbkrSqQpF64cYbcB7wNcP+e+MAnLr+Wi9xMWyQLc8NAA==";
        let public = base64(public);
        let zone: HostName = "example.net".parse().expect("a name");
        assert_eq!(
            delegation_signer(&zone, &public),
            "example.net. 3600 IN DS 55648 13 2 \
             B4C8C1FE2E7477127B27115656AD6256F424625BF5C1E2770CE6D6E37DF61D17"
        );
    }

    fn base64(text: &str) -> Vec<u8> {
        domain::utils::base64::decode(text).expect("base64")
    }

    #[test]
    fn a_key_belongs_to_its_public_half() {
        let (pkcs8, public) = new_zone_key().expect("a key");
        let zone: HostName = "example.net".parse().expect("a name");
        assert!(ZoneSigner::new(&zone, &pkcs8, &public).is_ok());
        assert!(ZoneSigner::new(&zone, &pkcs8, &[0; 64]).is_err());
    }

    #[test]
    fn signatures_are_made_once_a_day() {
        let (pkcs8, public) = new_zone_key().expect("a key");
        let zone: HostName = "z.test".parse().expect("a name");
        let signer = ZoneSigner::new(&zone, &pkcs8, &public).expect("a signer");
        let owner = WireName::read(b"\x01a\x01z\x04test\x00").expect("a name");
        let set = Set::single(Rtype::A, 30, &[192, 0, 2, 1]);
        let at = |now| signer.sign(&owner, &set, now).expect("a signature").wire;
        // ECDSA signatures differ from each other, so an equal one is the same one.
        assert_eq!(at(1_800_000_000), at(1_800_000_001));
        assert_ne!(at(1_800_000_000), at(1_800_000_000 + DAY));
    }

    #[test]
    fn two_keys_stand_in_the_zone_and_sign_everything() {
        let zone: HostName = "z.test".parse().expect("a name");
        let [(first, of_first), (next, of_next)] = [(); 2].map(|()| new_zone_key().expect("a key"));
        let signer = ZoneSigner::new(&zone, &first, &of_first).expect("a signer");
        let signer = signer.and(&zone, &next, &of_next).expect("a second key");
        assert!(signer.apex_sets().iter().all(|set| set.count == 2));
        let owner = WireName::read(b"\x01a\x01z\x04test\x00").expect("a name");
        let signatures = signer.sign(&owner, &Set::single(Rtype::A, 30, &[192, 0, 2, 1]), 1_800_000_000);
        let signatures = signatures.expect("signatures");
        let tags: Vec<u16> = signatures.data().map(|data| u16::from_be_bytes([data[16], data[17]])).collect();
        assert_eq!(tags, [&of_first, &of_next].map(|public| key_tag(&dnskey(public))));
    }
}
