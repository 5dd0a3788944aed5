#!/bin/sh
# The compiler for scripts/next.sh.
exec "$@" --cfg pangolin_next
