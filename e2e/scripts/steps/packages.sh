#!/bin/sh
# The packages that all hosts have. Mirrors refuse now and then: three tries, with a pause.
set -eu

# shellcheck source=/dev/null
. /etc/os-release
case " $ID ${ID_LIKE:-} " in
*" debian "*)
	# apt waits for whoever has it, fails if it cannot get its lists, keeps the files that we have
	# changed, and does nothing by itself in the background.
	conf=/etc/apt/apt.conf.d/90-poolready
	want='APT::Periodic::Enable "0";
APT::Update::Error-Mode "any";
DPkg::Lock::Timeout "600";
Dpkg::Options:: "--force-confdef";
Dpkg::Options:: "--force-confold";'
	[ "$(cat "$conf" 2>/dev/null || true)" = "$want" ] || printf '%s\n' "$want" >"$conf"
	export DEBIAN_FRONTEND=noninteractive
	# shellcheck disable=SC2016 # expanded by dpkg-query
	installed() { [ "$(dpkg-query -W -f '${db:Status-Abbrev}' "$1" 2>/dev/null)" = 'ii ' ]; }
	get() { apt-get -qq update && apt-get -y -qq install "$@"; }
	;;
*)
	installed() { rpm -q --quiet "$1"; }
	get() { dnf -y -q install "$@"; }
	;;
esac

missing=
for package in $PACKAGES; do
	installed "$package" || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

try=1
# shellcheck disable=SC2086 # a list of packages
until get $missing; do
	[ "$try" -lt 3 ] || exit 1
	try=$((try + 1))
	sleep "$RETRY_PAUSE"
done
