#!/usr/bin/env bash
# 10,000 names and 1,000 certificates on three nodes of this host: how soon a change is served then, and the memory of a
# node. Arguments go to `pangolin-bench zones` (`--help` says which). The last line is JSON; it ends with "ok".
set -euo pipefail
cd "$(dirname "$0")/.."

PROFILE="${PANGOLIN_PROFILE:-release}"
cargo build --locked --profile "$PROFILE" --workspace --bins >&2
exec "${CARGO_TARGET_DIR:-target}/$PROFILE/pangolin-bench" zones "$@"
