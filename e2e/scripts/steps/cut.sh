#!/bin/sh
# The internet is cut: con is no gateway any more, and the NIC that leads out is down.
set -eu

if systemctl is-active --quiet NetworkManager; then
	nmcli connection modify "$VLAN_IF" ipv4.gateway '' ipv4.never-default yes
	nmcli connection up "$VLAN_IF"
else
	gateway=/etc/systemd/network/05-poolready-$VLAN_IF.network.d/gateway.conf
	if [ -e "$gateway" ]; then
		rm "$gateway"
		networkctl reload
		networkctl reconfigure "$VLAN_IF"
	fi
fi
ip link set dev "$EXT_IF" down
