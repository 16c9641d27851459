#!/bin/sh
# Packages that ought to be installed and are not.
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
missing=
for package in $PACKAGES; do
	case " $PACKAGES_REMOVED " in *" $package "*) continue ;; esac
	installed "$package" || missing="$missing $package"
done
missing=${missing# }
echo "${missing:-none} missing"
