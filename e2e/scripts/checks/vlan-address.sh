#!/bin/sh
# The addresses of the VLAN interface.
set -eu
addr=$(ip -4 -o addr show dev "$VLAN_IF")
printf '%s\n' "$addr" | sed -E 's/.* inet ([0-9.\/]+).*/\1/'
