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

# shellcheck source=/dev/null
. /etc/os-release
case " $ID ${ID_LIKE:-} " in
*" debian "*)
	export DEBIAN_FRONTEND=noninteractive
	# shellcheck disable=SC2016 # expanded by dpkg-query
	installed() { [ "$(dpkg-query -W -f '${db:Status-Abbrev}' "$1" 2>/dev/null)" = 'ii ' ]; }
	remove() { apt-get -y -qq remove "$@"; }
	;;
*)
	installed() { rpm -q --quiet "$1"; }
	remove() { dnf -y -q remove "$@"; }
	;;
esac
present=
for package in $PACKAGES_REMOVED; do
	if installed "$package"; then present="$present $package"; fi
done
# shellcheck disable=SC2086 # a list of packages
[ -z "$present" ] || remove $present
