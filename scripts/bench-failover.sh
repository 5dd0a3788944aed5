#!/usr/bin/env bash
# How long nothing can be written on three nodes of this host: after kill -9 of the leader, and while the leadership
# is handed over. Then how long visitors are not answered when the node is lost that carries their traffic, killed or cut
# off, in network namespaces (root; `--count 0` leaves it out, `--count 10` is a short run). Arguments go to `pangolin-bench failover` (`--help` says which). The last line is JSON; it ends
# with "ok". `bench-join.sh` is its sister: from the start of a join until the node votes.
set -euo pipefail
cd "$(dirname "$0")/.."

PROFILE="${PANGOLIN_PROFILE:-release}"
cargo build --locked --profile "$PROFILE" --workspace --bins >&2
exec "${CARGO_TARGET_DIR:-target}/$PROFILE/pangolin-bench" failover "$@"
