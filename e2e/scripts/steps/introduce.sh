#!/bin/sh
# dis was cloned from another golden than con: it takes over con's key pair, which con lets in, and knows
# con by the host keys that the runner has proved. The runner has put them into SECRETS_DIR.
set -eu
. "${0%/*}/../lib.sh"

copy() { # FILE MODE USER HOME
	cmp -s "$SECRETS_DIR/$1" "$4/.ssh/$1" || install -m "$2" -o "$3" -g "$3" "$SECRETS_DIR/$1" "$4/.ssh/$1"
}
public=$(cat "$SECRETS_DIR/id_ed25519.pub")
for user in root "$ADMIN_USER"; do
	home=$(home_of "$user")
	copy id_ed25519 600 "$user" "$home"
	copy id_ed25519.pub 644 "$user" "$home"
	grep -qxF "$public" "$home/.ssh/authorized_keys" || printf '%s\n' "$public" >>"$home/.ssh/authorized_keys"
done

while read -r key; do
	line="$CON_NAME,$CON_FQDN,$CON_LAB_ADDR,$CON_VLAN_ADDR $key"
	grep -qxF "$line" /etc/ssh/ssh_known_hosts || printf '%s\n' "$line" >>/etc/ssh/ssh_known_hosts
done <"$SECRETS_DIR/host_keys"
rm -rf "$SECRETS_DIR"
