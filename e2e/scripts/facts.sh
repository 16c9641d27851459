#!/bin/sh
# What there is on the host, one fact a line: kind, name and value with tabs between them. What a test left
# is the difference between this before it and after it.
set -eu

fact() { # KIND NAME [VALUE...]
	kind=$1
	name=$2
	shift 2
	printf '%s\t%s\t%s\n' "$kind" "$name" "$*"
}

if command -v rpm >/dev/null; then
	rpm -qa | while read -r package; do fact package "$package"; done
else
	# shellcheck disable=SC2016 # what dpkg-query replaces
	dpkg-query -W -f '${db:Status-Abbrev} ${Package} ${Version}\n' | while read -r status package version; do
		[ "$status" != ii ] || fact package "$package" "$version"
	done
fi

# Ports from 32768 on are those that programs get for a moment.
for proto in tcp udp; do
	ss -Hl"${proto%??}"n | while read -r _ _ _ local _; do
		[ "${local##*:}" -ge 32768 ] || fact port "$proto $local"
	done
done

for list in passwd group; do
	getent "$list" | while IFS=: read -r name rest; do fact "$list" "$name" "$rest"; done
done

# firewall-cmd takes half a second: one call for now, one for the next start.
for when in now --permanent; do
	option=$when
	[ "$when" != now ] || option=
	# shellcheck disable=SC2086 # one option or none
	zone=$(firewall-cmd $option --list-all 2>/dev/null) || continue # it does not run
	field() { printf '%s\n' "$zone" | sed -n "s/^  $1: *//p"; }
	for what in ports services; do
		value=$(field "$what")
		fact firewall "$when $what" "$value"
	done
	value=$(field masquerade)
	[ "$value" != yes ] || fact firewall "$when masquerade"
done

# Metrics go by the order in which NetworkManager has brought devices up.
for family in -4 -6; do
	ip "$family" route show | sed 's/ expires [0-9]*sec//; s/ metric [0-9]*//; s/ *$//' | while read -r route; do fact route "$route"; done
done

# A service that others start and that ends by itself when it is idle is no fact while it runs: what
# D-Bus or another unit starts cannot be enabled ("static"), but NetworkManager's dispatcher can; what
# a socket starts has an enabled one.
# To list all unit files takes systemd longer than the 25 s that D-Bus waits, on a machine that is busy or emulated.
export SYSTEMD_BUS_TIMEOUT=300 # seconds, for all of systemd's commands
files=$(systemctl list-unit-files --type=service,socket --no-legend --no-pager)
printf '%s\n' "$files" | while read -r unit state _; do
	case $unit in *.service) fact unit "$unit" "$state" ;; esac
done
systemctl list-units --type=service --state=running --plain --no-legend --no-pager | while read -r unit _; do
	[ "$unit" != NetworkManager-dispatcher.service ] || continue
	file=$unit
	case $unit in *@*) file=${unit%%@*}@.service ;; esac
	printf '%s\n' "$files" | grep -qE "^($file +static|${unit%.service}.socket +enabled) " ||
		fact running "$unit"
done

# shellcheck disable=SC2086 # a list of paths
find $WATCH_PATHS -type f -exec sha256sum {} + 2>/dev/null | while read -r sum file; do fact file "$file" "$sum"; done
