#!/bin/sh
# Whether the internet NIC ignores the name servers that its DHCP server names.
set -eu
nmcli -g ipv4.ignore-auto-dns connection show "$EXT_IF"
