#!/bin/sh
# Services that ought to be open and are not.
set -eu
missing=
for service in $FIREWALL_SERVICES; do
	if ! firewall-cmd -q --query-service="$service" || ! firewall-cmd -q --permanent --query-service="$service"; then
		missing="$missing $service"
	fi
done
missing=${missing# }
echo "${missing:-none} missing"
