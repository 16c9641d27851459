#!/bin/sh
# What becomes of a name of the outside that con's dnsmasq is asked for, at each of its addresses, over
# UDP and TCP: the same, whatever way.
set -eu
all=
for server in "$CON_VLAN_ADDR" "$CON_LAB_ADDR"; do
	for tcp in +notcp +tcp; do
		got=$(dig +short +time=3 +tries=1 "$tcp" "@$server" "$OUTSIDE_NAME") || got="no answer from $server ($tcp)"
		if [ -z "$got" ]; then
			got=refused
		elif printf '%s\n' "$got" | grep -qE '^[0-9.]+$'; then
			got=allowed
		fi
		all="$all$got
"
	done
done
printf '%s' "$all" | sort -u
