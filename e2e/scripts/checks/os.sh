#!/bin/sh
# The operating system, by its name and major version.
set -eu
# shellcheck source=/dev/null
. /etc/os-release
echo "$ID${VERSION_ID%%.*}"
