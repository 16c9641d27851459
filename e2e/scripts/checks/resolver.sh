#!/bin/sh
# The name servers of resolv.conf.
set -eu
sed -n -E 's/^nameserver +//p' /etc/resolv.conf | tr '\n' ' '
