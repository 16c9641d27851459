#!/bin/sh
# The way that a packet of dis takes through con to the outside, as the kernel answers for it, and the
# interfaces on it that firewalld does not pass packets on between: those that are not in its zone.
set -eu

zone() { # WHEN TEXT, as --list-all prints it
	interfaces=$(printf '%s\n' "$2" | sed -n 's/^  interfaces: *//p')
	absent=
	for interface in "$VLAN_IF" "$EXT_IF"; do
		case " $interfaces " in *" $interface "*) ;; *) absent="$absent $interface" ;; esac
	done
	echo "$1 not in the zone:${absent:- none}"
}

way=$(ip -4 route get "$OUTSIDE_ADDR" from "$DIS_VLAN_ADDR" iif "$VLAN_IF" 2>&1) || true
out=$(printf '%s\n' "$way" | sed -n -E '1s/.* dev ([^ ]+).*/\1/p')
echo "out by ${out:-nothing: $way}"
now=$(firewall-cmd --list-all)
later=$(firewall-cmd --permanent --list-all)
zone now "$now"
zone "then" "$later"
