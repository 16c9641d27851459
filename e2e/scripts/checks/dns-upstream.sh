#!/bin/sh
# A name of the outside, asked of the host's own dnsmasq.
set -eu
# dig says on stdout, too, that nobody answered.
if dig +short +time=5 +tries=2 @127.0.0.1 "$OUTSIDE_NAME" | grep -qE '^[0-9.]+$'; then echo answers; else echo "no answer"; fi
