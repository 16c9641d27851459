#!/bin/sh
# The test user, with a key of its own and sudo without a password.
set -eu

getent passwd "$TEST_USER" >/dev/null || useradd -m -s /bin/bash "$TEST_USER"
home=$(getent passwd "$TEST_USER" | cut -d: -f6)
install -d -m 700 -o "$TEST_USER" -g "$TEST_USER" "$home/.ssh"

key=$home/.ssh/id_ed25519
if [ ! -e "$key" ]; then
	ssh-keygen -q -t ed25519 -N '' -C "$TEST_USER" -f "$key"
	chown "$TEST_USER:$TEST_USER" "$key" "$key.pub"
fi
keys=$home/.ssh/authorized_keys
[ -e "$keys" ] || install -m 600 -o "$TEST_USER" -g "$TEST_USER" /dev/null "$keys"
for public in "$(cat "$key.pub")" "$RUNNER_KEY"; do
	grep -qxF "$public" "$keys" || printf '%s\n' "$public" >>"$keys"
done

sudoers=/etc/sudoers.d/90-poolready-$TEST_USER
line="$TEST_USER ALL=(ALL) NOPASSWD: ALL"
if [ "$(cat "$sudoers" 2>/dev/null || true)" != "$line" ]; then
	printf '%s\n' "$line" >"$sudoers.new"
	chmod 440 "$sudoers.new"
	visudo -cqf "$sudoers.new"
	mv "$sudoers.new" "$sudoers"
fi
