#!/bin/sh
# Files of golden that are about its own MACs: profiles, rules and leases that would leave a clone
# without a network.
set -eu
got=
for if in "$LAB_IF" "$TRUNK_IF" "$EXT_IF"; do
	mac=$(ip -o link show dev "$if")
	mac=$(printf '%s\n' "$mac" | sed -E 's/.* link\/ether ([0-9a-f:]+).*/\1/')
	files=$(grep -rliF "$mac" /etc /var/lib/NetworkManager /var/lib/dhcp 2>/dev/null) || true
	got="$got $files"
done
# shellcheck disable=SC2086 # a list of files; those put aside bind nothing
set -- $got
got=
for file; do
	case $file in *.poolready-off) ;; *) got="$got $file" ;; esac
done
got=${got# }
echo "${got:-none}"
