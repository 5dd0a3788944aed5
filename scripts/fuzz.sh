#!/usr/bin/env bash
# Runs fuzz targets under libFuzzer, one after the other: `scripts/fuzz.sh [SECONDS [TARGET…]]`, by default all of them
# for 60 seconds each. Needs the nightly toolchain, cargo-fuzz and a C++ compiler. The last line is JSON with "ok".
set -euo pipefail
cd "$(dirname "$0")/../fuzz"

seconds="${1:-60}"
shift || true
targets=("$@")
if [[ ${#targets[@]} -eq 0 ]]; then
    mapfile -t targets < <(find fuzz_targets -name '*.rs' -printf '%f\n' | sed 's/\.rs$//' | sort)
fi
if ! command -v cargo-fuzz > /dev/null; then
    echo "error: cargo-fuzz is missing: cargo install --locked cargo-fuzz" >&2
    exit 1
fi

failed=()
for target in "${targets[@]}"; do
    echo "=== $target"
    cargo +nightly fuzz run --release "$target" -- -max_total_time="$seconds" -max_len=8192 -timeout=10 \
        -rss_limit_mb=2048 -print_final_stats=1 2>&1 | tail -n 12 || failed+=("$target")
done
ok=true
[[ ${#failed[@]} -gt 0 ]] && ok=false
echo "{\"targets\":${#targets[@]},\"seconds_each\":$seconds,\"failed\":\"${failed[*]-}\",\"ok\":$ok}"
[[ $ok == true ]]
