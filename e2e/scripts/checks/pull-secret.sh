#!/bin/sh
# The pull secret of root and the default user: there and readable by nobody else, or gone.
set -eu
. "${0%/*}/../lib.sh"
for user in root "$ADMIN_USER"; do
	home=$(home_of "$user")
	file=$home/$PULL_SECRET
	if [ -e "$file" ]; then stat -c '%U %a' "$file"; else echo "$user: absent"; fi
done
