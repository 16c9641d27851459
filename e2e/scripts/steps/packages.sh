#!/bin/sh
# The packages that all hosts have. Mirrors refuse now and then: three tries, with a pause.
set -eu

missing=
for package in $PACKAGES; do
	rpm -q --quiet "$package" || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

try=1
# shellcheck disable=SC2086 # a list of packages
until dnf -y -q install $missing; do
	[ "$try" -lt 3 ] || exit 1
	try=$((try + 1))
	sleep "$RETRY_PAUSE"
done
