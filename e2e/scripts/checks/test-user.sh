#!/bin/sh
# The test user exists, may sudo, and logs in with its own key.
set -eu
. "${0%/*}/../lib.sh"
if ! home=$(home_of "$TEST_USER"); then
	echo "no user $TEST_USER"
	exit 0
fi
echo "sudo: $(sudo -n -u "$TEST_USER" sudo -n id -un || true)"
key=$home/.ssh/id_ed25519
echo "ssh: $(sudo -n -u "$TEST_USER" ssh -o BatchMode=yes -o ConnectTimeout=15 -o IdentitiesOnly=yes -i "$key" "$TEST_USER@localhost" id -un || true)"
