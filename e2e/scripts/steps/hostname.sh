#!/bin/sh
# The host is called what its VM is called.
set -eu

[ "$(hostnamectl --static)" = "$HOST_NAME" ] || hostnamectl set-hostname "$HOST_NAME"

# Debian's installer gives the name of that time a loopback address, which dnsmasq would serve.
if grep -q '^127\.0\.1\.1[[:space:]]' /etc/hosts; then
	sed -i '/^127\.0\.1\.1[[:space:]]/d' /etc/hosts
fi
# sudo of Debian asks for the host's own name, and must not wait for a name server.
case $ROLE in
con) line="$CON_LAB_ADDR $CON_FQDN $HOST_NAME" ;;
*) line="$DIS_LAB_ADDR $DIS_FQDN $HOST_NAME" ;;
esac
grep -qxF "$line" /etc/hosts || printf '%s\n' "$line" >>/etc/hosts
