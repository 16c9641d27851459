#!/bin/sh
# What firewalld lets in and passes on, now and after the next start: ports that are open but should
# not be, services that should be open and are not, masquerading and forwarding.
set -eu

field() { # NAME TEXT, as --list-all prints it
	printf '%s\n' "$2" | sed -n "s/^  $1: *//p"
}

zone() { # WHEN TEXT
	stale=
	ports=$(field ports "$2")
	for port in $ports; do
		case " $FIREWALL_PORTS " in *" $port "*) ;; *) stale="$stale $port" ;; esac
	done
	missing=
	services=$(field services "$2")
	for service in $FIREWALL_SERVICES; do
		case " $services " in *" $service "*) ;; *) missing="$missing $service" ;; esac
	done
	masquerade=$(field masquerade "$2")
	forward=$(field forward "$2")
	echo "$1: stale ports:${stale:- none}, missing services:${missing:- none}, masquerade: $masquerade, forward: $forward"
}

now=$(firewall-cmd --list-all)
later=$(firewall-cmd --permanent --list-all)
zone now "$now"
zone "then" "$later"
