#!/bin/sh
# The proxy scripts, and whether any shell or login uses a proxy by itself.
set -eu
. "${0%/*}/../lib.sh"
for user in root "$ADMIN_USER"; do
	home=$(home_of "$user")
	if [ -e "$home/.proxy-set.sh" ]; then scripts=there; else scripts=absent; fi
	used=off
	for rc in "$home/.bashrc" "$home/.bash_profile" "$home/.profile" /etc/environment; do
		if [ -e "$rc" ] && grep -qiE 'proxy-set\.sh|https?_proxy=' "$rc"; then used="on in $rc"; fi
	done
	echo "$user: $scripts, $used"
done
