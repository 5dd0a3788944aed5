#!/usr/bin/env bash
# How soon three nodes on this host answer what was decided. Arguments go to `pangolin-bench decisions` (`--help` says
# which). The last line is JSON; it ends with "ok". `bench-zones.sh` is its sister: with many names and certificates.
set -euo pipefail
cd "$(dirname "$0")/.."

PROFILE="${PANGOLIN_PROFILE:-release}"
cargo build --locked --profile "$PROFILE" --workspace --bins >&2
exec "${CARGO_TARGET_DIR:-target}/$PROFILE/pangolin-bench" decisions "$@"
