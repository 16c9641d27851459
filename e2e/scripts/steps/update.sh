#!/bin/sh
# All updates, with three tries. The last line of the output says whether a reboot is needed.
set -eu
. "${0%/*}/../lib.sh"

case $like in
debian)
	# A new kernel is a new package, which upgrade would not install.
	update() { run_apt update && run_apt dist-upgrade; }
	# What dnf's needs-restarting minds, by Debian's names.
	running() { grep -qE '^(linux-image|firmware|(amd64|intel)-microcode|libc6|systemd|udev|dbus|libssl|libgnutls)'; }
	;;
*)
	update() { run_dnf update; }
	running() { ! command -v needs-restarting >/dev/null || ! needs-restarting -r >/dev/null; }
	;;
esac

before=$(list_packages)
three_times update
after=$(list_packages)
new=$(printf '%s\n' "$before" "$before" "$after" | sort | uniq -u) # lines that were not there
if [ -e /run/reboot-required ]; then
	echo "reboot needed"
elif [ -z "$new" ]; then
	echo "no reboot: nothing has changed"
elif printf '%s\n' "$new" | running; then
	echo "reboot needed"
else
	echo "no reboot: nothing that runs has changed"
fi
