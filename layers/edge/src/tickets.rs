//! TLS session tickets (RFC 8446 §4.6.1) under keys that several nodes may share, so that a client that fails over
//! to another node resumes there.

use std::{
    fmt,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    digest, rand,
};
use parking_lot::Mutex;
use rustls::server::ProducesTickets;
use zeroize::Zeroizing;

use crate::error::EdgeError;

/// How long a client may resume. Short: whoever steals a ticket key can read TLS 1.2 sessions resumed under it.
const LIFETIME: Duration = Duration::from_secs(6 * 60 * 60);
/// A ticket starts with the id of its key.
const ID_LEN: usize = 4;

/// Encrypts with the first key, decrypts with all.
pub(crate) struct Tickets {
    keys: ArcSwap<Vec<TicketKey>>,
    /// When the key made here was made; none once keys have been given.
    own_since: Mutex<Option<Instant>>,
}

#[derive(Clone)]
struct TicketKey {
    id: [u8; ID_LEN],
    key: std::sync::Arc<LessSafeKey>,
}

impl TicketKey {
    fn new(bytes: &[u8; 32]) -> Option<Self> {
        let hash = digest::digest(&digest::SHA256, bytes);
        let id = hash.as_ref().first_chunk().copied()?;
        let key = UnboundKey::new(&AES_256_GCM, bytes).ok()?;
        Some(Self { id, key: LessSafeKey::new(key).into() })
    }

    fn random() -> Option<Self> {
        let mut bytes = Zeroizing::new([0; 32]);
        rand::fill(bytes.as_mut_slice()).ok()?;
        Self::new(&bytes)
    }
}

impl Tickets {
    /// Starts with a key of its own.
    pub(crate) fn new() -> Result<Self, EdgeError> {
        let key = TicketKey::random().ok_or(EdgeError::Random)?;
        Ok(Self { keys: ArcSwap::from_pointee(vec![key]), own_since: Mutex::new(Some(Instant::now())) })
    }

    /// Takes keys from outside, newest first. Rotation is the giver's matter from now on.
    pub(crate) fn set(&self, keys: &[Zeroizing<[u8; 32]>]) {
        let keys: Vec<_> = keys.iter().filter_map(|bytes| TicketKey::new(bytes)).collect();
        if !keys.is_empty() {
            *self.own_since.lock() = None;
            self.keys.store(keys.into());
        }
    }

    /// Replaces a key of its own that has served its time; the one before stays readable.
    pub(crate) fn rotate(&self, now: Instant) {
        let mut since = self.own_since.lock();
        if since.is_some_and(|since| now.duration_since(since) >= LIFETIME)
            && let Some(new) = TicketKey::random()
        {
            let old = self.keys.load().first().cloned();
            self.keys.store(std::iter::once(new).chain(old).collect::<Vec<_>>().into());
            *since = Some(now);
        }
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(LIFETIME.as_secs()).unwrap_or(u32::MAX)
    }

    /// id ‖ nonce ‖ ciphertext ‖ tag.
    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let keys = self.keys.load();
        let TicketKey { id, key } = keys.first()?;
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).ok()?;
        let mut content = plain.to_vec();
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(*id), &mut content)
            .ok()?;
        Some([&id[..], &nonce, &content].concat())
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        let (id, rest) = cipher.split_first_chunk::<ID_LEN>()?;
        let (nonce, content) = rest.split_first_chunk::<NONCE_LEN>()?;
        let keys = self.keys.load();
        let TicketKey { key, .. } = keys.iter().find(|key| key.id == *id)?;
        let mut content = content.to_vec();
        let plain =
            key.open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(*id), &mut content).ok()?.len();
        content.truncate(plain);
        Some(content)
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tickets")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(n: u8) -> Zeroizing<[u8; 32]> {
        Zeroizing::new([n; 32])
    }

    #[test]
    fn nodes_with_the_same_keys_read_each_others_tickets_and_older_keys_stay_readable() {
        let (a, b) = (Tickets::new().expect("random bytes"), Tickets::new().expect("random bytes"));
        let ticket = a.encrypt(b"session").expect("a ticket");
        assert_eq!(a.decrypt(&ticket).as_deref(), Some(&b"session"[..]));
        assert_eq!(b.decrypt(&ticket), None);
        a.set(&[key(1)]);
        b.set(&[key(2), key(1)]);
        let ticket = a.encrypt(b"session").expect("a ticket");
        assert_eq!(b.decrypt(&ticket).as_deref(), Some(&b"session"[..]));
    }

    #[test]
    fn an_own_key_is_replaced_in_time_and_given_ones_are_not() {
        let tickets = Tickets::new().expect("random bytes");
        let ticket = tickets.encrypt(b"x").expect("a ticket");
        let now = Instant::now();
        tickets.rotate(now + LIFETIME);
        assert!(tickets.decrypt(&ticket).is_some());
        tickets.rotate(now + 3 * LIFETIME);
        assert!(tickets.decrypt(&ticket).is_none());
        tickets.set(&[key(1)]);
        let ticket = tickets.encrypt(b"x").expect("a ticket");
        tickets.rotate(now + 9 * LIFETIME);
        assert!(tickets.decrypt(&ticket).is_some());
    }

    proptest! {
        #[test]
        fn no_ticket_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let tickets = Tickets::new().expect("random bytes");
            prop_assert_eq!(tickets.decrypt(&bytes), None);
        }
    }
}
