#!/bin/sh
# The MTU of every interface, as it is now.
set -eu
got=
for if in $MTU_IFS; do
	mtu=$(ip -o link show dev "$if")
	mtu=$(printf '%s\n' "$mtu" | sed -E 's/.* mtu ([0-9]+).*/\1/')
	got="$got $if=$mtu"
done
echo "${got# }"
