#!/bin/sh
# The test user exists, may sudo, and logs in with its own key.
set -eu
getent passwd "$TEST_USER" >/dev/null || {
	echo "no user $TEST_USER"
	exit 0
}
home=$(getent passwd "$TEST_USER" | cut -d: -f6)
echo "sudo: $(sudo -n -u "$TEST_USER" sudo -n id -un || true)"
echo "ssh: $(sudo -n -u "$TEST_USER" ssh -o BatchMode=yes -o ConnectTimeout=5 -o IdentitiesOnly=yes -i "$home/.ssh/id_ed25519" "$TEST_USER@localhost" id -un || true)"
