#!/bin/sh
# The name servers of the lab NIC, which products ask for.
set -eu
if systemctl is-active --quiet NetworkManager; then
	dns=$(nmcli -g ipv4.dns connection show "$LAB_IF")
	ignored=$(nmcli -g ipv4.ignore-auto-dns connection show "$LAB_IF")
else
	file=/etc/systemd/network/05-poolready-$LAB_IF.network
	dns=$(networkctl status "$LAB_IF")
	dns=$(printf '%s\n' "$dns" | sed -n 's/^ *DNS: *//p')
	ignored=$(cat "$file" "$file".d/*.conf)
	ignored=$(printf '%s\n' "$ignored" | sed -n 's/^UseDNS=no$/yes/p' | tail -n 1)
fi
echo "$dns, automatic ones ignored: ${ignored:-no}"
