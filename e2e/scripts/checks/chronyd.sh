#!/bin/sh
# chronyd runs, and starts with the host.
set -eu
# shellcheck source=/dev/null
. /etc/os-release
case " $ID ${ID_LIKE:-} " in
*" debian "*) unit=chrony ;;
*) unit=chronyd ;;
esac
echo "$(systemctl is-active "$unit" || true) $(systemctl is-enabled "$unit" || true)"
