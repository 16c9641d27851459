#!/bin/sh
# Containers that run, as root or the default user.
set -eu
cd / # podman of another user goes to the directory that it is started in
got=$(
	podman ps -q
	sudo -n -u "$ADMIN_USER" podman ps -q
)
echo "${got:-none}"
