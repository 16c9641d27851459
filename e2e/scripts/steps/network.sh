#!/bin/sh
# The three NICs and the VLAN interface. One NetworkManager profile per interface, called what
# the interface is called; profiles that anybody else made are removed.
#
#   lab    DHCP, never the default route
#   trunk  up, without an address; carries the VLAN
#   VLAN   static address; on dis, con is the gateway until the internet is cut
#   ext    golden, con: DHCP, the default route, its name servers ignored; dis: disabled
set -eu

profile() { # NAME TYPE [PROPERTY VALUE]...: makes it if it is missing
	name=$1
	type=$2
	shift 2
	nmcli -g connection.id connection show "$name" >/dev/null 2>&1 ||
		nmcli connection add type "$type" con-name "$name" ifname "$name" "$@"
}

# The lab's DHCP server may hand out jumbo frames; the profile's MTU wins.
profile "$LAB_IF" ethernet
nmcli connection modify "$LAB_IF" connection.autoconnect yes 802-3-ethernet.mtu "$MTU" \
	ipv4.method auto ipv4.never-default yes ipv4.dhcp-client-id mac ipv6.method disabled

profile "$TRUNK_IF" ethernet
nmcli connection modify "$TRUNK_IF" connection.autoconnect yes 802-3-ethernet.mtu "$MTU" \
	ipv4.method disabled ipv6.method disabled

profile "$EXT_IF" ethernet
case $ROLE in
dis)
	nmcli connection modify "$EXT_IF" connection.autoconnect no 802-3-ethernet.mtu "$MTU" \
		ipv4.method disabled ipv6.method disabled
	;;
*)
	nmcli connection modify "$EXT_IF" connection.autoconnect yes 802-3-ethernet.mtu "$MTU" \
		ipv4.method auto ipv4.never-default no ipv4.ignore-auto-dns yes \
		ipv4.dhcp-client-id mac ipv6.method disabled
	;;
esac

if [ "$ROLE" != golden ]; then
	profile "$VLAN_IF" vlan dev "$TRUNK_IF" id "$VLAN_ID"
fi
case $ROLE in
con)
	nmcli connection modify "$VLAN_IF" connection.autoconnect yes 802-3-ethernet.mtu "$MTU" \
		ipv4.method manual ipv4.addresses "$VLAN_ADDR" ipv4.gateway '' \
		ipv4.never-default yes ipv6.method disabled
	;;
dis)
	nmcli connection modify "$VLAN_IF" connection.autoconnect yes 802-3-ethernet.mtu "$MTU" \
		ipv4.method manual ipv4.addresses "$VLAN_ADDR" ipv4.never-default no \
		ipv4.gateway "$CON_VLAN_ADDR" ipv4.dns "$CON_VLAN_ADDR" ipv6.method disabled
	;;
esac

nmcli connection up "$LAB_IF"
nmcli connection up "$TRUNK_IF"
[ "$ROLE" = golden ] || nmcli connection up "$VLAN_IF"
if [ "$ROLE" = dis ]; then
	# NetworkManager would set the link up again at every boot: the NIC is taken from it.
	unmanaged=/etc/NetworkManager/conf.d/90-poolready-unmanaged.conf
	if [ ! -e "$unmanaged" ]; then
		nmcli connection down "$EXT_IF" || true # it may be down
		printf '[keyfile]\nunmanaged-devices=interface-name:%s\n' "$EXT_IF" >"$unmanaged"
		systemctl reload NetworkManager
	fi
	ip link set dev "$EXT_IF" down
else
	nmcli connection up "$EXT_IF"
fi

for uuid in $(nmcli -g UUID connection show); do
	case $(nmcli -g connection.type connection show "$uuid") in
	802-3-ethernet | vlan) ;;
	*) continue ;; # loopback, bridges of containers
	esac
	case $(nmcli -g connection.id connection show "$uuid") in
	"$LAB_IF" | "$TRUNK_IF" | "$VLAN_IF" | "$EXT_IF") ;;
	*) nmcli connection delete "$uuid" ;;
	esac
done
