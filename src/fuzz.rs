//! What fuzz targets call: what people write and paste, what this node finds in its own files, and what other nodes
//! and joiners say to it beside the log. Compiled for fuzzing and for tests alone: here every target also runs over
//! random bytes.

use std::{
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::LazyLock,
    time::{Duration, SystemTime},
};

use pangolin_core::{ClusterId, NodeId, plan::PeerPlan};
use pangolin_peer::identity::{AuthorityKey, Keyring, NodeIdentity, NodeKey};

use crate::{
    config::Config,
    local::{datagrams, dialer, journal, keyring, reports, txt, verbs},
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

/// A node's own files, with the others as they should be.
struct Files {
    key: NodeKey,
    identity: NodeIdentity,
    keyring: Keyring,
}

static FILES: LazyLock<Files> = LazyLock::new(|| {
    let (cluster, node) = (ClusterId([1; 16]), NodeId(7));
    let key = NodeKey::generate().expect("a key");
    let authority = AuthorityKey::create("fuzz").expect("an authority");
    let request = key.csr_der().expect("a request");
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let certificate = authority.sign_node(&request, cluster, node, now).expect("a certificate");
    let authority = authority.certificate().to_vec();
    let identity = NodeIdentity { cluster, lineage: 1, node, authority, certificate, key: key.clone() };
    Files { key, identity, keyring: Keyring::create().expect("a keyring") }
});

/// The other files of a state directory, one at a time, beside good ones. `dir` is this target's own.
///
/// # Errors
/// A file cannot be written.
pub fn state_files(bytes: &[u8], dir: &Path) -> std::io::Result<()> {
    let write = |name: &str, bytes: &[u8]| {
        let path = dir.join(name);
        std::fs::write(&path, bytes)?;
        // The node refuses what others might read.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))
    };
    let Files { key, identity, keyring } = &*FILES;
    let state_dir = StateDir::new(dir);
    let other = std::io::Error::other;
    for name in ["node.key", "tunnel.key", "keyring", "recovery.pub", "begun", "diverged", "recovering"] {
        write("node.key", &key.to_pkcs8())?;
        state_dir.store(identity, &PeerPlan::default(), Some(keyring), None).map_err(other)?;
        write(name, bytes)?;
        let _ = state_dir.load();
        let _ = state_dir.need_empty();
        let _ = state_dir.recovery();
        let _ = state_dir.check_log(identity.node);
        let _ = state_dir.check_agreement(identity.node);
        let _ = membership::finish_recovery(&state_dir);
        let path = dir.join(name);
        if path.exists() {
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// Reports, relay headers and answers, datagrams, status and admin requests of other nodes, names of proofs, keys,
/// journal entries.
pub fn between_nodes(bytes: &[u8]) {
    reports::fuzz(bytes);
    dialer::fuzz(bytes);
    datagrams::fuzz(bytes);
    verbs::fuzz(bytes);
    journal::fuzz(bytes);
    keyring::fuzz(bytes);
    txt::fuzz(bytes);
}

/// What a joiner asks, and what it is answered; the mark of a recovery.
pub fn joining(bytes: &[u8]) {
    membership::fuzz(bytes);
}

#[cfg(test)]
mod tests {
    use pangolin_core::codec;

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
        for seed in 0..20 {
            let dir = tempfile::tempdir().expect("tempdir");
            let bytes = noise(seed);
            state_files(&bytes, dir.path()).expect("the files are written");
            state_files(&bytes[..bytes.len().min(32)], dir.path()).expect("the files are written");
        }
        for seed in 0..300 {
            let bytes = noise(seed);
            let text = String::from_utf8_lossy(&bytes).into_owned();
            for bytes in [&bytes[..], text.as_bytes(), format!("{config_begun}{text}").as_bytes()] {
                config(bytes);
                invitation(bytes);
                identity_file(bytes, dir.path()).expect("the file is written");
                between_nodes(bytes);
                joining(bytes);
                between_nodes(&[&[codec::FORMAT], bytes].concat());
            }
        }
    }
}
