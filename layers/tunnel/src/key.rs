//! WireGuard private keys.

use std::fmt;

use gotatun::x25519::{PublicKey, StaticSecret};
use pangolin_core::record::TunnelKey;
use zeroize::Zeroizing;

/// A WireGuard private key (Curve25519). It is wiped from memory when dropped and never printed.
#[derive(Clone)]
pub struct SecretKey(StaticSecret);

impl SecretKey {
    /// A new random key.
    #[must_use]
    pub fn generate() -> Self {
        Self::from_bytes(*Zeroizing::new(rand::random::<[u8; 32]>()))
    }

    /// The key with these 32 bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        let bytes = Zeroizing::new(bytes);
        Self(StaticSecret::from(*bytes))
    }

    /// Its bytes, for a file that only its owner can read.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> TunnelKey {
        TunnelKey(PublicKey::from(&self.0).to_bytes())
    }

    pub(crate) fn secret(&self) -> StaticSecret {
        self.0.clone()
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_its_bytes_and_is_not_printed() {
        let key = SecretKey::generate();
        assert_eq!(SecretKey::from_bytes(*key.to_bytes()).public(), key.public());
        assert_eq!(format!("{key:?}"), "SecretKey(…)");
    }

    #[test]
    fn the_public_half_is_that_of_rfc_7748() {
        // RFC 7748 section 6.1, Alice's key pair.
        let key = SecretKey::from_bytes([
            0x77, 0x07, 0x6d, 0x0a, 0x73, 0x18, 0xa5, 0x7d, 0x3c, 0x16, 0xc1, 0x72, 0x51, 0xb2, 0x66, 0x45,
            0xdf, 0x4c, 0x2f, 0x87, 0xeb, 0xc0, 0x99, 0x2a, 0xb1, 0x77, 0xfb, 0xa5, 0x1d, 0xb9, 0x2c, 0x2a,
        ]);
        assert_eq!(key.public().0[..4], [0x85, 0x20, 0xf0, 0x09]);
    }
}
