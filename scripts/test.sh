#!/usr/bin/env bash
# Runs every test: of each crate, and the black-box tests with real processes on loopback addresses.
# The last line is `tests: N passed, N failed, N skipped`; the exit status is 0 only when none failed.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! command -v cargo > /dev/null; then
    echo "error: cargo is not installed; see https://rustup.rs" >&2
    exit 1
fi
./scripts/packages.sh

echo "--- building the next version, for the tests of upgrades"
./scripts/next.sh

echo "--- building"
# The black-box tests start these programs.
cargo build --workspace --bins --locked

echo "--- testing"
log="$(mktemp)"
trap 'rm -f "$log"' EXIT
status=0
# --no-fail-fast: one red crate does not hide the others. --show-output: a test that cannot run here says so on a line
# of its own, `skipped: REASON`, and is counted below.
cargo test --workspace --locked --no-fail-fast -- --show-output 2>&1 | tee "$log" || status=$?

read -r passed failed ignored < <(awk '
    /^test result:/ {
        for (i = 2; i <= NF; i++) {
            if ($i ~ /^passed/) passed += $(i - 1)
            if ($i ~ /^failed/) failed += $(i - 1)
            if ($i ~ /^ignored/) ignored += $(i - 1)
        }
    }
    END { print passed + 0, failed + 0, ignored + 0 }' "$log")
said="$(grep -c '^skipped: ' "$log" || true)"
grep '^skipped: ' "$log" | sort | uniq -c || true
if [[ $status -ne 0 && $failed -eq 0 ]]; then
    echo "error: cargo test failed before or outside a test; see above" >&2
    failed=1
fi
if [[ $passed -eq 0 ]]; then
    echo "error: no test has run" >&2
    failed=$((failed + 1))
fi
echo "tests: $((passed - said)) passed, $failed failed, $((ignored + said)) skipped"
[[ $failed -eq 0 ]]
