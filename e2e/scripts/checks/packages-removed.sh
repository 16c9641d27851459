#!/bin/sh
# Packages that a host without internet ought to lack and has.
set -eu
# shellcheck source=/dev/null
. /etc/os-release
case " $ID ${ID_LIKE:-} " in
*" debian "*)
	# shellcheck disable=SC2016 # expanded by dpkg-query
	installed() { [ "$(dpkg-query -W -f '${db:Status-Abbrev}' "$1" 2>/dev/null)" = 'ii ' ]; }
	;;
*) installed() { rpm -q --quiet "$1"; } ;;
esac
present=
for package in $PACKAGES_REMOVED; do
	if installed "$package"; then present="$present $package"; fi
done
present=${present# }
echo "${present:-none} present"
