#!/bin/sh
# Packages that a host without internet ought to lack and has.
set -eu
present=
for package in $PACKAGES_REMOVED; do
	if rpm -q --quiet "$package"; then present="$present $package"; fi
done
present=${present# }
echo "${present:-none} present"
