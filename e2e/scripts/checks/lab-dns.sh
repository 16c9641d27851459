#!/bin/sh
# The name servers of the lab NIC, which products ask NetworkManager for.
set -eu
echo "$(nmcli -g ipv4.dns connection show "$LAB_IF"), automatic ones ignored: $(nmcli -g ipv4.ignore-auto-dns connection show "$LAB_IF")"
