#!/bin/sh
# The timezone.
set -eu
zone=$(readlink /etc/localtime)
printf '%s\n' "${zone##*/zoneinfo/}"
