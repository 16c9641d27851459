#!/bin/sh
# The test user, with a key of its own and sudo without a password.
set -eu
. "${0%/*}/../lib.sh"

getent passwd "$TEST_USER" >/dev/null || useradd -m -s /bin/bash "$TEST_USER"
home=$(home_of "$TEST_USER")
install -d -m 700 -o "$TEST_USER" -g "$TEST_USER" "$home/.ssh"

key=$home/.ssh/id_ed25519
if [ ! -e "$key" ]; then
	ssh-keygen -q -t ed25519 -N '' -C "$TEST_USER" -f "$key"
	chown "$TEST_USER:$TEST_USER" "$key" "$key.pub"
fi
keys=$home/.ssh/authorized_keys
[ -e "$keys" ] || install -m 600 -o "$TEST_USER" -g "$TEST_USER" /dev/null "$keys"
own=$(cat "$key.pub")
for public in "$own" "$RUNNER_KEY"; do
	grep -qxF "$public" "$keys" || printf '%s\n' "$public" >>"$keys"
done

sudoer "$TEST_USER"
