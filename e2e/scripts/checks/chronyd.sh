#!/bin/sh
# chronyd runs, and starts with the host.
set -eu
echo "$(systemctl is-active chronyd || true) $(systemctl is-enabled chronyd || true)"
