#!/bin/sh
# What becomes of a name of the outside that the host's own dnsmasq is asked for.
set -eu
got=$(dig +short +time=5 +tries=2 @127.0.0.1 "$OUTSIDE_NAME" || true)
if printf '%s\n' "$got" | grep -qE '^[0-9.]+$'; then
	echo allowed
elif [ -z "$got" ]; then
	echo refused
else
	echo "no answer" # dig says so on stdout, too
fi
