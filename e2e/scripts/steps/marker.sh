#!/bin/sh
# What tells a product that it runs under test, and the proxy scripts: there, but not loaded
# by themselves.
set -eu
. "${0%/*}/../lib.sh"

grep -qxF "$MARKER" /etc/environment || printf '%s\n' "$MARKER" >>/etc/environment

for user in root "$ADMIN_USER"; do
	home=$(home_of "$user")
	if [ ! -e "$home/.proxy-set.sh" ]; then
		printf 'export http_proxy=%s https_proxy=%s no_proxy=%s\n' \
			"$PROXY" "$PROXY" "localhost,127.0.0.1,.$HOST_DOMAIN" >"$home/.proxy-set.sh"
		chown "$user:$user" "$home/.proxy-set.sh"
	fi
	if [ ! -e "$home/.proxy-unset.sh" ]; then
		printf 'unset http_proxy https_proxy no_proxy\n' >"$home/.proxy-unset.sh"
		chown "$user:$user" "$home/.proxy-unset.sh"
	fi
	rc=$home/.bashrc
	if [ -e "$rc" ] && grep -q 'proxy-set\.sh' "$rc"; then
		sed -i '/proxy-set\.sh/d' "$rc"
	fi
done
