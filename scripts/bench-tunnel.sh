#!/usr/bin/env bash
# What a tunnel carries and what it costs, between two hosts in network namespaces (root), beside wireguard-go of Debian at
# both ends and beside no tunnel; new connections per second; 5,000 sites on a node. Arguments go to `pangolin-bench tunnel`
# (`--help` says which; `--quick` is a short run). The last line is JSON; it ends with "ok".
set -euo pipefail
cd "$(dirname "$0")/.."

PROFILE="${PANGOLIN_PROFILE:-release}"
cargo build --locked --profile "$PROFILE" --workspace --bins >&2
exec "${CARGO_TARGET_DIR:-target}/$PROFILE/pangolin-bench" tunnel "$@"
