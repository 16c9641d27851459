#!/bin/sh
# All updates, with three tries. The last line of the output says whether a reboot is needed.
set -eu

# shellcheck source=/dev/null
. /etc/os-release
case " $ID ${ID_LIKE:-} " in
*" debian "*)
	export DEBIAN_FRONTEND=noninteractive
	# shellcheck disable=SC2016 # expanded by dpkg-query
	list() { dpkg-query -W -f '${Package} ${Version} ${db:Status-Abbrev}\n'; }
	# A new kernel is a new package, which upgrade would not install.
	update() { apt-get -qq update && apt-get -y -qq dist-upgrade; }
	# What dnf's needs-restarting minds, by Debian's names.
	running() { grep -qE '^(linux-image|firmware|(amd64|intel)-microcode|libc6|systemd|udev|dbus|libssl|libgnutls)'; }
	;;
*)
	list() { rpm -qa | sort; }
	update() { dnf -y -q update; }
	running() { ! command -v needs-restarting >/dev/null || ! needs-restarting -r >/dev/null; }
	;;
esac

before=$(list)
try=1
until update; do
	[ "$try" -lt 3 ] || exit 1
	try=$((try + 1))
	sleep "$RETRY_PAUSE"
done

# Lines that are there once are new ones.
new=$(printf '%s\n' "$before" "$before" "$(list)" | sort | uniq -u)
if [ -e /run/reboot-required ]; then
	echo "reboot needed"
elif [ -z "$new" ]; then
	echo "no reboot: nothing has changed"
elif printf '%s\n' "$new" | running; then
	echo "reboot needed"
else
	echo "no reboot: nothing that runs has changed"
fi
