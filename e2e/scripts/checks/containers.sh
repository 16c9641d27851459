#!/bin/sh
# Containers that run, as root or the default user.
set -eu
. "${0%/*}/../lib.sh"
got=
for user in root "$ADMIN_USER"; do
	running=$(sudo -n -u "$user" podman ps -q)
	got="$got$running"
done
echo "${got:-none}"
