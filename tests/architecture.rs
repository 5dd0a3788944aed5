//! The arrows of the house: which crate may use which, and which crate is the one door to which engine.
//!
//! ARCHITECTURE.md draws the same picture. A new arrow or a second door is a decision: it is made there first.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};

/// Who may use whom inside the workspace. The node and the crates of the harness may use everything.
const ARROWS: &[(&str, &[&str])] = &[
    ("pangolin-core", &[]),
    ("pangolin-wire", &["pangolin-core"]),
    ("pangolin-peer", &["pangolin-core"]),
    ("pangolin-storage", &["pangolin-core", "pangolin-peer"]),
    ("pangolin-raft", &["pangolin-core", "pangolin-peer", "pangolin-storage"]),
    ("pangolin-dns", &["pangolin-core"]),
    ("pangolin-tunnel", &["pangolin-core", "pangolin-peer"]),
    ("pangolin-edge", &["pangolin-core", "pangolin-peer"]),
    ("pangolin-acme", &["pangolin-wire"]),
    ("pangolin-api", &["pangolin-core", "pangolin-wire", "pangolin-storage", "pangolin-raft"]),
    ("pangolin-connector", &["pangolin-core", "pangolin-wire", "pangolin-tunnel"]),
    ("pangolinctl", &["pangolin-core", "pangolin-wire"]),
    // The harness sees real clusters only from outside: what it says to them, any client may say. Its simulator builds
    // nodes of the parts that the node is built of.
    (
        "pangolin-chaos",
        &["pangolin-core", "pangolin-wire", "pangolin-peer", "pangolin-storage", "pangolin-raft"],
    ),
    (
        "pangolin-benches",
        &[
            "pangolin-core",
            "pangolin-dns",
            "pangolin-peer",
            "pangolin-storage",
            "pangolin-raft",
            "pangolin-tunnel",
            "pangolin-wire",
            "pangolin-connector",
            "pangolin-chaos",
        ],
    ),
];

/// The crate that puts the parts together.
const NODE: &str = "pangolin-node";

/// Each engine and the one crate that is its door.
const DOORS: &[(&str, &str)] = &[
    ("openraft", "pangolin-raft"),
    ("sled", "pangolin-storage"),
    ("bincode", "pangolin-core"),
    ("imbl", "pangolin-core"),
    ("yamux", "pangolin-peer"),
    ("rcgen", "pangolin-peer"),
    ("x509-parser", "pangolin-peer"),
    ("domain", "pangolin-dns"),
    ("maxminddb", "pangolin-dns"),
    ("prometheus", "pangolin-node"),
    ("gotatun", "pangolin-tunnel"),
    ("defguard_wireguard_rs", "pangolin-tunnel"),
    ("smoltcp", "pangolin-tunnel"),
    ("x25519-dalek", "pangolin-tunnel"),
    ("warp", "pangolin-api"),
    ("rustls-acme", "pangolin-acme"),
    ("tokio-postgres", "pangolin-storage"),
    ("redis", "pangolin-storage"),
];

fn workspace() -> (Metadata, BTreeMap<String, Package>) {
    let metadata = MetadataCommand::new().no_deps().exec().expect("cargo metadata");
    let packages =
        metadata.workspace_packages().into_iter().map(|p| (p.name.to_string(), p.clone())).collect();
    (metadata, packages)
}

/// What a package needs to be built; what only its tests need says nothing about the house.
fn needs(package: &Package) -> BTreeSet<&str> {
    let dependencies = package.dependencies.iter();
    dependencies.filter(|d| d.kind != DependencyKind::Development).map(|d| d.name.as_str()).collect()
}

#[test]
fn every_arrow_between_crates_is_drawn() {
    let (_, packages) = workspace();
    let drawn: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    let mut wrong = Vec::new();
    for (name, package) in packages.iter().filter(|(name, _)| *name != NODE) {
        let Some(allowed) = drawn.get(name.as_str()) else {
            wrong.push(format!("{name} has no place in the picture"));
            continue;
        };
        for other in needs(package) {
            if packages.contains_key(other) && !allowed.contains(&other) {
                wrong.push(format!("{name} -> {other} is not an arrow"));
            }
        }
    }
    assert!(wrong.is_empty(), "see ARCHITECTURE.md, \"The arrows\":\n{}", wrong.join("\n"));
}

#[test]
fn every_crate_of_the_picture_exists() {
    let (_, packages) = workspace();
    let gone: Vec<&str> =
        ARROWS.iter().map(|(name, _)| *name).filter(|name| !packages.contains_key(*name)).collect();
    assert!(gone.is_empty(), "in the picture of tests/architecture.rs, but not in the workspace: {gone:?}");
}

#[test]
fn each_engine_has_one_door() {
    let (_, packages) = workspace();
    let mut wrong = Vec::new();
    for (engine, door) in DOORS {
        for (name, package) in packages.iter().filter(|(name, _)| name != door) {
            if needs(package).contains(engine) {
                wrong.push(format!("{name} names {engine}, whose one door is {door}"));
            }
        }
    }
    assert!(wrong.is_empty(), "see ARCHITECTURE.md, \"One door per engine\":\n{}", wrong.join("\n"));
}

#[test]
fn every_version_is_stated_once_in_the_root_manifest() {
    let (metadata, packages) = workspace();
    let mut wrong = Vec::new();
    for (name, package) in &packages {
        let manifest = std::fs::read_to_string(&package.manifest_path).expect("a manifest");
        let table: toml::Table = manifest.parse().expect("TOML");
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let entries = table.get(section).and_then(toml::Value::as_table).into_iter().flatten();
            for (dependency, value) in entries {
                if value.get("workspace").and_then(toml::Value::as_bool) != Some(true) {
                    wrong.push(format!("{name}: {dependency}"));
                }
            }
        }
    }
    let root = metadata.workspace_root.join("Cargo.toml");
    assert!(
        wrong.is_empty(),
        "state the version in [workspace.dependencies] of {root}:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn every_crate_takes_the_lints_of_the_house() {
    let (_, packages) = workspace();
    for (name, package) in &packages {
        let manifest = std::fs::read_to_string(&package.manifest_path).expect("a manifest");
        let table: toml::Table = manifest.parse().expect("TOML");
        let taken = table.get("lints").and_then(|l| l.get("workspace")).and_then(toml::Value::as_bool);
        assert_eq!(taken, Some(true), "{name} has no `[lints] workspace = true`");
    }
}
