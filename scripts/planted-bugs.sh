#!/usr/bin/env bash
# Shows that the simulator finds what it is there to find: builds it with planted bugs, lets each loose by itself, and
# runs seeds until one breaks an invariant. Takes long to build the first time, into target/planted.
#
#     planted-bugs.sh [--seeds N]     at most N seeds for each bug (default 200)
#
# The last line is one JSON object; the exit status is 0 only when every bug was caught.
set -euo pipefail
cd "$(dirname "$0")/.."

seeds=200
while [[ $# -gt 0 ]]; do
    case "$1" in
        --seeds) seeds="$2"; shift 2 ;;
        -h | --help) sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 0 ;;
        *) echo "error: unknown option $1; see --help" >&2; exit 2 ;;
    esac
done

bugs=(reply-before-commit vote-not-synced lease-without-bound unfenced-effect dns-uncommitted no-joint-consensus)
target="$PWD/target/planted"
mkdir -p "$target"
# The flag goes to the crates of this workspace alone: all others are built as always.
wrapper="$target/rustc-planted"
cat > "$wrapper" <<'END'
#!/bin/sh
exec "$@" --cfg planted
END
chmod +x "$wrapper"
if [[ ! -d $target/debug && -d target/debug ]]; then
    # What is not of this workspace is the same there.
    cp -al target/debug "$target/debug"
    rm -f "$target/debug/.cargo-lock"
fi
echo "--- building the simulator with planted bugs into $target"
# Of the whole workspace, so that features are unified as everywhere and what is there already fits.
RUSTC_WORKSPACE_WRAPPER="$wrapper" cargo build --locked --workspace --bin pangolin-chaos --target-dir "$target"
program="$target/debug/pangolin-chaos"

out="$target/out"
rm -rf "$out"
found=0
results=""
for bug in "${bugs[@]}"; do
    started=$SECONDS
    status=0
    # One at a time, so that "after how many seeds" means something.
    said="$("$program" sim --planted "$bug" --seeds "$seeds" --jobs 1 --fail-fast --json --out "$out/$bug")" || status=$?
    after="$(sed -n 's/.*"done":\([0-9]*\).*/\1/p' <<< "$said")"
    seed="$(sed -n 's/.*"broken":\[\([0-9]*\).*/\1/p' <<< "$said")"
    caught=false
    if [[ $status -eq 1 && -n $seed ]]; then
        caught=true
        found=$((found + 1))
        echo "$bug: caught after $after seeds (seed $seed, $((SECONDS - started)) s)"
    else
        echo "$bug: NOT caught by $seeds seeds (status $status)"
    fi
    results+="${results:+,}\"$bug\":{\"caught\":$caught,\"seeds\":${after:-0}}"
done
ok=false
[[ $found -eq ${#bugs[@]} ]] && ok=true
echo "{\"planted\":${#bugs[@]},\"caught\":$found,\"bugs\":{$results},\"ok\":$ok}"
[[ $ok == true ]]
