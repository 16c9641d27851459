#!/bin/sh
# What becomes of a name of the outside that the host's own dnsmasq is asked for.
set -eu
got=$(dig +short +time=5 +tries=2 @127.0.0.1 "$OUTSIDE_NAME") || got="no answer"
if [ -z "$got" ]; then
	echo refused
elif printf '%s\n' "$got" | grep -qE '^[0-9.]+$'; then
	echo allowed
else
	echo "$got"
fi
