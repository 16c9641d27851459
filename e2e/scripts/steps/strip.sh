#!/bin/sh
# What a host without internet would not have: the pull secret, the proxy, and tools. What else goes
# with the tools, since it needs them, is said.
set -eu
. "${0%/*}/../lib.sh"

for user in root "$ADMIN_USER"; do
	home=$(home_of "$user")
	rm -f "$home/$PULL_SECRET" "$home/.proxy-set.sh" "$home/.proxy-unset.sh"
	rc=$home/.bashrc
	if [ -e "$rc" ] && grep -q 'proxy-set\.sh' "$rc"; then
		sed -i '/proxy-set\.sh/d' "$rc"
	fi
done

present=
for package in $PACKAGES_REMOVED; do
	if installed "$package"; then present="$present $package"; fi
done
[ -n "$present" ] || exit 0
before=$(list_packages)
# shellcheck disable=SC2086 # a list of packages
case $like in
debian) run_apt remove $present ;;
*) run_dnf remove $present ;;
esac
after=$(list_packages)
echo "asked to remove:$present; removed:"
printf '%s\n' "$before" "$after" "$after" | sort | uniq -u # lines that were there and are not now
