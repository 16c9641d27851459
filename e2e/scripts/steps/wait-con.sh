#!/bin/sh
# dis goes on when its con's name server answers on the VLAN and con forwards to the internet.
set -eu

left=$WAIT_CON # seconds
while :; do
	got=$(dig +short +time=2 +tries=1 "@$CON_VLAN_ADDR" "registry.$DOMAIN" || true)
	if [ "$got" != "$CON_LAB_ADDR" ]; then
		why="registry.$DOMAIN at $CON_VLAN_ADDR: got \"$got\", want $CON_LAB_ADDR"
	elif ! curl -sS -k -o /dev/null --connect-timeout 3 "https://$OUTSIDE_ADDR/"; then # by address: names may be refused
		why="$OUTSIDE_ADDR cannot be reached through con"
	else
		exit 0
	fi
	left=$((left - 2))
	if [ "$left" -le 0 ]; then
		echo "con has not answered within $WAIT_CON s: $why" >&2
		exit 1
	fi
	sleep 2
done
