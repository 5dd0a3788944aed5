//! Machine-made credentials: the public halves and secrets of connectors and API keys.

/// Length of the public half of a credential.
pub const CREDENTIAL_ID_LEN: usize = 15;
/// Length of a secret that is made here: 48 of 36 letters, about 248 bits.
pub const SECRET_LEN: usize = 48;
/// Longest secret that is taken from a client.
pub const SECRET_MAX: usize = 128;

const LETTERS: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";

/// A new public half: [`CREDENTIAL_ID_LEN`] letters and digits.
#[must_use]
pub fn random_id() -> String {
    random_text(CREDENTIAL_ID_LEN)
}

/// A new secret: [`SECRET_LEN`] letters and digits.
#[must_use]
pub fn random_secret() -> String {
    random_text(SECRET_LEN)
}

#[expect(clippy::expect_used, reason = "without randomness nothing secret may be made")]
fn random_text(length: usize) -> String {
    let mut text = String::with_capacity(length);
    let mut bytes = [0; 64];
    while text.len() < length {
        aws_lc_rs::rand::fill(&mut bytes).expect("the system has random bytes");
        // The multiples of 36 below 256 end at 252: bytes beyond would favour the first letters.
        let letters = bytes.iter().filter(|b| **b < 252).map(|b| char::from(LETTERS[usize::from(b % 36)]));
        text.extend(letters.take(length - text.len()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_have_their_length_and_letters_and_differ() {
        let (id, secret) = (random_id(), random_secret());
        assert_eq!((id.len(), secret.len()), (CREDENTIAL_ID_LEN, SECRET_LEN));
        assert!(id.bytes().chain(secret.bytes()).all(|b| LETTERS.contains(&b)));
        assert_ne!(random_secret(), secret);
    }
}
