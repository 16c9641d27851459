#!/bin/sh
# The internet is cut: con is no gateway any more, and the NIC that leads out is down.
set -eu

nmcli connection modify "$VLAN_IF" ipv4.gateway '' ipv4.never-default yes
nmcli connection up "$VLAN_IF"
ip link set dev "$EXT_IF" down
