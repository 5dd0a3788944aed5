#!/usr/bin/env bash
# The whole cluster on this host: three nodes, a connector and a backend, as an ordinary user or as root.
# `--check` runs the story without a person and ends with one JSON line; `--help` says what else there is.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! command -v cargo > /dev/null; then
    echo "error: cargo is not installed; see https://rustup.rs" >&2
    exit 1
fi
./scripts/packages.sh

PROFILE="${PANGOLIN_PROFILE:-release}"
folder="$PROFILE"
[[ $PROFILE == dev ]] && folder=debug

# The first build takes minutes, the next ones seconds. Cargo shows how far it is.
echo "building (profile $PROFILE); the first time this takes several minutes"
cargo build --locked --profile "$PROFILE" --workspace --bins

exec "${CARGO_TARGET_DIR:-target}/$folder/pangolin-chaos" demo "$@"
