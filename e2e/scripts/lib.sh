# shellcheck shell=sh
# What scripts have in common. A script has it in place of its line that sources this file, so
# that it goes to a host as one text.

cd / # where programs of every user may be: some refuse to start in a directory they cannot enter

# shellcheck source=/dev/null
. /etc/os-release
case " $ID ${ID_LIKE:-} " in
*" debian "*) like=debian ;;
*) like=rhel ;;
esac

home_of() { # USER
	entry=$(getent passwd "$1") || return
	entry=${entry%:*} # without the shell
	printf '%s\n' "${entry##*:}"
}

# put writes the lines to a file, unless they are its content already. It sets changed if it did.
put() { # FILE LINE...
	file=$1
	shift
	text=$(printf '%s\n' "$@")
	old=$(cat "$file" 2>/dev/null) || old=
	if ! [ -e "$file" ] || [ "$old" != "$text" ]; then
		mkdir -p "${file%/*}"
		printf '%s\n' "$text" >"$file"
		# shellcheck disable=SC2034 # for scripts
		changed=yes
	fi
}

# sudoer makes a user an administrator without a password.
sudoer() { # USER
	sudoers=/etc/sudoers.d/90-poolready-$1
	line="$1 ALL=(ALL) NOPASSWD: ALL"
	if [ "$(cat "$sudoers" 2>/dev/null || true)" != "$line" ]; then
		printf '%s\n' "$line" >"$sudoers.new" # sudo ignores names with a dot
		chmod 440 "$sudoers.new"
		visudo -cqf "$sudoers.new"
		mv "$sudoers.new" "$sudoers"
	fi
}

# within tries a command once a second until it succeeds, and fails when the seconds are over: by
# the time since boot, as the clock may be set meanwhile.
within() { # SECONDS COMMAND...
	read -r up _ </proc/uptime
	end=$((${up%%.*} + $1))
	shift
	until "$@"; do
		read -r up _ </proc/uptime
		[ "${up%%.*}" -lt "$end" ] || return 1
		sleep 1
	done
}

installed() { # PACKAGE
	case $like in
	debian)
		# shellcheck disable=SC2016 # expanded by dpkg-query
		status=$(dpkg-query -W -f '${db:Status-Abbrev}' "$1" 2>/dev/null) || return 1
		[ "$status" = 'ii ' ]
		;;
	*) rpm -q --quiet "$1" ;;
	esac
}

list_packages() { # one a line, with versions
	# shellcheck disable=SC2016 # expanded by dpkg-query
	case $like in
	debian)
		packages=$(dpkg-query -W -f '${Package} ${Version} ${db:Status-Abbrev}\n')
		printf '%s\n' "$packages" | sed -n 's/ ii $//p'
		;;
	*) rpm -qa ;;
	esac
}

# run_apt is apt-get without questions. While another process has one of apt's locks, it waits for up
# to ten minutes: DPkg::Lock::Timeout is for dpkg's lock, but not for those of lists and archives.
run_apt() { # ARGUMENT...
	within 600 unlocked_apt "$@" || true # its status says how it ended
	cat /run/poolready-apt >&2
	rm /run/poolready-apt
	return "$apt_code"
}

unlocked_apt() { # ARGUMENT...: reports whether no lock was in the way; apt_code is apt-get's status
	apt_code=0
	DEBIAN_FRONTEND=noninteractive LC_ALL=C apt-get -y -qq "$@" 2>/run/poolready-apt || apt_code=$?
	[ "$apt_code" -eq 0 ] || ! grep -q '^E: Could not get lock' /run/poolready-apt
}

# run_dnf fails if a repository cannot be reached, whatever the configuration says of it.
run_dnf() { # ARGUMENT...
	dnf -y -q --setopt='*.skip_if_unavailable=0' "$@"
}

# three_times tries what a mirror may refuse, with a pause in between.
three_times() { # COMMAND...
	try=1
	until "$@"; do
		[ "$try" -lt 3 ] || return 1
		try=$((try + 1))
		sleep "$RETRY_PAUSE"
	done
}
