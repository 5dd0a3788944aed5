#!/usr/bin/env bash
# What a large state costs on this host: 100,000 resources restored into a running cluster, one survivor of three made a
# cluster, and the cluster made again from backups alone. Arguments go to
# `pangolin-bench restore` (`--help` says which). The last line is JSON; it ends with "ok".
set -euo pipefail
cd "$(dirname "$0")/.."

PROFILE="${PANGOLIN_PROFILE:-release}"
cargo build --locked --profile "$PROFILE" --workspace --bins >&2
exec "${CARGO_TARGET_DIR:-target}/$PROFILE/pangolin-bench" restore "$@"
