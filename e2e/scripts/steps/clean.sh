#!/bin/sh
# Nothing of the build stays: package caches, containers, caches in home directories.
set -eu
. "${0%/*}/../lib.sh"

case $like in
debian) run_apt clean ;; # the lists stay, so that "apt-get install" works without "update"
*) run_dnf clean all ;;
esac
for user in root "$ADMIN_USER"; do
	containers=$(sudo -n -u "$user" podman ps -aq)
	for id in $containers; do
		sudo -n -u "$user" podman rm -f "$id"
	done
	home=$(home_of "$user")
	rm -rf "$home/.cache" "$home/.bash_history"
done
