#!/bin/sh
# What becomes of a name of the outside that con's dnsmasq is asked for, at each of its addresses, over
# UDP and TCP: the same, whatever way.
set -eu
for server in "$CON_VLAN_ADDR" "$CON_LAB_ADDR"; do
	for tcp in +notcp +tcp; do
		got=$(dig +short +time=3 +tries=1 "$tcp" "@$server" "$OUTSIDE_NAME" || true)
		if printf '%s\n' "$got" | grep -qE '^[0-9.]+$'; then
			echo allowed
		elif [ -z "$got" ]; then
			echo refused
		else
			echo "no answer" # dig says so on stdout, too
		fi
	done
done | sort -u
