//! What fuzz targets call: every decoder of what nodes say about the log, and of what is stored of it. Compiled for
//! fuzzing and for tests alone: here every target also runs over random bytes.

use futures_util::FutureExt as _;
use pangolin_core::id::NodeId;
use pangolin_storage as storage;

use crate::{
    messages::{Answer, Ask, Attempt, Forwarded, SnapshotAnswer, SnapshotHeader, check, decode},
    snapshot_stream,
    types::{decode_entry, decode_meta, encode_entry, encode_meta},
};

/// Requests and answers between nodes.
pub fn messages(bytes: &[u8]) {
    if let Ok(ask) = decode::<Ask>(bytes) {
        let _ = check(&ask, NodeId(1));
    }
    let _ = decode::<Answer>(bytes);
    let _ = decode::<Forwarded>(bytes);
    let _ = decode::<Attempt>(bytes);
    let _ = decode::<SnapshotHeader>(bytes);
    let _ = decode::<SnapshotAnswer>(bytes);
}

/// An entry of the log, as it is stored.
pub fn entry(bytes: &[u8]) {
    let stored = storage::Entry { id: storage::LogId::default(), body: bytes.to_vec().into() };
    if let Ok(entry) = decode_entry(&stored) {
        let again = encode_entry(&entry).expect("what was decoded can be encoded");
        assert_eq!(decode_entry(&again).expect("and decoded"), entry);
    }
}

/// A snapshot's meta data, stored or received.
pub fn snapshot_meta(bytes: &[u8]) {
    if let Ok(meta) = decode_meta(bytes) {
        let again = encode_meta(&meta).expect("what was decoded can be encoded");
        assert_eq!(decode_meta(&again).expect("and decoded"), meta);
    }
}

/// A snapshot on its way from another node.
pub fn snapshot_stream(mut bytes: &[u8]) {
    // All bytes are there: it never waits.
    let _ = snapshot_stream::receive(&mut bytes).now_or_never();
}

#[cfg(test)]
mod tests {
    use pangolin_core::codec::FORMAT;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_bytes_make_a_target_fail(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
            let _entered = runtime.enter();
            let encoded = [&[FORMAT], &bytes[..]].concat();
            for bytes in [&bytes, &encoded] {
                messages(bytes);
                entry(bytes);
                snapshot_meta(bytes);
                snapshot_stream(bytes);
            }
        }
    }
}
