#!/bin/sh
# The credentials file of root and the default user, readable by nobody else.
set -eu
for user in root "$ADMIN_USER"; do
	file=$(getent passwd "$user" | cut -d: -f6)/$CREDENTIALS
	if [ -s "$file" ]; then stat -c '%U %a' "$file"; else echo "$user: absent"; fi
done
