#!/bin/sh
# Masquerading is on now and after the next start.
set -eu
echo "now $(firewall-cmd --query-masquerade || true), then $(firewall-cmd --permanent --query-masquerade || true)"
