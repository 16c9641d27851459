#!/bin/sh
# firewalld with masquerading, forwarding, and no port open that somebody left behind.
set -eu

systemctl enable --now firewalld

conf=/etc/sysctl.d/90-poolready.conf
if [ "$(cat "$conf" 2>/dev/null || true)" != "net.ipv4.ip_forward = 1" ]; then
	printf 'net.ipv4.ip_forward = 1\n' >"$conf"
fi
sysctl -q -p "$conf"

firewall-cmd -q --permanent --query-masquerade || firewall-cmd -q --permanent --add-masquerade
ports=$(firewall-cmd --permanent --list-ports)
for port in $ports; do
	case " $FIREWALL_PORTS " in
	*" $port "*) ;;
	*) firewall-cmd -q --permanent --remove-port="$port" ;;
	esac
done
for service in $FIREWALL_SERVICES; do
	firewall-cmd -q --permanent --query-service="$service" ||
		firewall-cmd -q --permanent --add-service="$service"
done
firewall-cmd -q --reload # drops what was opened for this boot only
