#!/bin/sh
# What sshd makes of its configuration.
set -eu
conf=$(sshd -T)
printf '%s\n' "$conf" | grep -E '^(permitrootlogin|clientaliveinterval|clientalivecountmax) ' | sort | tr '\n' ' '
