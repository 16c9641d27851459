#!/bin/sh
# Every clone gets a machine id of its own at its first boot, asks for its address by MAC, and has
# no name until it is given one. Host keys stay: they are pinned together with golden's snapshot.
set -eu
. "${0%/*}/../lib.sh"

: >/etc/machine-id
[ -L /var/lib/dbus/machine-id ] || rm -f /var/lib/dbus/machine-id
rm -f /var/lib/systemd/random-seed
rm -f /var/lib/NetworkManager/*.lease /var/lib/NetworkManager/secret_key /var/lib/dhcp/*.leases
rm -f /etc/udev/rules.d/70-persistent-net.rules

hostnamectl set-hostname ''
put /etc/hosts "$(sed '/^127\.0\.1\.1[[:space:]]/d' /etc/hosts || true)"
