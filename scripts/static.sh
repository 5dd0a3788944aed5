#!/usr/bin/env bash
# Builds pangolin-connector as one file that needs nothing else on its host, and tries it in an empty directory.
#
#     static.sh [--profile PROFILE] [--out FILE]
#
#     --profile PROFILE   release (the default), or dist: a little faster to run, several times longer to build
#     --out FILE          where the program goes (default: target/static/pangolin-connector)
#
# It takes a C compiler with the static C library of glibc 2.34 or later (Debian: libc6-dev), in which looking names up
# works without modules. What cannot be tried here says so on a line `skipped: REASON`. The last line is one JSON object;
# its "ok" is true when the program is static and everything that was tried works. The exit status says the same.
set -euo pipefail
cd "$(dirname "$0")/.."

TARGET=x86_64-unknown-linux-gnu
PROGRAM=pangolin-connector
# A name that only the test's own server knows.
NAME=names.static.test
# A directory of its own: the other builds have other flags, and are not to be repeated.
build="${CARGO_TARGET_DIR:-target}/static"
profile=release out="$build/$PROGRAM"
while [[ $# -gt 0 ]]; do
    case "$1" in
        --profile) profile="$2"; shift 2 ;;
        --out) out="$2"; shift 2 ;;
        -h | --help) sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 0 ;;
        *) echo "error: unknown option $1; see --help" >&2; exit 2 ;;
    esac
done
if [[ $(uname -m) != x86_64 ]]; then
    echo "error: this host is no x86_64" >&2
    exit 2
fi

mkdir -p "$build"
build="$(cd "$build" && pwd)"
cc -O2 -c scripts/static/names.c -o "$build/names.o"
# Randomness comes from the kernel's call. Otherwise that is looked for among the symbols of shared libraries, of which there
# are none, and then taken from /dev, which is not there either in an empty directory.
flags="-C target-feature=+crt-static -C link-arg=$build/names.o --cfg=getrandom_backend=\"linux_getrandom\""
# With --target, the flags are for the program and not for what runs while it is built.
RUSTFLAGS="$flags" CARGO_TARGET_DIR="$build" \
    cargo build --locked --profile "$profile" --target "$TARGET" -p "$PROGRAM" --bin "$PROGRAM"
mkdir -p "$(dirname "$out")"
# Of what is there for debuggers, only the names stay that a panic is told with.
strip --strip-debug -o "$out.new" "$build/$TARGET/$profile/$PROGRAM"
mv "$out.new" "$out"

failed=()
tried=()
# check NAME WANTED TEXT: whether the text has what is wanted.
check() {
    tried+=("\"$1\"")
    if grep -q -- "$2" <<< "$3"; then
        echo "ok: $1"
    else
        echo "FAILED: $1; wanted: $2; got:"
        echo "$3"
        failed+=("\"$1\"")
    fi
}

if command -v file > /dev/null; then
    check file 'static-pie linked\|statically linked' "$(file "$out")"
else
    echo "skipped: file is not installed"
fi
check ldd 'statically linked\|not a dynamic executable' "$(ldd "$out" 2>&1 || true)"

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
root="$work/root"
# inside ARGUMENTS...: what the program says in the directory, where it sees neither the host's files nor its network. The
# server for names runs beside it where there is a configuration for it.
inside() {
    timeout 120 unshare --net bash -c '
        work="$1"
        ip link set lo up
        if [[ -e $work/nsd.conf ]]; then
            PATH="$PATH:/usr/sbin" nsd -d -c "$work/nsd.conf" 2> "$work/nsd.log" &
            server=$!
            # Port 53, and no connection, in what the kernel lists.
            for ((i = 0; i < 200; i++)); do
                grep -q "0100007F:0035 00000000:0000" /proc/net/udp && break
                sleep 0.1
            done
        fi
        chroot "$work/root" "${@:2}" 2>&1
        [[ -z ${server:-} ]] || { kill "$server"; wait "$server"; }
    ' inside "$work" "/$PROGRAM" "$@" || true
}
if [[ $EUID -ne 0 ]] || ! unshare --net true 2> /dev/null; then
    echo "skipped: an empty directory as root takes root, and network namespaces"
else
    mkdir "$root"
    cp "$out" "$root/$PROGRAM"
    check version "^$PROGRAM " "$(inside --version)"
    check help '--endpoint' "$(inside --help)"
    # Port 1 answers nobody: what is said tells whether the name was found.
    install -m 600 /dev/stdin "$root/secret" <<< "a secret that is long enough for anybody"
    doctor=(--id none --secret-file /secret --endpoint "https://$NAME:1" doctor)
    found="port 1 of $NAME does not answer (Connection refused"
    check 'no name without DNS' "port 1 of $NAME does not answer (failed to lookup" "$(inside "${doctor[@]}")"
    mkdir "$root/etc"
    # Of modules that are not there.
    echo 'hosts: resolve [UNAVAIL=return]' > "$root/etc/nsswitch.conf"
    echo "127.0.0.1 $NAME" > "$root/etc/hosts"
    check 'names of /etc/hosts' "$found" "$(inside "${doctor[@]}")"
    rm "$root/etc/hosts"
    if PATH="$PATH:/usr/sbin" command -v nsd > /dev/null; then
        echo 'nameserver 127.0.0.1' > "$root/etc/resolv.conf"
        cat > "$work/zone" <<END
$NAME. 60 SOA $NAME. $NAME. 1 60 60 60 60
$NAME. 60 NS $NAME.
$NAME. 60 A 127.0.0.1
END
        cat > "$work/nsd.conf" <<END
server:
    ip-address: 127.0.0.1
    server-count: 1
    username: ""
    chroot: ""
    database: ""
    pidfile: "$work/pid"
    xfrdfile: "$work/xfrd"
    zonelistfile: "$work/zones"
    xfrdir: "$work"
remote-control:
    control-enable: no
zone:
    name: "$NAME"
    zonefile: "$work/zone"
END
        check 'names by DNS' "$found" "$(inside "${doctor[@]}")"
        [[ " ${failed[*]:-} " != *"names by DNS"* ]] || cat "$work/nsd.log"
    else
        echo "skipped: nsd is not installed, whom the name would be asked of"
    fi
fi

ok=true
[[ ${#failed[@]} -eq 0 ]] || ok=false
list() { local IFS=,; echo "[$*]"; }
echo "{\"program\":\"$out\",\"bytes\":$(stat -c %s "$out"),\"tried\":$(list "${tried[@]}"),\"failed\":$(list "${failed[@]}"),\"ok\":$ok}"
[[ $ok == true ]]
