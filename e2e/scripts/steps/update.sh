#!/bin/sh
# All updates, with three tries. The last line of the output says whether a reboot is needed.
set -eu

before=$(rpm -qa | sort)
try=1
until dnf -y -q update; do
	[ "$try" -lt 3 ] || exit 1
	try=$((try + 1))
	sleep "$RETRY_PAUSE"
done

if [ "$(rpm -qa | sort)" = "$before" ]; then
	echo "no reboot: nothing has changed"
elif command -v needs-restarting >/dev/null && needs-restarting -r >/dev/null; then
	echo "no reboot: nothing that runs has changed"
else
	echo "reboot needed"
fi
