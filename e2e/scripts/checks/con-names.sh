#!/bin/sh
# con's and dis's own names, and the registry's, as the host's name server has them.
set -eu
export RES_OPTIONS='timeout:2 attempts:1' # a name server that is dead costs seconds
for name in "$CON_FQDN" "$DIS_FQDN" "registry.$DOMAIN"; do
	got=$(getent -s dns ahostsv4 "$name") || got=
	printf '%s\n' "$got" | sed -n -E 's/^([0-9.]+) +STREAM.*/\1/p'
done
