#!/bin/sh
# Ports that are open but should not be.
set -eu
now=$(firewall-cmd --list-ports)
then=$(firewall-cmd --permanent --list-ports)
stale=
for port in $now $then; do
	case " $FIREWALL_PORTS $stale " in
	*" $port "*) ;;
	*) stale="$stale $port" ;;
	esac
done
stale=${stale# }
echo "${stale:-none}"
