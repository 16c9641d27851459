#!/bin/sh
# Containers that run, as root or the default user.
set -eu
got=$(
	podman ps -q
	sudo -n -u "$ADMIN_USER" podman ps -q
)
echo "${got:-none}"
