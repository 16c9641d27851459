#!/bin/sh
# Nothing of the build stays: package caches, containers, caches in home directories.
set -eu

dnf -q clean all
for user in root "$ADMIN_USER"; do
	for id in $(sudo -n -u "$user" podman ps -aq); do
		sudo -n -u "$user" podman rm -f "$id"
	done
	home=$(getent passwd "$user" | cut -d: -f6)
	rm -rf "$home/.cache" "$home/.bash_history"
done
