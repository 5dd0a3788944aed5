//! Session tokens of connectors: stateless, so that each node accepts what another one gave out.
//!
//! A token names a site and an end, and is authenticated together with the digest of the site's present secret: it
//! becomes worthless the moment the secret changes.

use std::sync::Arc;

use arc_swap::ArcSwap;
use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use pangolin_core::{SiteId, Timestamp, record::Digest};
use zeroize::Zeroizing;

/// How long a token is good for. It is looked at only when a socket is opened, and fetched anew for each.
pub(super) const TOKEN_LIFETIME: std::time::Duration = std::time::Duration::from_secs(24 * 60 * 60);

/// Format byte, site, end, tag.
const TOKEN_LEN: usize = 1 + 8 + 8 + 32;
const FORMAT: u8 = 1;

/// Why a token is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum TokenError {
    #[error("the token is not one of this cluster's, or the site's secret has changed; get a new one")]
    Invalid,
    #[error("the token has expired; get a new one")]
    Expired,
}

/// Makes tokens with the first key, accepts those of all.
pub(super) struct Tokens {
    keys: ArcSwap<Vec<hmac::Key>>,
}

impl Tokens {
    pub(super) fn new(key: &[u8; 32]) -> Self {
        Self { keys: ArcSwap::from_pointee(vec![hmac::Key::new(hmac::HMAC_SHA256, key)]) }
    }

    /// Without any, those of before stay.
    pub(super) fn set(&self, keys: &[Zeroizing<[u8; 32]>]) {
        if !keys.is_empty() {
            let keys = keys.iter().map(|key| hmac::Key::new(hmac::HMAC_SHA256, key.as_slice()));
            self.keys.store(Arc::new(keys.collect()));
        }
    }

    pub(super) fn issue(&self, site: SiteId, credential: Digest, now: Timestamp) -> String {
        let mut token = vec![FORMAT];
        token.extend_from_slice(&site.0.to_be_bytes());
        token.extend_from_slice(&(now + TOKEN_LIFETIME).0.to_be_bytes());
        if let Some(key) = self.keys.load().first() {
            let tag = hmac::sign(key, &[&token, credential.0.as_slice()].concat());
            token.extend_from_slice(tag.as_ref());
        }
        URL_SAFE_NO_PAD.encode(token)
    }

    /// The site that the token was given to, with the credential it was given for. `credential` tells a site's present
    /// one.
    pub(super) fn check(
        &self,
        token: &str,
        now: Timestamp,
        credential: impl FnOnce(SiteId) -> Option<Digest>,
    ) -> Result<(SiteId, Digest), TokenError> {
        let bytes: [u8; TOKEN_LEN] = URL_SAFE_NO_PAD
            .decode(token)
            .ok()
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or(TokenError::Invalid)?;
        let (said, tag) = bytes.split_at(TOKEN_LEN - 32);
        let number =
            |at: usize| said[at..at + 8].iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        let (site, end) = (SiteId(number(1)), Timestamp(number(9)));
        let credential = credential(site).ok_or(TokenError::Invalid)?;
        let signed = [said, credential.0.as_slice()].concat();
        let good = self.keys.load().iter().any(|key| hmac::verify(key, &signed, tag).is_ok());
        if !good || said[0] != FORMAT {
            return Err(TokenError::Invalid);
        }
        if end < now {
            return Err(TokenError::Expired);
        }
        Ok((site, credential))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_800_000_000_000);
    const SECRET: Digest = Digest([3; 32]);

    #[test]
    fn a_token_is_accepted_by_every_node_that_has_the_key() {
        let token = Tokens::new(&[1; 32]).issue(SiteId(5), SECRET, NOW);
        let elsewhere = Tokens::new(&[1; 32]);
        assert_eq!(elsewhere.check(&token, NOW, |_| Some(SECRET)), Ok((SiteId(5), SECRET)));
    }

    #[test]
    fn a_token_ends_with_its_time_its_site_its_secret_and_its_key() {
        let tokens = Tokens::new(&[1; 32]);
        let token = tokens.issue(SiteId(5), SECRET, NOW);
        let later = NOW + TOKEN_LIFETIME + std::time::Duration::from_secs(1);
        assert_eq!(tokens.check(&token, later, |_| Some(SECRET)), Err(TokenError::Expired));
        assert_eq!(tokens.check(&token, NOW, |_| None), Err(TokenError::Invalid));
        assert_eq!(tokens.check(&token, NOW, |_| Some(Digest([4; 32]))), Err(TokenError::Invalid));
        let other = Tokens::new(&[2; 32]);
        assert_eq!(other.check(&token, NOW, |_| Some(SECRET)), Err(TokenError::Invalid));
    }

    #[test]
    fn a_token_outlives_the_key_that_it_was_made_with_as_long_as_that_one_is_accepted() {
        let key = |n| Zeroizing::new([n; 32]);
        let tokens = Tokens::new(&[1; 32]);
        let token = tokens.issue(SiteId(5), SECRET, NOW);
        tokens.set(&[key(2), key(1)]);
        assert!(tokens.check(&token, NOW, |_| Some(SECRET)).is_ok());
        let newer = tokens.issue(SiteId(5), SECRET, NOW);
        tokens.set(&[key(2)]);
        assert!(tokens.check(&newer, NOW, |_| Some(SECRET)).is_ok());
        assert_eq!(tokens.check(&token, NOW, |_| Some(SECRET)), Err(TokenError::Invalid));
    }

    #[test]
    fn a_token_that_was_tampered_with_is_refused() {
        let tokens = Tokens::new(&[1; 32]);
        let token = URL_SAFE_NO_PAD.decode(tokens.issue(SiteId(5), SECRET, NOW)).unwrap();
        for at in 0..token.len() {
            let mut changed = token.clone();
            changed[at] ^= 1;
            let changed = URL_SAFE_NO_PAD.encode(changed);
            assert_eq!(tokens.check(&changed, NOW, |_| Some(SECRET)), Err(TokenError::Invalid), "byte {at}");
        }
        for text in ["", "ä", "AAAA", &"A".repeat(10_000)] {
            assert_eq!(tokens.check(text, NOW, |_| Some(SECRET)), Err(TokenError::Invalid));
        }
    }
}
