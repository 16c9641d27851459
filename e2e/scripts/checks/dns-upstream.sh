#!/bin/sh
# A name of the outside, asked of the host's own dnsmasq.
set -eu
got=$(dig +short +time=5 +tries=2 @127.0.0.1 "$OUTSIDE_NAME" || true)
if [ -n "$got" ]; then echo answers; else echo "no answer"; fi
