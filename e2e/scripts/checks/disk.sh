#!/bin/sh
# How full the root file system is.
set -eu
used=$(df -P /)
used=$(printf '%s\n' "$used" | sed -n -E '$s/.* ([0-9]+)% .*/\1/p')
if [ "$used" -lt 80 ]; then echo "under 80 %"; else echo "$used %"; fi
