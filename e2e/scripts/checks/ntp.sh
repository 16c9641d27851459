#!/bin/sh
# The source that the clock follows, and the interface that leads to it.
set -eu
timeout 15 chronyc waitsync 0 0 0 1 >/dev/null || true # the first answers take seconds after a start
sources=$(chronyc -c -n sources) || sources=
source=$(printf '%s\n' "$sources" | sed -n 's/^\^,\*,\([^,]*\),.*/\1/p')
via=$(ip -4 route get "$NTP_SERVER") || via=
via=$(printf '%s\n' "$via" | sed -n -E '1s/.* dev ([^ ]+).*/\1/p')
echo "${source:-none} via ${via:-nothing}"
