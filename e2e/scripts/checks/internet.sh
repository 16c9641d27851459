#!/bin/sh
# Every way out that the host has: one line per probe that got through. The same probes run on con,
# where they must get through, and on dis, where none may.
# Any answer counts, whatever it says.
set -eu

open=
closed=
probe() { # NAME COMMAND...
	name=$1
	shift
	if "$@" >/dev/null 2>&1; then open="$open $name"; else closed="$closed $name"; fi
}
probe icmp ping -c 1 -W 2 "$OUTSIDE_ADDR"
probe tcp80 curl -sS -o /dev/null --noproxy '*' --connect-timeout 5 -m 15 "http://$OUTSIDE_ADDR/"
probe tcp443 curl -sSk -o /dev/null --noproxy '*' --connect-timeout 5 -m 15 "https://$OUTSIDE_ADDR/"
probe dns-udp dig +short +time=2 +tries=1 "@$OUTSIDE_ADDR" "$OUTSIDE_NAME"
probe dns-tcp dig +short +time=2 +tries=1 +tcp "@$OUTSIDE_ADDR" "$OUTSIDE_NAME"
probe http-by-name curl -sSk -o /dev/null --connect-timeout 5 -m 15 "$INTERNET_URL"
probe icmp6 ping -6 -c 1 -W 2 "$OUTSIDE_ADDR6"
probe tcp443-6 curl -sSk -o /dev/null --noproxy '*' --connect-timeout 5 -m 15 "https://[$OUTSIDE_ADDR6]/"
probe proxy-env [ -n "${http_proxy:-}${https_proxy:-}${HTTP_PROXY:-}${HTTPS_PROXY:-}${ALL_PROXY:-}" ]

echo "open:${open:- none}"
echo "closed:${closed:- none}"
