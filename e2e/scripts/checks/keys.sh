#!/bin/sh
# root and the default user have the same key pair, and let it and the runner in.
set -eu
. "${0%/*}/../lib.sh"
runner=$(printf '%s\n' "$RUNNER_KEY" | cut -d' ' -f1,2)
home=$(home_of "$ADMIN_USER")
got=
for dir in /root "$home"; do
	if ! [ -s "$dir/.ssh/id_ed25519" ]; then
		got="$got; $dir: no key"
		continue
	fi
	cmp -s "$dir/.ssh/id_ed25519" /root/.ssh/id_ed25519 || got="$got; $dir: another key than root"
	own=$(ssh-keygen -y -f "$dir/.ssh/id_ed25519")
	own=$(printf '%s\n' "$own" | cut -d' ' -f1,2)
	for public in "$own" "$runner"; do
		grep -qF "$public" "$dir/.ssh/authorized_keys" || got="$got; $dir: does not authorize $public"
	done
done
got=${got#; }
echo "${got:-same pair, authorized}"
