#!/bin/sh
# Packages that a host without internet ought to lack and has.
set -eu
. "${0%/*}/../lib.sh"
present=
for package in $PACKAGES_REMOVED; do
	if installed "$package"; then present="$present $package"; fi
done
present=${present# }
echo "${present:-none} present"
