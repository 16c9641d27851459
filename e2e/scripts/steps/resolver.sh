#!/bin/sh
# Names are resolved by con's dnsmasq, and nobody else writes resolv.conf. If con's refuses names of
# the outside, RESOLVER has the lab's server, too, on con: libc asks it next.
set -eu
. "${0%/*}/../lib.sh"

if systemctl is-active --quiet NetworkManager; then
	changed=
	put /etc/NetworkManager/conf.d/90-poolready-dns.conf '[main]' dns=none
	[ -z "$changed" ] || systemctl reload NetworkManager
elif systemctl is-active --quiet systemd-resolved; then
	systemctl disable --now systemd-resolved # networkd itself does not write it
fi

[ ! -L /etc/resolv.conf ] || rm /etc/resolv.conf # a link leads to what another resolver writes
set -- "search $HOST_DOMAIN"
for server in $RESOLVER; do
	set -- "$@" "nameserver $server"
done
put /etc/resolv.conf "$@"
