#!/usr/bin/env bash
# What the decision log costs: answers to `why` when it is full, and each change while it is. Arguments go to
# `pangolin-bench why` (`--help` says which). The last line is JSON; it ends with "ok".
set -euo pipefail
cd "$(dirname "$0")/.."

PROFILE="${PANGOLIN_PROFILE:-release}"
cargo build --locked --profile "$PROFILE" --workspace --bins >&2
exec "${CARGO_TARGET_DIR:-target}/$PROFILE/pangolin-bench" why "$@"
