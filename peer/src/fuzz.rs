//! What fuzz targets call: every decoder of bytes from peers, joiners and this room's files. Compiled for fuzzing
//! and for tests alone: here every target also runs over random bytes.
//!
//! A target takes any bytes and must come back. What it finds beyond a panic it says with one.

use bytes::BytesMut;

use crate::{
    frame::{Assembler, Frame, MESSAGE_MAX},
    hello::{Hello, decode_answer},
    identity::{Keyring, inspect_certificate, spki_digest_of_certificate},
    join::JoinTokenText,
};

/// Frames of the control lane, and the messages they make up.
pub fn frames(bytes: &[u8]) {
    let (mut buffer, mut assembler) = (BytesMut::from(bytes), Assembler::default());
    while let Ok(Some(frame)) = Frame::decode(&mut buffer) {
        match assembler.push(frame) {
            Ok(Some(message)) => assert!(message.body.len() <= MESSAGE_MAX),
            Ok(None) => {}
            Err(_) => return,
        }
    }
}

/// How a connection begins, from either side.
pub fn hello(bytes: &[u8]) {
    if let Some(hello) = Hello::decode(bytes) {
        assert_eq!(Hello::decode(&hello.encode()).map(|again| again.encode()), Some(hello.encode()));
    }
    let _ = decode_answer(bytes);
}

/// A join token as people paste it.
pub fn join_token(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(token) = text.parse::<JoinTokenText>()
    {
        assert!(token.to_string().parse::<JoinTokenText>().is_ok());
    }
}

/// A keyring file, or what is received in its place when joining.
pub fn keyring(bytes: &[u8]) {
    if let Ok(keyring) = Keyring::from_bytes(bytes) {
        assert!(Keyring::from_bytes(&keyring.to_bytes()).is_ok());
    }
}

/// A certificate as a peer shows it.
pub fn certificate(bytes: &[u8]) {
    let _ = spki_digest_of_certificate(bytes);
    let _ = inspect_certificate(bytes);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_bytes_make_a_target_fail(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            frames(&bytes);
            hello(&bytes);
            join_token(&bytes);
            keyring(&bytes);
            certificate(&bytes);
        }
    }
}
