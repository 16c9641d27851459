#!/bin/sh
# The state of the internet NIC: down, and without an address.
set -eu
state=$(ip -o link show dev "$EXT_IF")
state=$(printf '%s\n' "$state" | sed -E 's/.* state ([A-Z]+).*/\1/')
addr=$(ip -o addr show dev "$EXT_IF")
addr=$(printf '%s\n' "$addr" | sed -n -E 's/.* inet6? ([^ ]+).*/\1/p' | tr '\n' ' ')
echo "$state, addresses: ${addr:-none}"
