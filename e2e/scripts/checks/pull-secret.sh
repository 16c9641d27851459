#!/bin/sh
# The pull secret of root and the default user: there and readable by nobody else, or gone.
set -eu
for user in root "$ADMIN_USER"; do
	file=$(getent passwd "$user" | cut -d: -f6)/$PULL_SECRET
	if [ -e "$file" ]; then stat -c '%U %a' "$file"; else echo "$user: absent"; fi
done
