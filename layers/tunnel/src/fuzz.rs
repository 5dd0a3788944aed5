//! What fuzz targets call: every decoder of bytes from sites, connectors and nodes. Compiled for fuzzing and for
//! tests alone: here every target also runs over random bytes.

use std::net::Ipv4Addr;

use pangolin_core::{record::Digest, time::Timestamp};

use crate::{
    control::{
        check_token,
        messages::{FromConnector, FromNode, Received, decode, decode_gzip, encode, key_text, parse_key},
    },
    packet::classify,
    probe::Probe,
    wireguard::{admits, tun::merge_bytes},
};

/// Messages of the control channel, in text and compressed, from either side.
pub fn control_messages(bytes: &[u8]) {
    if let Ok(Received::Known(message, version)) = decode::<FromConnector>(bytes) {
        let again = encode(&message, version);
        assert!(decode::<FromConnector>(again.as_bytes()).is_ok(), "{again}");
    }
    if let Ok(Received::Known(message, version)) = decode::<FromNode>(bytes) {
        let again = encode(&message, version);
        assert!(decode::<FromNode>(again.as_bytes()).is_ok(), "{again}");
    }
    let _ = decode_gzip::<FromConnector>(bytes);
    let _ = decode_gzip::<FromNode>(bytes);
    if let Some(key) = std::str::from_utf8(bytes).ok().and_then(parse_key) {
        assert_eq!(parse_key(&key_text(key)), Some(key));
    }
}

/// Packets out of a tunnel, and probes in them.
pub fn packets(bytes: &[u8]) {
    let _ = classify(Ipv4Addr::new(100, 89, 0, 1), bytes);
    // The same packet to whom it says it is for.
    if let Some(to) = bytes.get(16..20).and_then(|to| <[u8; 4]>::try_from(to).ok()) {
        let _ = classify(Ipv4Addr::from(to), bytes);
        let _ = admits(bytes, Ipv4Addr::from(to), |port| port % 2 == 0);
    }
    let _ = Probe::decode(bytes);
    // And as several packets, on their way to an interface.
    let packets: Vec<&[u8]> = bytes.chunks(64).collect();
    merge_bytes(&packets);
}

/// A connector's session token.
pub fn session_token(bytes: &[u8]) {
    if let Ok(token) = std::str::from_utf8(bytes) {
        let forged = check_token(&[7; 32], token, Timestamp(0), |_| Some(Digest([0; 32])));
        assert!(!forged, "a token that nobody has issued is taken");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_bytes_make_a_target_fail(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            control_messages(&bytes);
            packets(&bytes);
            session_token(&bytes);
        }

        #[test]
        fn no_text_makes_a_target_fail(text in ".{0,200}") {
            control_messages(text.as_bytes());
            session_token(text.as_bytes());
        }
    }
}
