#!/bin/sh
# con serves the names of its pool to the lab and to the VLAN. It asks the lab's name server for all
# others or, where OUTSIDE_NAMES is "refused", refuses them: without a server, dnsmasq does. DNS_RECORDS holds NAME=ADDRESS, where *.NAME is all below NAME.
set -eu

# The distribution's own file may bind dnsmasq to the loopback or to addresses of boot time.
if grep -qE '^(listen-address|bind-interfaces|interface|local-service)' /etc/dnsmasq.conf; then
	sed -i -E '/^(listen-address|bind-interfaces|interface|local-service)/d' /etc/dnsmasq.conf
fi

conf=/etc/dnsmasq.d/poolready.conf
{
	printf '%s\n' "# pool $POOL" no-resolv bind-dynamic
	[ "$OUTSIDE_NAMES" = refused ] || printf 'server=%s\n' "$DNS_UPSTREAM"
	for record in $DNS_RECORDS; do
		name=${record%%=*}
		address=${record#*=}
		case $name in
		'*.'*) printf 'address=/%s/%s\n' "${name#\*.}" "$address" ;;
		*) printf 'host-record=%s,%s\n' "$name" "$address" ;;
		esac
	done
} >"$conf.new"

# dnsmasq reads every file in its directory, so the new one may not stay there.
if cmp -s "$conf.new" "$conf"; then
	rm "$conf.new"
	changed=
else
	mv "$conf.new" "$conf"
	changed=yes
fi
dnsmasq --test -C "$conf"
systemctl enable dnsmasq
if [ -n "$changed" ] || ! systemctl is-active --quiet dnsmasq; then
	systemctl restart dnsmasq
fi

# Products ask which name server to use: con itself, not the lab's.
if ! systemctl is-active --quiet NetworkManager; then
	dns=/etc/systemd/network/05-poolready-$LAB_IF.network.d/dns.conf
	want="[Network]
DNS=$CON_LAB_ADDR
[DHCPv4]
UseDNS=no"
	if [ "$(cat "$dns" 2>/dev/null || true)" != "$want" ]; then
		mkdir -p "${dns%/*}"
		printf '%s\n' "$want" >"$dns"
		networkctl reload
		networkctl reconfigure "$LAB_IF"
	fi
	exit 0
fi
if [ "$(nmcli -g ipv4.dns connection show "$LAB_IF")" != "$CON_LAB_ADDR" ] ||
	[ "$(nmcli -g ipv4.ignore-auto-dns connection show "$LAB_IF")" != yes ]; then
	nmcli connection modify "$LAB_IF" ipv4.ignore-auto-dns yes ipv4.dns "$CON_LAB_ADDR"
	nmcli connection up "$LAB_IF"
fi

# dnsmasq binds to new addresses by itself; NetworkManager tells it besides when the VLAN comes up.
dispatcher=/etc/NetworkManager/dispatcher.d/90-poolready-dnsmasq
# shellcheck disable=SC2016 # expanded by the dispatcher
want='#!/bin/sh
[ "$2" = up ] || exit 0
case $1 in '$VLAN_IF') systemctl try-restart dnsmasq ;; esac'
if [ "$(cat "$dispatcher" 2>/dev/null || true)" != "$want" ]; then
	printf '%s\n' "$want" >"$dispatcher.new"
	chmod 755 "$dispatcher.new"
	mv "$dispatcher.new" "$dispatcher"
fi
