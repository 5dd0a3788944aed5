#!/usr/bin/env bash
# Everything that takes too long for every change. Runs, one after the other and whatever becomes of each:
# 2,000 seeds of the simulator, the planted bugs, 1,000 leader kills under load, the chaos profile "night" (root), and
# the fuzz targets, and the static build of the connector. Takes several hours on two cores.
#
#     night.sh [--quick] [--only PART,PART...] [--out DIR]
#
#     --quick        a tenth of each, to see that it works
#     --only LIST    only these parts: simulator, planted-bugs, kills, night, fuzz, static
#     --out DIR      where logs, histories and reports go (default: target/night)
#
# A part that cannot run here says so on a line `skipped: REASON`. The last line is one JSON object with the result of
# every part; the exit status is 0 only when none failed. Parts in full length are noted in docs/night.json, from which
# docs/night.md is written: there the last result of each part stands, also where they ran on different days.
set -euo pipefail
cd "$(dirname "$0")/.."

seeds=2000 planted=200 kills=1000 minutes=() fuzz=120 out=target/night only=all quick=false
while [[ $# -gt 0 ]]; do
    case "$1" in
        --quick) seeds=200 planted=50 kills=100 minutes=(--minutes 5) fuzz=10 quick=true; shift ;;
        --only) only="$2"; shift 2 ;;
        --out) out="$2"; shift 2 ;;
        -h | --help) sed -n '2,15s/^# \{0,1\}//p' "$0"; exit 0 ;;
        *) echo "error: unknown option $1; see --help" >&2; exit 2 ;;
    esac
done

mkdir -p "$out"
./scripts/packages.sh
echo "--- building (profile release)"
cargo build --locked --release --workspace --bins
chaos="${CARGO_TARGET_DIR:-target}/release/pangolin-chaos"

results=()
failed=0
# part NAME COMMAND...: runs it, keeps what it says, and notes how it ended: 0 true, 2 unknown, anything else false.
part() {
    local name="$1" status=0 began=$SECONDS verdict=false last
    shift
    echo "--- $name: $*"
    "$@" 2>&1 | tee "$out/$name.log" || status=$?
    last="$(tail -n 1 "$out/$name.log")"
    [[ $status -eq 0 ]] && verdict=true
    [[ $status -eq 2 ]] && verdict=unknown
    grep -q '^skipped: ' "$out/$name.log" && verdict=skipped
    [[ $verdict == true || $verdict == skipped ]] || failed=1
    jq -e . > /dev/null 2>&1 <<< "$last" || last=null
    results+=("{\"part\":\"$name\",\"verdict\":\"$verdict\",\"seconds\":$((SECONDS - began)),\"result\":$last}")
}

# skip NAME REASON: notes a part that cannot run here.
skip() {
    echo "skipped: $2"
    results+=("{\"part\":\"$1\",\"verdict\":\"skipped\",\"seconds\":0,\"result\":null}")
}

# wanted PART: whether it was asked for.
wanted() {
    [[ $only == all || ",$only," == *",$1,"* ]]
}

if wanted simulator; then part simulator "$chaos" sim --seeds "$seeds"; fi
if wanted planted-bugs; then part planted-bugs ./scripts/planted-bugs.sh --seeds "$planted"; fi
if wanted kills; then part kills "$chaos" kills --count "$kills" --out "$out/kills.json"; fi
if wanted night; then
    if [[ $EUID -eq 0 ]]; then
        part night "$chaos" run --profile night "${minutes[@]}" --out "$out/report"
    else
        skip night "the chaos profile night needs root"
    fi
fi
if wanted fuzz; then
    if command -v cargo-fuzz > /dev/null; then
        part fuzz ./scripts/fuzz.sh "$fuzz"
    else
        skip fuzz "cargo-fuzz is not installed"
    fi
fi
if wanted static; then part static ./scripts/static.sh; fi
if [[ ${#results[@]} -eq 0 ]]; then
    echo "error: no part is called $only; see --help" >&2
    exit 2
fi

joined="$(IFS=,; echo "${results[*]}")"
result="{\"commit\":\"$(git rev-parse --short HEAD)\",\"at\":\"$(date -u +%F)\",\"quick\":$quick,\"parts\":[$joined]}"
if [[ $quick == false ]]; then
    [[ -s docs/night.json ]] || echo '{}' > docs/night.json
    jq --argjson run "$result" '
        reduce ($run.parts[] | select(.verdict != "skipped")) as $part (.;
            .[$part.part] = ($part | del(.part) + {commit: $run.commit, at: $run.at}))
    ' docs/night.json > "$out/night.json"
    cp "$out/night.json" docs/night.json
    jq -r '
        "# Last night\n\nThe last result of each part of `scripts/night.sh`, which writes this page. What was found:\n[chaos-results.md](chaos-results.md).\n\n"
            + "| part | verdict | took | commit | figures |\n|---|---|---:|---|---|",
        (to_entries[] | .key as $part | .value | "| \($part) | \(.verdict) | \(.seconds) s | \(.commit), \(.at) | "
            + ([.result // {} | paths(scalars) as $at | select(getpath($at) != null and ($at | length) < 3)
                | "\($at | map(tostring) | join(".")) \(getpath($at))"] | join(", ") | gsub("\\|"; "/")) + " |")
    ' docs/night.json > docs/night.md
    echo "page: docs/night.md"
fi
echo "$result" | tee "$out/result.json"
exit "$failed"
