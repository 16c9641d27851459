#!/bin/sh
# The host is called what its VM is called.
set -eu

[ "$(hostnamectl --static)" = "$HOST_NAME" ] || hostnamectl set-hostname "$HOST_NAME"

# Debian's installer gives the name of that time a loopback address, which dnsmasq would serve.
if grep -q '^127\.0\.1\.1[[:space:]]' /etc/hosts; then
	sed -i '/^127\.0\.1\.1[[:space:]]/d' /etc/hosts
fi
