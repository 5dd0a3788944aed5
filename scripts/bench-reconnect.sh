#!/usr/bin/env bash
# That sites come back, on clusters in network namespaces (root). The last line is JSON; it ends with "ok".
#   scripts/bench-reconnect.sh [--cycles N] [--labs N]   restarts of nodes, losses of a site's network, changes of its
#                                                        address, in turn: 1,000 on 4 clusters at once take half an hour
#   scripts/bench-reconnect.sh storm [--sites N] [--tunnels N]
#                                                        2,000 sites lose their node, and their links, at once
set -euo pipefail
cd "$(dirname "$0")/.."

VERB=reconnect
if [[ "${1:-}" == storm ]]; then
    VERB=storm
    shift
fi
PROFILE="${PANGOLIN_PROFILE:-release}"
cargo build --locked --profile "$PROFILE" --workspace --bins >&2
exec "${CARGO_TARGET_DIR:-target}/$PROFILE/pangolin-bench" "$VERB" "$@"
