#!/bin/sh
# Timezone, and chrony with the lab's time server.
set -eu

[ "$(timedatectl show -p Timezone --value)" = "$TIMEZONE" ] || timedatectl set-timezone "$TIMEZONE"

conf=/etc/chrony.conf
want="# written by poolready
server $NTP_SERVER iburst
driftfile /var/lib/chrony/drift
makestep 1.0 3
rtcsync
allow $LAB_NET"
systemctl enable --now chronyd
if [ "$(cat "$conf")" != "$want" ]; then
	printf '%s\n' "$want" >"$conf"
	systemctl restart chronyd
fi
chronyc waitsync 60 0 0 1
chronyc makestep
