#!/bin/sh
# dnsmasq runs, and starts with the host.
set -eu
echo "$(systemctl is-active dnsmasq || true) $(systemctl is-enabled dnsmasq || true)"
