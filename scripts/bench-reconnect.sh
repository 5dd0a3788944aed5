#!/usr/bin/env bash
# That a site comes back: after restarts of nodes, after its network was away, after a change of its address, in turn on one
# cluster in network namespaces (root). 1,000 cycles take some two hours: `--cycles 60` is a short run. Arguments go to
# `pangolin-bench reconnect`. The last line is JSON; it ends with "ok".
set -euo pipefail
cd "$(dirname "$0")/.."

PROFILE="${PANGOLIN_PROFILE:-release}"
cargo build --locked --profile "$PROFILE" --workspace --bins >&2
exec "${CARGO_TARGET_DIR:-target}/$PROFILE/pangolin-bench" reconnect "$@"
