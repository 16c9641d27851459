#!/bin/sh
# What a host without internet would not have: the pull secret, the proxy, and tools.
set -eu

for user in root "$ADMIN_USER"; do
	home=$(getent passwd "$user" | cut -d: -f6)
	rm -f "$home/$PULL_SECRET" "$home/.proxy-set.sh" "$home/.proxy-unset.sh"
	rc=$home/.bashrc
	if [ -e "$rc" ] && grep -q 'proxy-set\.sh' "$rc"; then
		sed -i '/proxy-set\.sh/d' "$rc"
	fi
done

present=
for package in $PACKAGES_REMOVED; do
	if rpm -q --quiet "$package"; then present="$present $package"; fi
done
# shellcheck disable=SC2086 # a list of packages
[ -z "$present" ] || dnf -y -q remove $present
