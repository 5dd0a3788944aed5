#!/usr/bin/env bash
# What an idle node costs: three nodes with a site, untouched for a while; memory and CPU of each from /proc. Then what a
# witness takes beside two data nodes that are written to for the same time.
# Release build. The last line is JSON: {"rss_mb_max":…,"cpu_percent_max":…,"witness_rss_mb":…,"witness_rss_mb_max":…,
# "seconds":…,"ok":…}.
# How it is measured: VmRSS of /proc/PID/status at the end, and user + system ticks of /proc/PID/stat over the time.
set -euo pipefail
cd "$(dirname "$0")/.."

SECONDS_IDLE="${1:-60}"
RSS_MB_MAX=64
CPU_PERCENT_MAX=1

log="$(mktemp)"
fifo="$(mktemp -u)"
mkfifo "$fifo"
demo=
cleanup() {
    [[ -n $demo ]] && kill -TERM "$demo" 2> /dev/null && wait "$demo" 2> /dev/null
    rm -f "$log" "$fifo"
}
trap cleanup EXIT

./scripts/demo.sh --log warn < "$fifo" > "$log" 2>&1 &
demo=$!
# Keeps the demo's keyboard open.
exec 9> "$fifo"
for ((i = 0; i < 1800; i++)); do
    grep -q 'leaves nothing behind' "$log" && break
    if ! kill -0 "$demo" 2> /dev/null; then
        cat "$log" >&2
        exit 1
    fi
    sleep 1
done

# demo.sh has become pangolin-chaos by exec; the nodes are its children.
mapfile -t nodes < <(pgrep -P "$demo" -x pangolind)
if [[ ${#nodes[@]} -eq 0 ]]; then
    echo "error: no nodes run" >&2
    cat "$log" >&2
    exit 1
fi

ticks() { awk '{ sub(/^.*\) /, ""); print $12 + $13 }' "/proc/$1/stat"; }
hertz="$(getconf CLK_TCK)"
# What follows the start (joining, first certificates) is not idling.
sleep 10
declare -A before
for pid in "${nodes[@]}"; do before[$pid]="$(ticks "$pid")"; done
sleep "$SECONDS_IDLE"

rss_max=0
cpu_max=0
for pid in "${nodes[@]}"; do
    rss="$(awk '/^VmRSS/ { printf "%.1f", $2 / 1024 }' "/proc/$pid/status")"
    cpu="$(awk -v d="$(($(ticks "$pid") - before[$pid]))" -v h="$hertz" -v s="$SECONDS_IDLE" \
        'BEGIN { printf "%.2f", 100 * d / h / s }')"
    threads="$(awk '/^Threads/ { print $2 }' "/proc/$pid/status")"
    echo "pid $pid: rss $rss MB, cpu $cpu % of a core, $threads threads"
    rss_max="$(awk -v a="$rss_max" -v b="$rss" 'BEGIN { print (a > b ? a : b) }')"
    cpu_max="$(awk -v a="$cpu_max" -v b="$cpu" 'BEGIN { print (a > b ? a : b) }')"
done
# The demo takes no processor from the witness.
kill -TERM "$demo" && wait "$demo" 2> /dev/null || true
demo=
bench="${CARGO_TARGET_DIR:-target}/${PANGOLIN_PROFILE:-release}/pangolin-bench"
# A witness that takes too much says so with its exit status; the figures are judged below.
witness="$("$bench" witness --seconds "$SECONDS_IDLE" | tail -n 1)" || true
witness_rss="$(sed -n 's/.*"rss_mb":\([0-9.]*\).*/\1/p' <<< "$witness")"
witness_max="$(sed -n 's/.*"rss_mb_max":\([0-9.]*\).*/\1/p' <<< "$witness")"
if [[ -z $witness_rss || -z $witness_max ]]; then
    echo "error: the witness was not measured: $witness" >&2
    exit 1
fi
echo "witness: rss $witness_rss MB, at most $witness_max MB"

ok="$(awk -v r="$rss_max" -v c="$cpu_max" -v rm="$RSS_MB_MAX" -v cm="$CPU_PERCENT_MAX" -v w="$witness_rss" -v wm="$witness_max" \
    'BEGIN { print (r < rm && c < cm && w <= wm ? "true" : "false") }')"
echo "{\"rss_mb_max\":$rss_max,\"cpu_percent_max\":$cpu_max,\"witness_rss_mb\":$witness_rss,\"witness_rss_mb_max\":$witness_max,\"seconds\":$SECONDS_IDLE,\"ok\":$ok}"
[[ $ok == true ]]
