//! What fuzz targets call. Compiled for fuzzing and for tests alone: here every target also runs over random bytes.
//!
//! A target takes any bytes and must come back. What it finds beyond a panic it says with one.

use sha2::Digest as _;

use crate::{
    codec,
    command::{Actor, Body, Cause, ClusterCreated, Command, Fence},
    feature,
    id::{ClusterId, NodeId, Revision},
    name::{HostName, Slug},
    outcome::Outcome,
    plan::plan,
    record::{Authority, Digest, NodeRole, NodeSpec, Sealed, Settings, TunnelKey},
    state::{ClusterState, STAGED_PART_MAX},
    time::Timestamp,
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

/// A catalog of the past that was brought in by parts: whatever it says, it is refused, or becomes a state that can be
/// planned from and stored.
pub fn catalog(bytes: &[u8]) {
    let digest = Digest(sha2::Sha256::digest(bytes).into());
    let mut state = founded();
    let mut index = 1;
    let mut apply = |state: &mut ClusterState, body| {
        index += 1;
        let cause = Cause::new(Actor::Node(NodeId(1)), "restore");
        state.apply(index, &Command { request: None, at: Timestamp(2), cause, fence: Fence::None, body })
    };
    for (part, bytes) in (0..).zip(bytes.chunks(STAGED_PART_MAX)) {
        apply(&mut state, Body::CatalogStaged { catalog: digest, part, bytes: bytes.to_vec() });
    }
    let parts = u32::try_from(bytes.chunks(STAGED_PART_MAX).count()).unwrap_or(u32::MAX);
    let from = Revision { lineage: 1, index: 1 };
    apply(&mut state, Body::CatalogReplaced { catalog: digest, parts, from });
    let _ = plan(&state, NodeId(1));
    let stored = state.encode().expect("a state can be stored");
    assert_eq!(ClusterState::decode(&stored).expect("and loaded"), state);
}

/// The smallest cluster.
fn founded() -> ClusterState {
    let sealed = || Sealed { kek: 1, wrapped_key: vec![], content: vec![] };
    let authority = || Authority { certificate: vec![], key: sealed() };
    let created = ClusterCreated {
        id: ClusterId([1; 16]),
        name: "lab".parse().expect("a name"),
        authority: authority(),
        issuer: authority(),
        settings: Settings {
            zone: "lab.example".parse().expect("a zone"),
            control_host: "control.lab.example".parse().expect("a host"),
            tunnel_network: "100.89.0.0/16".parse().expect("a network"),
            ttl: 30,
        },
        node: NodeId(1),
        spec: NodeSpec {
            name: "n1".parse().expect("a name"),
            role: NodeRole::Data,
            peer_address: ([192, 0, 2, 1], 7420).into(),
            spki: Digest([1; 32]),
            public_addresses: vec![],
            https_port: 443,
            tunnel_endpoint: "192.0.2.1:51820".into(),
            tunnel_key: TunnelKey([1; 32]),
            region: None,
            version: "1".into(),
            feature_level: feature::NEWEST,
        },
    };
    let mut state = ClusterState::default();
    let body = Body::ClusterCreated(Box::new(created));
    let cause = Cause::new(Actor::Node(NodeId(1)), "init");
    state.apply(1, &Command { request: None, at: Timestamp(1), cause, fence: Fence::None, body });
    state
}

/// A message between nodes to which later versions append: what is behind it is left alone, what is missing is nothing.
pub fn grown(bytes: &[u8]) {
    let _ = codec::decode_grown::<(u8, String, Vec<u8>, Option<u64>)>(bytes, codec::COMMAND_MAX);
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
                catalog(bytes);
                grown(bytes);
            }
        }

        #[test]
        fn a_damaged_catalog_makes_no_target_fail(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let (mut bytes, _) = founded().catalog().encode().expect("a catalog");
            let at = at.index(bytes.len());
            bytes[at] = byte;
            catalog(&bytes);
        }
    }
}
