#!/bin/sh
# The interfaces that default routes lead out of, IPv4 and IPv6.
set -eu
got=$({
	ip -4 route show default
	ip -6 route show default
} | sed -n -E 's/.* dev ([^ ]+).*/\1/p' | sort -u | tr '\n' ' ')
got=${got% }
echo "${got:-none}"
