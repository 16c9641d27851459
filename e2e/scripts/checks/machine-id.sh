#!/bin/sh
# Golden has no machine id: every clone makes its own.
set -eu
got=
for file in /etc/machine-id /var/lib/dbus/machine-id; do
	if ! [ -L "$file" ] && [ -s "$file" ]; then got="$got $file"; fi
done
got=${got# }
echo "${got:-none}"
