//! What fuzz targets call: what people write and paste, what this node finds in its own files, and what other nodes
//! and joiners say to it beside the log. Compiled for fuzzing and for tests alone: here every target also runs over
//! random bytes.

use std::path::Path;

use crate::{
    config::Config,
    local::{datagrams, dialer, journal, reports, verbs},
    membership::{self, Invitation},
    state_dir::StateDir,
};

/// A configuration file.
pub fn config(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = Config::parse(text, Path::new("pangolin.toml"));
    }
}

/// An invitation as people paste it.
pub fn invitation(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = text.parse::<Invitation>();
    }
}

/// The identity file of a state directory. `dir` holds a node's other files, or nothing.
///
/// # Errors
/// The file cannot be written.
pub fn identity_file(bytes: &[u8], dir: &Path) -> std::io::Result<()> {
    std::fs::write(dir.join("identity.json"), bytes)?;
    // The node refuses what others might read.
    std::fs::set_permissions(dir.join("identity.json"), std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    let _ = StateDir::new(dir).load();
    Ok(())
}

/// Reports, relay headers, status and admin requests of other nodes, journal entries.
pub fn between_nodes(bytes: &[u8]) {
    reports::fuzz(bytes);
    dialer::fuzz(bytes);
    datagrams::fuzz(bytes);
    verbs::fuzz(bytes);
    journal::fuzz(bytes);
}

/// What a joiner asks, and what it is answered.
pub fn joining(bytes: &[u8]) {
    membership::fuzz(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that look random and are the same in every run (SplitMix64).
    fn noise(seed: u64) -> Vec<u8> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = state;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^ (mixed >> 31)
        };
        let length = next() % 300;
        (0..length).map(|_| next().to_le_bytes()[0]).collect()
    }

    #[test]
    fn no_bytes_make_a_target_fail() {
        let dir = tempfile::tempdir().expect("tempdir");
        let config_begun = "version = 1\n[node]\nname = \"n1\"\n";
        for seed in 0..300 {
            let bytes = noise(seed);
            let text = String::from_utf8_lossy(&bytes).into_owned();
            for bytes in [&bytes[..], text.as_bytes(), format!("{config_begun}{text}").as_bytes()] {
                config(bytes);
                invitation(bytes);
                identity_file(bytes, dir.path()).expect("the file is written");
                between_nodes(bytes);
                joining(bytes);
            }
        }
    }
}
