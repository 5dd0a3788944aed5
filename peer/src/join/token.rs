//! The join token as people copy it.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use pangolin_core::{id::TokenId, record::Digest};
use zeroize::Zeroizing;

use crate::identity::{IdentityError, random, sha256};

/// First part of every token; the number is the format.
const FORMAT: &str = "pgl1";

/// Bytes of the checksum.
const CHECKSUM: usize = 4;

/// Longest text looked at: a token has 127 characters.
const LENGTH_MAX: usize = 256;

/// A join token: `pgl1.AUTHORITY.ID.SECRET.CHECKSUM`, the parts in base64url. It is shown once, and whoever has
/// it can join, so its `Debug` form keeps the secret to itself.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinTokenText {
    /// SHA-256 of the authority's public key (`SubjectPublicKeyInfo`, DER): by it the joiner knows the cluster.
    pub authority_pin: Digest,
    /// The public half, by which the cluster finds what it knows of the token.
    pub id: TokenId,
    /// The secret half.
    pub secret: Zeroizing<[u8; 32]>,
}

/// Why a text is no join token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Something else altogether.
    #[error("this is not a join token: one begins with `{FORMAT}.` and has five parts separated by dots")]
    Shape,
    /// Made by a later release.
    #[error("this join token was made by a newer release; install the one that the cluster runs")]
    Version,
    /// A part is missing a piece.
    #[error("the join token is not complete; copy it again, from `{FORMAT}.` to its end")]
    Length,
    /// Mistyped.
    #[error("the join token has a typing error: its checksum does not match; copy it again")]
    Checksum,
}

impl JoinTokenText {
    /// A fresh token for the cluster with this authority.
    ///
    /// # Errors
    /// The system gives no random bytes.
    pub fn generate(authority_pin: Digest) -> Result<Self, IdentityError> {
        Ok(Self { authority_pin, id: TokenId(random()?), secret: Zeroizing::new(random()?) })
    }
}

impl fmt::Display for JoinTokenText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = Zeroizing::new(format!(
            "{FORMAT}.{}.{}.{}",
            URL_SAFE_NO_PAD.encode(self.authority_pin.0),
            URL_SAFE_NO_PAD.encode(self.id.0),
            *Zeroizing::new(URL_SAFE_NO_PAD.encode(self.secret.as_slice())),
        ));
        write!(f, "{}.{}", *text, checksum(&text))
    }
}

impl fmt::Debug for JoinTokenText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinTokenText").field("id", &self.id).finish_non_exhaustive()
    }
}

impl FromStr for JoinTokenText {
    type Err = TokenError;

    fn from_str(s: &str) -> Result<Self, TokenError> {
        let s = s.trim();
        if s.len() > LENGTH_MAX {
            return Err(TokenError::Shape);
        }
        let mut parts = s.split('.');
        let format = parts.next().unwrap_or_default();
        if format != FORMAT {
            let digits = format.strip_prefix("pgl").unwrap_or_default();
            let newer = digits.parse::<u32>().is_ok_and(|version| version > 1);
            return Err(if newer { TokenError::Version } else { TokenError::Shape });
        }
        let mut part = || parts.next().ok_or(TokenError::Length);
        let (pin, id, secret, sum) = (part()?, part()?, part()?, part()?);
        if parts.next().is_some() {
            return Err(TokenError::Shape);
        }
        let body = s.strip_suffix(sum).and_then(|body| body.strip_suffix('.')).ok_or(TokenError::Shape)?;
        if (pin.len(), id.len(), secret.len(), sum.len()) != (43, 11, 43, 6) {
            return Err(TokenError::Length);
        }
        if checksum(body) != sum {
            return Err(TokenError::Checksum);
        }
        Ok(Self { authority_pin: Digest(*decode(pin)?), id: TokenId(*decode(id)?), secret: decode(secret)? })
    }
}

fn decode<const N: usize>(text: &str) -> Result<Zeroizing<[u8; N]>, TokenError> {
    let mut bytes = Zeroizing::new([0; N]);
    // The decoder wants room for its estimate, which may be a little more than what comes out.
    let mut room = Zeroizing::new([0; 48]);
    match URL_SAFE_NO_PAD.decode_slice(text, room.as_mut_slice()) {
        Ok(length) if length == N => bytes.copy_from_slice(&room[..N]),
        _ => return Err(TokenError::Checksum),
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

    fn token() -> JoinTokenText {
        JoinTokenText::generate(Digest([7; 32])).unwrap()
    }

    #[test]
    fn a_token_survives_its_text_form_and_blanks_around_it() {
        let token = token();
        assert_eq!(token.to_string().parse(), Ok(token.clone()));
        assert_eq!(format!("  {token}\n").parse(), Ok(token.clone()));
        assert_eq!(token.to_string().len(), 4 + 1 + 43 + 1 + 11 + 1 + 43 + 1 + 6);
    }

    #[test]
    fn every_mistyped_character_is_noticed() {
        let text = token().to_string();
        for position in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[position] = if bytes[position] == b'A' { b'B' } else { b'A' };
            assert!(String::from_utf8(bytes).unwrap().parse::<JoinTokenText>().is_err(), "{position}");
        }
    }

    #[test]
    fn errors_say_what_to_do() {
        let text = token().to_string();
        let parse = |s: &str| s.parse::<JoinTokenText>().unwrap_err();
        assert_eq!(parse(""), TokenError::Shape);
        assert_eq!(parse("K10abc::server:x"), TokenError::Shape);
        assert_eq!(parse(&text.replacen("pgl1", "pgl2", 1)), TokenError::Version);
        assert_eq!(parse(&text[..text.len() - 3]), TokenError::Length);
        assert_eq!(parse(&text[..60]), TokenError::Length);
        assert_eq!(parse(&text.replacen('.', ".A", 1)), TokenError::Length);
        assert!(parse(&text[..60]).to_string().contains("copy it again"));
    }

    #[test]
    fn the_secret_is_not_in_the_debug_form() {
        let token = token();
        let secret = URL_SAFE_NO_PAD.encode(token.secret.as_slice());
        assert!(!format!("{token:?}").contains(&secret));
        assert!(token.to_string().contains(&secret));
    }

    proptest! {
        #[test]
        fn any_text_is_refused_without_a_panic(text in "(pgl1\\.)?[A-Za-z0-9_.äß-]{0,140}") {
            prop_assert!(text.parse::<JoinTokenText>().is_err());
        }
    }
}
