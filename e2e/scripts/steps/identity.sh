#!/bin/sh
# Every clone gets a machine id of its own at its first boot, asks for its address by MAC and has no
# other, and has no name until it is given one. Host keys stay: they are pinned together with golden's snapshot.
set -eu
. "${0%/*}/../lib.sh"

: >/etc/machine-id
[ -L /var/lib/dbus/machine-id ] || rm -f /var/lib/dbus/machine-id
rm -f /var/lib/systemd/random-seed
rm -f /var/lib/NetworkManager/*.lease /var/lib/NetworkManager/secret_key /var/lib/dhcp/*.leases
rm -f /etc/udev/rules.d/70-persistent-net.rules

# The addresses that golden has kept stay until it is shut down.
rm -f "/etc/systemd/network/05-poolready-$LAB_IF.network.d/golden.conf"
if systemctl is-active --quiet NetworkManager; then
	nmcli connection modify "$LAB_IF" ipv4.addresses ''
fi

hostnamectl set-hostname ''
put /etc/hosts "$(sed '/^127\.0\.1\.1[[:space:]]/d' /etc/hosts || true)"
