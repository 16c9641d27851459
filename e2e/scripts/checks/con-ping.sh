#!/bin/sh
# con answers on the VLAN.
set -eu
if ping -c 1 -W 3 -I "$VLAN_IF" "$CON_VLAN_ADDR" >/dev/null; then echo answers; else echo "no answer"; fi
