#!/bin/sh
# The addresses of the VLAN interface.
set -eu
ip -4 -o addr show dev "$VLAN_IF" | sed -E 's/.* inet ([0-9.\/]+).*/\1/'
