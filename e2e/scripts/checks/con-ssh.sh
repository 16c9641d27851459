#!/bin/sh
# root and the default user reach con over the VLAN, and it is the host that it should be.
set -eu
. "${0%/*}/../lib.sh"
for user in root "$ADMIN_USER"; do
	sudo -n -u "$user" ssh -o BatchMode=yes -o ConnectTimeout=10 "$user@$CON_VLAN_ADDR" uname -n || true
done
