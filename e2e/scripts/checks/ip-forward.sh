#!/bin/sh
# The kernel forwards IPv4, and will after the next start.
set -eu
now=$(sysctl -n net.ipv4.ip_forward)
then=$(cat /etc/sysctl.d/*.conf)
then=$(printf '%s\n' "$then" | sed -n -E 's/^net\.ipv4\.ip_forward *= *//p' | tail -n 1)
echo "now $now, then $then"
