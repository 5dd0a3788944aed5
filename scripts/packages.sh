#!/usr/bin/env bash
# Installs the Debian packages that building, the demo and the tests use, where they are missing. Without root it only
# says what is missing: all of them but the compiler and make have a fallback.
set -euo pipefail

# command:package
NEEDED=(cc:gcc make:make curl:curl dig:dnsutils jq:jq ip:iproute2 nft:nftables ps:procps nsd:nsd unbound:unbound pebble:pebble promtool:prometheus wireguard-go:wireguard-go dnsviz:dnsviz ethtool:ethtool file:file systemd-analyze:systemd)

missing=()
for pair in "${NEEDED[@]}"; do
    PATH="$PATH:/usr/sbin:/sbin" command -v "${pair%%:*}" > /dev/null || missing+=("${pair##*:}")
done
if [[ ${#missing[@]} -eq 0 ]]; then
    exit 0
fi
if [[ $EUID -eq 0 ]] && command -v apt-get > /dev/null; then
    echo "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    if { apt-get install -y -qq --no-install-recommends "${missing[@]}" ||
        { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}"; }; } > /tmp/pangolin-packages.log 2>&1; then
        # The servers are started by the tests, if at all, and are not to run besides.
        for server in nsd unbound prometheus; do
            [[ " ${missing[*]} " != *" $server "* ]] || systemctl disable --now "$server" > /dev/null 2>&1 || true
        done
        exit 0
    fi
    echo "note: apt-get did not install them (see /tmp/pangolin-packages.log); going on without: ${missing[*]}"
else
    echo "note: not installed here: ${missing[*]} (as root: apt-get install ${missing[*]})"
fi
if ! command -v cc > /dev/null || ! command -v make > /dev/null; then
    echo "error: a C compiler and make are needed to build (Debian: apt-get install gcc libc6-dev make)" >&2
    exit 1
fi
