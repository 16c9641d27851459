#!/bin/sh
# Names are resolved by con's dnsmasq, and NetworkManager leaves resolv.conf alone.
set -eu

conf=/etc/NetworkManager/conf.d/90-poolready-dns.conf
if [ "$(cat "$conf" 2>/dev/null || true)" != "[main]
dns=none" ]; then
	printf '[main]\ndns=none\n' >"$conf"
	systemctl reload NetworkManager
fi

resolv=/etc/resolv.conf
want="search $HOST_DOMAIN
nameserver $RESOLVER"
if [ "$(cat "$resolv" 2>/dev/null || true)" != "$want" ]; then
	rm -f "$resolv" # it may be a link to what another resolver writes
	printf '%s\n' "$want" >"$resolv"
fi
