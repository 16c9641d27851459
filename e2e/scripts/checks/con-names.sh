#!/bin/sh
# con's and dis's own names, and the registry's, through the resolver of the host.
set -eu
for name in "$CON_FQDN" "$DIS_FQDN" "registry.$DOMAIN"; do
	getent ahostsv4 "$name" | sed -n -E 's/^([0-9.]+) +STREAM.*/\1/p' || true
done
