#!/bin/sh
# The interfaces that default routes lead out of, IPv4 and IPv6.
set -eu
four=$(ip -4 route show default)
six=$(ip -6 route show default)
got=$(printf '%s\n%s\n' "$four" "$six" | sed -n -E 's/.* dev ([^ ]+).*/\1/p' | sort -u | tr '\n' ' ')
got=${got% }
echo "${got:-none}"
