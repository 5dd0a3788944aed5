#!/usr/bin/env bash
# Builds target/next/pangolind: this version made to look like the next one, with a newer protocol version, a higher
# feature level, a new command and a new part of the state (everything under `cfg(pangolin_next)`). Rolling upgrades are
# tested from this version to that one (tests/upgrade.rs). Only the workspace's own crates are built anew.
set -euo pipefail
cd "$(dirname "$0")/.."

target="${CARGO_TARGET_DIR:-target}"
mkdir -p "$target/next"
# Cargo keeps what a wrapper has built apart from the rest; the program itself is put in the same place, hence the copy.
RUSTC_WORKSPACE_WRAPPER="$PWD/scripts/next-rustc.sh" cargo build --workspace --locked --bin pangolind
cp "$target/debug/pangolind" "$target/next/pangolind.new"
mv "$target/next/pangolind.new" "$target/next/pangolind"
cargo build --workspace --locked --bin pangolind
