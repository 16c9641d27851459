#!/bin/sh
# The runner's public key for root and the default user, root by key only, and an sshd that
# notices dead clients.
set -eu
. "${0%/*}/../lib.sh"

authorize() { # USER
	home=$(home_of "$1")
	install -d -m 700 -o "$1" -g "$1" "$home/.ssh"
	keys=$home/.ssh/authorized_keys
	[ -e "$keys" ] || install -m 600 -o "$1" -g "$1" /dev/null "$keys"
	grep -qxF "$RUNNER_KEY" "$keys" || printf '%s\n' "$RUNNER_KEY" >>"$keys"
}

getent passwd "$ADMIN_USER" >/dev/null || useradd -m -s /bin/bash "$ADMIN_USER"
authorize root
authorize "$ADMIN_USER"

# The default user is an administrator without a password.
sudoer "$ADMIN_USER"

# The first value in sshd's configuration counts: ours come before everything else.
config=/etc/ssh/sshd_config
want="PermitRootLogin prohibit-password
ClientAliveInterval 60
ClientAliveCountMax 5"
{
	printf '%s\n' "$want"
	grep -viE '^[[:space:]]*(PermitRootLogin|ClientAliveInterval|ClientAliveCountMax)[[:space:]]' "$config" || true
} >"$config.new"
if cmp -s "$config.new" "$config"; then
	rm "$config.new"
else
	cat "$config.new" >"$config" # keeps owner, mode and label
	rm "$config.new"
	sshd -t
	case $like in
	debian) systemctl restart ssh ;;
	*) systemctl restart sshd ;;
	esac
fi
