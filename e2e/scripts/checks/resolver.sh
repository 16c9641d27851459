#!/bin/sh
# The name servers of resolv.conf.
set -eu
conf=$(cat /etc/resolv.conf)
printf '%s\n' "$conf" | sed -n -E 's/^nameserver +//p' | tr '\n' ' '
