//! The keyring for a drawer: encrypted to the recovery key, as a text that can be printed.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use pangolin_core::{
    codec,
    record::{RecoveryPublic, Sealed},
};

use super::{Escrow, Keyring, KeyringError, Locked, RecoveryKey};

/// First line of the text; the number is the format.
const HEADING: &str = "pangolin-keyring-escrow 1";
/// For what the keyring is encrypted.
const AAD: &str = "keyring escrow";
/// Largest escrow that is read: a full keyring has some 2 KiB.
const LENGTH_MAX: usize = 64 * 1024;
/// Characters of a line.
const WIDTH: usize = 72;

impl Keyring {
    /// The keyring as a text that only the recovery key opens.
    ///
    /// # Errors
    /// No random bytes, or the recovery key is none.
    pub fn to_escrow(&self, recovery: &RecoveryPublic) -> Result<String, KeyringError> {
        let Locked { sealed, escrow } = self.lock(&[], AAD, Some(recovery))?;
        let escrow = escrow.ok_or(KeyringError::NoRecovery)?;
        let bytes = codec::encode(&(sealed, escrow)).map_err(|e| KeyringError::Format(e.to_string()))?;
        Ok(text_of(&bytes))
    }

    /// The keyring in what [`Keyring::to_escrow`] wrote.
    ///
    /// # Errors
    /// It is no escrow, is damaged, or is for another recovery key.
    pub fn from_escrow(text: &str, key: &RecoveryKey) -> Result<Self, KeyringError> {
        let format = |why: &str| KeyringError::Format(format!("an escrow is expected: {why}"));
        let body = text.trim_start().strip_prefix(HEADING).filter(|_| text.len() <= LENGTH_MAX);
        let digits: String = body
            .ok_or_else(|| format("its first line is not that of one"))?
            .chars()
            .filter(|c| !c.is_ascii_whitespace())
            .collect();
        let bytes = STANDARD.decode(digits).map_err(|error| format(&error.to_string()))?;
        let (sealed, escrow): (Sealed, Escrow) =
            codec::decode(&bytes, LENGTH_MAX).map_err(|error| format(&error.to_string()))?;
        let (_, keyring) = key.open(&Locked { sealed, escrow: Some(escrow) }, AAD)?;
        Ok(keyring)
    }
}

/// The heading, and the bytes in lines of digits.
pub(crate) fn text_of(bytes: &[u8]) -> String {
    let digits = STANDARD.encode(bytes);
    let mut text = format!("{HEADING}\n");
    for line in digits.as_bytes().chunks(WIDTH) {
        text.push_str(&String::from_utf8_lossy(line));
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_recovery_key_opens_an_escrow_and_no_other_does() {
        let (mut ring, key) = (Keyring::create().unwrap(), RecoveryKey::generate().unwrap());
        ring.make(2).unwrap();
        let text = ring.to_escrow(&key.public()).unwrap();
        assert!(text.lines().all(|line| line.len() <= WIDTH));
        assert_eq!(Keyring::from_escrow(&text, &key).unwrap(), ring);
        assert_eq!(Keyring::from_escrow(&text.replace('\n', "\r\n"), &key).unwrap(), ring);
        let other = Keyring::from_escrow(&text, &RecoveryKey::generate().unwrap()).unwrap_err();
        assert!(matches!(other, KeyringError::OtherRecovery { .. }));
        assert!(Keyring::from_escrow(&text[..text.len() / 2], &key).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_refused_without_a_panic(text in "(pangolin-keyring-escrow 1\n)?[A-Za-z0-9+/=\n]{0,300}") {
            let key = RecoveryKey::generate().unwrap();
            prop_assert!(Keyring::from_escrow(&text, &key).is_err());
        }
    }
}
