#!/bin/sh
# dis goes on when its con's name server answers on the VLAN and con forwards to the internet.
set -eu
. "${0%/*}/../lib.sh"

con_serves() { # sets why if it does not
	got=$(dig +short +time=2 +tries=1 "@$CON_VLAN_ADDR" "registry.$DOMAIN") || true # it says why on stdout
	if [ "$got" != "$CON_LAB_ADDR" ]; then
		why="registry.$DOMAIN at $CON_VLAN_ADDR: got \"$got\", want $CON_LAB_ADDR"
	# By address: names may be refused.
	elif ! said=$(curl -sS -k -o /dev/null --connect-timeout 5 -m 15 "https://$OUTSIDE_ADDR/" 2>&1); then
		why="$OUTSIDE_ADDR cannot be reached through con: $said"
	else
		return 0
	fi
	return 1
}

if ! within "$WAIT_CON" con_serves; then
	echo "con has not answered within $WAIT_CON s: $why" >&2
	exit 1
fi
