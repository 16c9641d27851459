#!/bin/sh
# Timezone, and chrony with the lab's time server.
set -eu
. "${0%/*}/../lib.sh"

zone=$(readlink /etc/localtime) || zone=
[ "${zone##*/zoneinfo/}" = "$TIMEZONE" ] || timedatectl set-timezone "$TIMEZONE"

case $like in
debian) unit=chrony conf=/etc/chrony/chrony.conf drift=/var/lib/chrony/chrony.drift ;;
*) unit=chronyd conf=/etc/chrony.conf drift=/var/lib/chrony/drift ;;
esac
put "$conf" '# written by poolready' "server $NTP_SERVER iburst" "driftfile $drift" 'makestep 1.0 3' rtcsync \
	"allow $LAB_NET"
systemctl enable "$unit"
# After a jump of the clock, chronyd would go by measurements from before: restart it.
systemctl restart "$unit"
if ! timeout 60 chronyc waitsync 0 0 0 1; then
	echo "the clock has not followed $NTP_SERVER within 60 s" >&2
	exit 1
fi
chronyc makestep
