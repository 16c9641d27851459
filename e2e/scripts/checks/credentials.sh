#!/bin/sh
# The credentials file of root and the default user, readable by nobody else.
set -eu
. "${0%/*}/../lib.sh"
for user in root "$ADMIN_USER"; do
	home=$(home_of "$user")
	file=$home/$CREDENTIALS
	if [ -s "$file" ]; then stat -c '%U %a' "$file"; else echo "$user: absent"; fi
done
