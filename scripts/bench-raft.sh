#!/usr/bin/env bash
# Linearizable writes, linearizable reads and memory of a Raft group of three and of three whole nodes on this host, beside
# three etcd of Debian's etcd-server in the same run: interleaved rounds, values of 256 bytes, every write durable.
# Arguments go to `pangolin-bench raft` (`--help` says which). The last line is JSON; it ends with "ok".
set -euo pipefail
cd "$(dirname "$0")/.."

wanted=true
[[ " $* " == *" --etcd"* ]] && wanted=false
[[ " $* " == *" --systems"* && " $* " != *etcd* ]] && wanted=false
if [[ $wanted == true ]] && ! command -v etcd > /dev/null; then
    if [[ $(id -u) != 0 ]]; then
        echo "error: etcd is not installed: apt-get install etcd-server, or give --etcd PATH" >&2
        exit 1
    fi
    # The package starts a service of its own, which would be a fourth etcd.
    systemctl mask etcd.service > /dev/null 2>&1 || true
    apt-get install -y --no-install-recommends etcd-server
fi

PROFILE="${PANGOLIN_PROFILE:-release}"
cargo build --locked --profile "$PROFILE" --workspace --bins >&2
exec "${CARGO_TARGET_DIR:-target}/$PROFILE/pangolin-bench" raft "$@"
