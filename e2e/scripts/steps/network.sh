#!/bin/sh
# The three NICs and the VLAN interface, by NetworkManager where it runs, and else by
# systemd-networkd, which Debian and Ubuntu servers have. What anybody else has configured is
# put aside: NetworkManager's other profiles, ifupdown's interfaces, netplan's files.
#
#   lab    DHCP, never the default route
#   trunk  up, without an address; carries the VLAN
#   VLAN   static address; on dis, con is the gateway until the internet is cut
#   ext    golden, con: DHCP, the default route, its name servers ignored; dis: disabled
set -eu
. "${0%/*}/../lib.sh"

# Debian's ifupdown and Ubuntu's netplan: their files are kept under another name. A DHCP client that
# ifupdown has started is ended without giving up the address.
put_aside() {
	aside=
	ifupdown=/etc/network/interfaces
	if [ -e "$ifupdown" ] && ! grep -q '^# poolready' "$ifupdown"; then
		cp "$ifupdown" "$ifupdown.poolready-off"
		printf '%s\n' '# poolready: other interfaces are configured elsewhere.' 'auto lo' 'iface lo inet loopback' >"$ifupdown"
		aside=yes
	fi
	for pid in /run/dhclient.*.pid; do
		[ -e "$pid" ] || continue
		interface=${pid#/run/dhclient.}
		dhclient -x -pf "$pid" "${interface%.pid}"
	done
	for file in /etc/netplan/*.yaml; do
		[ -e "$file" ] || continue
		mv "$file" "$file.poolready-off"
	done
	if [ -d /etc/cloud ]; then # it would configure every clone again, and give it other host keys
		touch /etc/cloud/cloud-init.disabled
	fi
}

# addresses are those of the lab's NIC, with no network. Golden keeps them until "identity": to a DHCP server that
# goes by client identifiers, a client that asks by MAC from now on is a new one, and the runner is connected
# to what the server has given to the template.
addresses() {
	addr=$(ip -4 -o addr show dev "$LAB_IF")
	printf '%s\n' "$addr" | sed -n -E 's|.* inet ([0-9.]+)/.*|\1/32|p'
}

profile() { # NAME TYPE [PROPERTY VALUE]...: makes it if it is missing
	name=$1
	type=$2
	shift 2
	nmcli -g connection.id connection show "$name" >/dev/null 2>&1 ||
		nmcli connection add type "$type" con-name "$name" ifname "$name" "$@"
}

# set_profile sets properties of a profile. Where NetworkManager has made it from what another DHCP
# client left, it is bound to the MAC, which clones do not have.
set_profile() { # NAME [PROPERTY VALUE]...
	nmcli connection modify "$@" 802-3-ethernet.mac-address '' 802-3-ethernet.mtu "$MTU" ipv6.method disabled
}

with_networkmanager() {
	# On Debian it leaves alone what ifupdown has, and looks for that when it starts.
	[ -z "$aside" ] || systemctl restart NetworkManager

	# The lab's DHCP server may hand out jumbo frames; the profile's MTU wins.
	profile "$LAB_IF" ethernet
	kept=
	if [ "$ROLE" = golden ]; then
		kept=$(nmcli -g ipv4.addresses connection show "$LAB_IF")
		[ -n "$kept" ] || kept=$(addresses)
		kept=$(printf '%s' "$kept" | tr '\n' ',')
	fi
	set_profile "$LAB_IF" connection.autoconnect yes ipv4.method auto \
		ipv4.addresses "$kept" ipv4.gateway '' ipv4.never-default yes ipv4.dhcp-client-id mac

	profile "$TRUNK_IF" ethernet
	set_profile "$TRUNK_IF" connection.autoconnect yes ipv4.method disabled

	profile "$EXT_IF" ethernet
	case $ROLE in
	dis)
		set_profile "$EXT_IF" connection.autoconnect no ipv4.method disabled
		;;
	*)
		set_profile "$EXT_IF" connection.autoconnect yes \
			ipv4.method auto ipv4.never-default no ipv4.ignore-auto-dns yes \
			ipv4.dhcp-client-id mac
		;;
	esac

	if [ "$ROLE" != golden ]; then
		profile "$VLAN_IF" vlan dev "$TRUNK_IF" id "$VLAN_ID"
	fi
	case $ROLE in
	con)
		set_profile "$VLAN_IF" connection.autoconnect yes \
			ipv4.method manual ipv4.addresses "$VLAN_ADDR" ipv4.gateway '' \
			ipv4.never-default yes
		;;
	dis)
		set_profile "$VLAN_IF" connection.autoconnect yes \
			ipv4.method manual ipv4.addresses "$VLAN_ADDR" ipv4.never-default no \
			ipv4.gateway "$CON_VLAN_ADDR" ipv4.dns "$CON_VLAN_ADDR"
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
			put "$unmanaged" '[keyfile]' "unmanaged-devices=interface-name:$EXT_IF"
			systemctl reload NetworkManager
		fi
		ip link set dev "$EXT_IF" down
	else
		nmcli connection up "$EXT_IF"
	fi

	uuids=$(nmcli -g UUID connection show)
	for uuid in $uuids; do
		type=$(nmcli -g connection.type connection show "$uuid")
		case $type in
		802-3-ethernet | vlan) ;;
		*) continue ;; # loopback, bridges of containers
		esac
		id=$(nmcli -g connection.id connection show "$uuid")
		case $id in
		"$LAB_IF" | "$TRUNK_IF" | "$VLAN_IF" | "$EXT_IF") ;;
		*) nmcli connection delete "$uuid" ;;
		esac
	done
}

# The first file for an interface counts, in the order of names: ours come before netplan's.
networkd=/etc/systemd/network/05-poolready

has_address() { # INTERFACE: one in a network
	addr=$(ip -4 -o addr show dev "$1" 2>/dev/null) || return
	printf '%s\n' "$addr" | grep -qE ' inet [0-9.]+/([12]?[0-9]|3[01]) '
}

await_address() { # INTERFACE
	if ! within 60 has_address "$1"; then
		echo "$1 has had no address for a minute" >&2
		exit 1
	fi
}

with_networkd() {
	# No boot waits for the trunk, which has no address, or for the internet.
	put "$networkd-$LAB_IF.network" '[Match]' "Name=$LAB_IF" '[Link]' "MTUBytes=$MTU" \
		'[Network]' DHCP=ipv4 LinkLocalAddressing=no IPv6AcceptRA=no \
		'[DHCPv4]' ClientIdentifier=mac UseRoutes=no
	kept=$networkd-$LAB_IF.network.d/golden.conf
	if [ "$ROLE" = golden ] && ! [ -e "$kept" ]; then
		set -- '[Network]'
		list=$(addresses)
		for address in $list; do set -- "$@" "Address=$address"; done
		put "$kept" "$@"
	fi
	vlan=
	[ "$ROLE" = golden ] || vlan="VLAN=$VLAN_IF"
	put "$networkd-$TRUNK_IF.network" '[Match]' "Name=$TRUNK_IF" \
		'[Link]' "MTUBytes=$MTU" RequiredForOnline=no \
		'[Network]' LinkLocalAddressing=no IPv6AcceptRA=no ${vlan:+"$vlan"}
	case $ROLE in
	dis)
		put "$networkd-$EXT_IF.network" '[Match]' "Name=$EXT_IF" '[Link]' Unmanaged=yes
		;;
	*)
		put "$networkd-$EXT_IF.network" '[Match]' "Name=$EXT_IF" \
			'[Link]' "MTUBytes=$MTU" RequiredForOnline=no \
			'[Network]' DHCP=ipv4 LinkLocalAddressing=no IPv6AcceptRA=no \
			'[DHCPv4]' ClientIdentifier=mac UseDNS=no
		;;
	esac
	if [ "$ROLE" != golden ]; then
		put "$networkd-$VLAN_IF.netdev" '[NetDev]' "Name=$VLAN_IF" Kind=vlan '[VLAN]' "Id=$VLAN_ID"
		put "$networkd-$VLAN_IF.network" '[Match]' "Name=$VLAN_IF" '[Link]' "MTUBytes=$MTU" \
			'[Network]' "Address=$VLAN_ADDR" LinkLocalAddressing=no IPv6AcceptRA=no
	fi
	if [ "$ROLE" = dis ]; then # until the cut
		put "$networkd-$VLAN_IF.network.d/gateway.conf" '[Network]' "Gateway=$CON_VLAN_ADDR" "DNS=$CON_VLAN_ADDR"
	fi

	systemctl enable systemd-networkd
	systemctl start systemd-networkd
	networkctl reload
	networkctl reconfigure "$LAB_IF" "$TRUNK_IF"
	await_address "$LAB_IF"
	if [ "$ROLE" = dis ]; then
		ip link set dev "$EXT_IF" down
		ip addr flush dev "$EXT_IF"
	else
		networkctl reconfigure "$EXT_IF"
		await_address "$EXT_IF"
	fi
	if [ "$ROLE" != golden ]; then
		await_address "$VLAN_IF" # networkd makes it in the background
		networkctl reconfigure "$VLAN_IF"
		await_address "$VLAN_IF"
	fi
}

# A host has started only when its network is configured, so that nobody who waits for that finds it
# without its VLAN: sshd and systemd do not wait for the daemons that configure it.
systemctl add-wants multi-user.target network-online.target

put_aside
if systemctl is-active --quiet NetworkManager; then
	with_networkmanager
else
	with_networkd
fi
