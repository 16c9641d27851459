#!/bin/sh
# Whether the internet NIC ignores the name servers that its DHCP server names.
set -eu
if systemctl is-active --quiet NetworkManager; then
	nmcli -g ipv4.ignore-auto-dns connection show "$EXT_IF"
elif networkctl status "$EXT_IF" | grep -qE '^ *DNS:'; then
	echo no
else
	echo yes
fi
