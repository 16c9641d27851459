#!/bin/sh
# What sshd makes of its configuration.
set -eu
sshd -T | grep -E '^(permitrootlogin|clientaliveinterval|clientalivecountmax) ' | sort | tr '\n' ' '
