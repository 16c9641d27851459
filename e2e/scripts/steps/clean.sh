#!/bin/sh
# Nothing of the build stays: package caches, containers, caches in home directories.
set -eu

# shellcheck source=/dev/null
. /etc/os-release
case " $ID ${ID_LIKE:-} " in
*" debian "*) apt-get clean ;; # the lists stay, so that "apt-get install" works without "update"
*) dnf -q clean all ;;
esac
for user in root "$ADMIN_USER"; do
	for id in $(sudo -n -u "$user" podman ps -aq); do
		sudo -n -u "$user" podman rm -f "$id"
	done
	home=$(getent passwd "$user" | cut -d: -f6)
	rm -rf "$home/.cache" "$home/.bash_history"
done
