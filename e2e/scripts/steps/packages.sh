#!/bin/sh
# The packages that all hosts have. Mirrors refuse now and then: three tries, with a pause.
set -eu
. "${0%/*}/../lib.sh"

get() { # PACKAGE...
	case $like in
	debian) run_apt update && run_apt install "$@" ;;
	*) run_dnf install "$@" ;;
	esac
}

if [ "$like" = debian ]; then
	# apt fails if it cannot get its lists, keeps the files that we have changed, and does nothing by
	# itself in the background.
	put /etc/apt/apt.conf.d/90-poolready 'APT::Periodic::Enable "0";' 'APT::Update::Error-Mode "any";' \
		'Dpkg::Options:: "--force-confdef";' 'Dpkg::Options:: "--force-confold";'
fi
missing=
# shellcheck disable=SC2153 # it is of the environment
for package in $PACKAGES; do
	installed "$package" || missing="$missing $package"
done
# shellcheck disable=SC2086 # a list of packages
[ -z "$missing" ] || three_times get $missing

# Debian's packages start what they bring. Names are served by con alone. Where systemd-resolved has the
# port, as in the images of clouds, dnsmasq has failed to start.
if [ "$ROLE" != con ]; then
	systemctl disable --now dnsmasq
	if systemctl is-failed --quiet dnsmasq; then systemctl reset-failed dnsmasq; fi
fi
