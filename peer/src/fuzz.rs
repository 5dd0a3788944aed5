//! What fuzz targets call: every decoder of bytes from peers, joiners and this room's files. Compiled for fuzzing
//! and for tests alone: here every target also runs over random bytes.
//!
//! A target takes any bytes and must come back. What it finds beyond a panic it says with one.

use std::{os::unix::fs::PermissionsExt as _, path::Path, sync::LazyLock, time::SystemTime};

use bytes::BytesMut;
use pangolin_core::id::{ClusterId, NodeId};

use crate::{
    bulk,
    frame::{Assembler, Frame, MESSAGE_MAX},
    hello::{Hello, decode_answer},
    identity::{
        AuthorityKey, Keyring, NodeKey, RecoveryKey, escrow_of, inspect_certificate,
        spki_digest_of_certificate,
    },
    join::{self, JoinTokenText},
};

/// Made once: a target is called many thousand times a second.
static AUTHORITY: LazyLock<AuthorityKey> =
    LazyLock::new(|| AuthorityKey::create("fuzz").expect("an authority"));
static RECOVERY: LazyLock<RecoveryKey> = LazyLock::new(|| RecoveryKey::generate().expect("a recovery key"));

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

/// A connection of the bulk lane; and the same bytes as what one stream of it carries.
pub fn bulk_lane(bytes: &[u8]) {
    bulk::fuzz(bytes);
    // A frame of yamux that opens a stream: version 0, data, SYN, stream 1, its length.
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    bulk::fuzz(&[&[0, 0, 0, 1, 0, 0, 0, 1][..], &length.to_be_bytes(), bytes].concat());
}

/// What comes over a joiner's connection, from either side.
pub fn joining(bytes: &[u8]) {
    join::fuzz(bytes);
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

/// The files in which a node keeps its keyring, with a credential of the service manager and without. `dir` is this
/// target's own.
///
/// # Errors
/// The files cannot be written.
pub fn keyring_files(bytes: &[u8], dir: &Path) -> std::io::Result<()> {
    let (file, credential) = (dir.join("keyring"), dir.join("cluster-kek"));
    if !credential.exists() {
        std::fs::write(&credential, Keyring::create().map_err(std::io::Error::other)?.to_bytes())?;
    }
    for path in [file.clone(), file.with_extension("sealed")] {
        std::fs::write(&path, bytes)?;
        // The node refuses what others might read.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    }
    let _ = Keyring::load_preferred(None, &file);
    assert!(
        Keyring::load_preferred(Some(dir), &file).is_err(),
        "an addition that nobody has sealed is taken"
    );
    Ok(())
}

/// A recovery key as people type it.
pub fn recovery_key(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(key) = text.parse::<RecoveryKey>()
    {
        assert!(key.to_text().parse::<RecoveryKey>().is_ok());
    }
}

/// A keyring that was kept on paper: as text, and what its digits stand for.
pub fn escrow(bytes: &[u8]) {
    let texts = [std::str::from_utf8(bytes).ok().map(str::to_owned), Some(escrow_of(bytes))];
    for text in texts.into_iter().flatten() {
        assert!(Keyring::from_escrow(&text, &RECOVERY).is_err(), "an escrow that nobody has made is opened");
    }
}

/// A node's key, as its file holds it.
pub fn node_key(bytes: &[u8]) {
    let _ = NodeKey::from_pkcs8(bytes);
}

/// A joiner's signing request.
pub fn signing_request(bytes: &[u8]) {
    let signed = AUTHORITY.sign_node(bytes, ClusterId([1; 16]), NodeId(2), SystemTime::UNIX_EPOCH);
    if let Ok(certificate) = signed {
        assert!(spki_digest_of_certificate(&certificate).is_ok());
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
            bulk_lane(&bytes);
            joining(&bytes);
            recovery_key(&bytes);
            escrow(&bytes);
            node_key(&bytes);
            signing_request(&bytes);
        }

        #[test]
        fn a_damaged_signing_request_makes_no_target_fail(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            static REQUEST: LazyLock<Vec<u8>> =
                LazyLock::new(|| NodeKey::generate().expect("a key").csr_der().expect("a request"));
            let mut request = REQUEST.clone();
            let at = at.index(request.len());
            request[at] = byte;
            signing_request(&request);
        }

        #[test]
        fn blocks_and_chunks_of_the_right_length_make_no_target_fail(
            blocks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..4)
        ) {
            let long: Vec<u8> = blocks
                .iter()
                .flat_map(|block| [&(block.len() as u32).to_be_bytes()[..], block].concat())
                .collect();
            joining(&long);
            let short: Vec<u8> = blocks
                .iter()
                .flat_map(|block| [&(block.len() as u16).to_be_bytes()[..], block].concat())
                .collect();
            bulk_lane(&short);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn no_files_make_the_keyring_fail(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let dir = tempfile::tempdir().expect("tempdir");
            keyring_files(&bytes, dir.path()).expect("files are written");
        }
    }
}
