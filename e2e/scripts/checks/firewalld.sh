#!/bin/sh
# firewalld runs, and starts with the host.
set -eu
echo "$(systemctl is-active firewalld || true) $(systemctl is-enabled firewalld || true)"
