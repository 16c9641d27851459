#!/bin/sh
# Packages that ought to be installed and are not.
set -eu
. "${0%/*}/../lib.sh"
missing=
# shellcheck disable=SC2153 # it is of the environment
for package in $PACKAGES; do
	case " $PACKAGES_REMOVED " in *" $package "*) continue ;; esac
	installed "$package" || missing="$missing $package"
done
missing=${missing# }
echo "${missing:-none} missing"
