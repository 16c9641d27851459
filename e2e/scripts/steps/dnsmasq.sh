#!/bin/sh
# con serves the names of its pool to the lab and to the VLAN. It asks the lab's name server for all
# others or, where OUTSIDE_NAMES is "refused", refuses them: without a server, dnsmasq does.
# DNS_RECORDS holds NAME=ADDRESS, where *.NAME is all below NAME.
set -eu
. "${0%/*}/../lib.sh"

# The distribution's own file may bind dnsmasq to the loopback or to addresses of boot time.
if grep -qE '^(listen-address|bind-interfaces|interface|local-service)' /etc/dnsmasq.conf; then
	sed -i -E '/^(listen-address|bind-interfaces|interface|local-service)/d' /etc/dnsmasq.conf
fi

conf=/etc/dnsmasq.d/poolready.conf
set -- "# pool $POOL" no-resolv bind-dynamic # which binds to addresses that come later, too
[ "$OUTSIDE_NAMES" = refused ] || set -- "$@" "server=$DNS_UPSTREAM"
for record in $DNS_RECORDS; do
	name=${record%%=*}
	address=${record#*=}
	case $name in
	'*.'*) set -- "$@" "address=/${name#\*.}/$address" ;;
	*) set -- "$@" "host-record=$name,$address" ;;
	esac
done
changed=
put "$conf" "$@"
dnsmasq --test -C "$conf"
systemctl enable dnsmasq
if [ -n "$changed" ] || ! systemctl is-active --quiet dnsmasq; then
	systemctl restart dnsmasq
fi

# Products ask which name server to use: con itself, not the lab's.
if ! systemctl is-active --quiet NetworkManager; then
	changed=
	put "/etc/systemd/network/05-poolready-$LAB_IF.network.d/dns.conf" \
		'[Network]' "DNS=$CON_LAB_ADDR" '[DHCPv4]' UseDNS=no
	if [ -n "$changed" ]; then
		networkctl reload
		networkctl reconfigure "$LAB_IF"
	fi
	exit 0
fi
dns=$(nmcli -g ipv4.dns connection show "$LAB_IF")
ignored=$(nmcli -g ipv4.ignore-auto-dns connection show "$LAB_IF")
if [ "$dns" != "$CON_LAB_ADDR" ] || [ "$ignored" != yes ]; then
	nmcli connection modify "$LAB_IF" ipv4.ignore-auto-dns yes ipv4.dns "$CON_LAB_ADDR"
	nmcli connection up "$LAB_IF"
fi
