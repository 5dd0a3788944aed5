#!/usr/bin/env bash
# CPU, rate and waiting times of DNS answers beside NSD, Knot and gdnsd of Debian in the same run: one thread each on core 0,
# the questions from core 1, interleaved rounds, the same zone of 10,000 names. Arguments go to `pangolin-bench dns`
# (`--help` says which). The last line is JSON; it ends with "ok".
set -euo pipefail
cd "$(dirname "$0")/.."

# command:package
RIVALS=(nsd:nsd knotd:knot gdnsd:gdnsd)
if [[ " $* " != *" --systems"* ]]; then
    missing=()
    for pair in "${RIVALS[@]}"; do
        PATH="$PATH:/usr/sbin:/sbin" command -v "${pair%%:*}" > /dev/null || missing+=("${pair##*:}")
    done
    if [[ ${#missing[@]} -gt 0 ]]; then
        if [[ $(id -u) != 0 ]]; then
            echo "error: not installed: ${missing[*]}; apt-get install them, or choose with --systems" >&2
            exit 1
        fi
        # The packages start services of their own, which would take part unasked.
        systemctl mask nsd.service knot.service gdnsd.service > /dev/null 2>&1 || true
        apt-get install -y --no-install-recommends "${missing[@]}"
    fi
fi

PROFILE="${PANGOLIN_PROFILE:-release}"
cargo build --locked --profile "$PROFILE" --workspace --bins >&2
exec taskset -c 1 "${CARGO_TARGET_DIR:-target}/$PROFILE/pangolin-bench" dns "$@"
