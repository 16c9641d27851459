#!/bin/sh
# The source that the clock follows, and the interface that leads to it.
set -eu
chronyc waitsync 15 0 0 1 >/dev/null || true # the first answers take seconds after a start
source=$(chronyc -c -n sources | grep -F '^,*,' | cut -d, -f3 || true)
via=$(ip -4 route get "$NTP_SERVER" | sed -n -E 's/.* dev ([^ ]+).*/\1/p')
echo "${source:-none} via ${via:-nothing}"
