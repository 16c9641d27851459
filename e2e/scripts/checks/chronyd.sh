#!/bin/sh
# chronyd runs, and starts with the host.
set -eu
. "${0%/*}/../lib.sh"
case $like in
debian) unit=chrony ;;
*) unit=chronyd ;;
esac
echo "$(systemctl is-active "$unit" || true) $(systemctl is-enabled "$unit" || true)"
