#!/bin/sh
# Whether the internet NIC ignores the name servers that its DHCP server names.
set -eu
if systemctl is-active --quiet NetworkManager; then
	nmcli -g ipv4.ignore-auto-dns connection show "$EXT_IF"
	exit 0
fi
status=$(networkctl status "$EXT_IF")
if printf '%s\n' "$status" | grep -qE '^ *DNS:'; then echo no; else echo yes; fi
