//! What fuzz targets call. Compiled for fuzzing and for tests alone: here every target also runs over random bytes.
//!
//! A target takes any bytes and must come back. What it finds beyond a panic it says with one.

use crate::{
    codec,
    command::Command,
    id::{ClusterId, NodeId, Revision},
    name::{HostName, Slug},
    outcome::Outcome,
    plan::plan,
    state::ClusterState,
};

/// A command, as a log entry and a forwarded proposal hold it.
pub fn command(bytes: &[u8]) {
    if let Ok(command) = codec::decode::<Command>(bytes, codec::COMMAND_MAX) {
        let again = codec::encode(&command).expect("what was decoded can be encoded");
        assert_eq!(codec::decode::<Command>(&again, codec::DECODE_MAX).expect("and decoded"), command);
    }
}

/// An outcome, as an answer of the leader holds it.
pub fn outcome(bytes: &[u8]) {
    let _ = codec::decode::<Outcome>(bytes, codec::COMMAND_MAX);
}

/// A state, as a snapshot holds it. It can be shown, planned from, and stored again.
pub fn state(bytes: &[u8]) {
    if let Ok(state) = ClusterState::decode(bytes) {
        for node in state.nodes().keys() {
            let _ = plan(&state, *node);
        }
        let again = state.encode().expect("what was decoded can be encoded");
        assert_eq!(ClusterState::decode(&again).expect("and decoded"), state);
    }
}

/// A log: commands one after the other, each behind its length in two bytes. Whatever they say, the state can be
/// planned from and stored, and a second node comes to the same one.
pub fn log(mut bytes: &[u8]) {
    let (mut one, mut other) = (ClusterState::default(), ClusterState::default());
    let mut index = 0;
    while let Some((length, rest)) = bytes.split_first_chunk() {
        let (entry, rest) = rest.split_at(usize::from(u16::from_le_bytes(*length)).min(rest.len()));
        bytes = rest;
        index += 1;
        if let Ok(command) = codec::decode::<Command>(entry, codec::COMMAND_MAX) {
            assert_eq!(one.apply(index, &command), other.apply(index, &command));
        }
    }
    for node in one.nodes().keys() {
        let _ = plan(&one, *node);
    }
    let _ = plan(&one, NodeId(u64::MAX));
    let bytes = one.encode().expect("a state can be stored");
    assert_eq!(bytes, other.encode().expect("a state can be stored"));
    assert_eq!(ClusterState::decode(&bytes).expect("and loaded"), one);
}

/// Names and ids in text form: what is read is written the same way.
pub fn names(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(name) = text.parse::<HostName>() {
        assert_eq!(name.to_string().parse(), Ok(name));
    }
    if let Ok(slug) = text.parse::<Slug>() {
        assert_eq!(slug.to_string().parse(), Ok(slug));
    }
    if let Ok(revision) = text.parse::<Revision>() {
        assert_eq!(revision.to_string().parse(), Ok(revision));
    }
    if let Ok(id) = text.parse::<ClusterId>() {
        assert_eq!(id.to_string().parse(), Ok(id));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_bytes_make_a_target_fail(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let encoded = [&[codec::FORMAT], &bytes[..]].concat();
            for bytes in [&bytes, &encoded] {
                command(bytes);
                outcome(bytes);
                state(bytes);
                log(bytes);
                names(bytes);
            }
        }
    }
}
