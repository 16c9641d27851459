#!/bin/sh
# root and the default user have the same key pair, and let it and the runner in.
set -eu
home=$(getent passwd "$ADMIN_USER" | cut -d: -f6)
got=
for dir in /root "$home"; do
	if ! [ -s "$dir/.ssh/id_ed25519" ]; then
		got="$got; $dir: no key"
		continue
	fi
	cmp -s "$dir/.ssh/id_ed25519" /root/.ssh/id_ed25519 || got="$got; $dir: another key than root"
	for public in "$(ssh-keygen -y -f "$dir/.ssh/id_ed25519" | cut -d' ' -f1,2)" "$(echo "$RUNNER_KEY" | cut -d' ' -f1,2)"; do
		grep -qF "$public" "$dir/.ssh/authorized_keys" || got="$got; $dir: does not authorize $public"
	done
done
got=${got#; }
echo "${got:-same pair, authorized}"
