#!/bin/sh
# The host is called what its VM is called, and finds its own name without a name server.
set -eu
. "${0%/*}/../lib.sh"

static=$(cat /etc/hostname 2>/dev/null) || static=
[ "$static" = "$HOST_NAME" ] || hostnamectl set-hostname "$HOST_NAME"

# An installer may have given a name of that time a loopback address, which dnsmasq would serve.
hosts=$(sed '/^127\.0\.1\.1[[:space:]]/d; /# poolready$/d' /etc/hosts)
put /etc/hosts "$hosts" "$HOST_ADDR $HOST_FQDN $HOST_NAME # poolready"
