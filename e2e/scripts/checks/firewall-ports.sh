#!/bin/sh
# Ports that are open but should not be.
set -eu
stale=
for port in $(firewall-cmd --list-ports) $(firewall-cmd --permanent --list-ports); do
	case " $FIREWALL_PORTS $stale " in
	*" $port "*) ;;
	*) stale="$stale $port" ;;
	esac
done
stale=${stale# }
echo "${stale:-none}"
