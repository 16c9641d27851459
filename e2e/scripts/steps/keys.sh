#!/bin/sh
# One key pair for root and the default user, which every clone inherits, so that all hosts of a set
# reach each other: the one that the runner has put into SECRETS_DIR, or one that is made here. The
# clones keep golden's host keys too, so one line tells every host what every other one has to prove.
set -eu
. "${0%/*}/../lib.sh"

home=$(home_of "$ADMIN_USER")
key=/root/.ssh/id_ed25519
if [ -e "$SECRETS_DIR/id_ed25519" ]; then
	if ! cmp -s "$SECRETS_DIR/id_ed25519" "$key"; then
		install -m 600 "$SECRETS_DIR/id_ed25519" "$key"
		ssh-keygen -y -f "$key" >"$key.pub"
	fi
	rm -rf "$SECRETS_DIR"
fi
[ -e "$key" ] || ssh-keygen -q -t ed25519 -N '' -C "$SET_NAME" -f "$key"

copy() { # SOURCE MODE DESTINATION
	cmp -s "$1" "$3" || install -m "$2" -o "$ADMIN_USER" -g "$ADMIN_USER" "$1" "$3"
}
copy "$key" 600 "$home/.ssh/id_ed25519"
copy "$key.pub" 644 "$home/.ssh/id_ed25519.pub"

public=$(cat "$key.pub")
for keys in /root/.ssh/authorized_keys "$home/.ssh/authorized_keys"; do
	grep -qxF "$public" "$keys" || printf '%s\n' "$public" >>"$keys"
done

: >/etc/ssh/ssh_known_hosts.new
for public in /etc/ssh/ssh_host_*_key.pub; do
	key=$(cut -d' ' -f1,2 "$public")
	printf '* %s\n' "$key" >>/etc/ssh/ssh_known_hosts.new
done
cmp -s /etc/ssh/ssh_known_hosts.new /etc/ssh/ssh_known_hosts ||
	install -m 644 /etc/ssh/ssh_known_hosts.new /etc/ssh/ssh_known_hosts
rm /etc/ssh/ssh_known_hosts.new
