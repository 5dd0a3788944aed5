#!/usr/bin/env bash
# How long it takes from the start of a join until the new nodes vote, on this host. Arguments go to
# `pangolin-bench join` (`--help` says which). The last line is JSON; it ends with "ok".
set -euo pipefail
cd "$(dirname "$0")/.."

PROFILE="${PANGOLIN_PROFILE:-release}"
cargo build --locked --profile "$PROFILE" --workspace --bins >&2
exec "${CARGO_TARGET_DIR:-target}/$PROFILE/pangolin-bench" join "$@"
