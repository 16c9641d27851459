#!/bin/sh
# What the runner has put into SECRETS_DIR (pull secret, credentials) goes to root's and the
# default user's home, readable by nobody else.
set -eu
. "${0%/*}/../lib.sh"

for user in root "$ADMIN_USER"; do
	home=$(home_of "$user")
	for file in "$PULL_SECRET" "$CREDENTIALS"; do
		[ -e "$SECRETS_DIR/$file" ] || continue
		cmp -s "$SECRETS_DIR/$file" "$home/$file" ||
			install -m 600 -o "$user" -g "$user" "$SECRETS_DIR/$file" "$home/$file"
	done
done
rm -rf "$SECRETS_DIR"
