//! The state's encoded form: one section for each of its parts that is not empty, under the feature level that the
//! cluster is committed to.
//!
//! Architecture invariant: tags are never used again, and the content of a section never changes its form. What a
//! later version adds gets a section of its own, which is empty, and so absent, until the feature level includes it:
//! that is why nodes of two versions write, read and compare the same bytes.

use super::ClusterState;
use crate::codec::{self, CodecError, SectionsReader, SectionsWriter};

macro_rules! sections {
    ($($(#[$attribute:meta])* $tag:literal $part:ident)*) => {
        pub(super) fn encode(state: &ClusterState) -> Result<Vec<u8>, CodecError> {
            // Names every part: one that has no section yet does not compile.
            let ClusterState { index: _, $($(#[$attribute])* $part),* } = state;
            let mut writer = SectionsWriter::new(state.feature_level);
            $($(#[$attribute])* if *$part != Default::default() {
                writer.put($tag, $part)?;
            })*
            writer.finish()
        }

        pub(super) fn decode(bytes: &[u8]) -> Result<ClusterState, CodecError> {
            let mut state = ClusterState::default();
            let mut reader = SectionsReader::new(bytes)?;
            while let Some((tag, content)) = reader.next_section()? {
                match tag {
                    $($(#[$attribute])* $tag => state.$part = codec::decode_section(content)?,)*
                    unknown => return Err(CodecError::Section(unknown)),
                }
            }
            state.index_anew();
            Ok(state)
        }
    };
}

sections! {
    1 revision
    2 time
    3 sequence
    4 cluster
    5 settings
    6 leadership
    7 nodes
    8 tokens
    9 orgs
    10 users
    11 roles
    12 api_keys
    13 sites
    14 domains
    15 resources
    16 targets
    17 record_sets
    18 placements
    19 connectors
    20 certificates
    21 requests
    22 feature_level
    23 upgrade
    24 recovery
    25 epoch_floor
    26 staged
    27 autopilot
    28 decisions
    29 dns
    30 issuance
    31 keys
    33 traffic
    34 rollovers
    36 fabric
    #[cfg(pangolin_next)]
    200 notes
}
