#!/bin/sh
# root and the default user log in to the host itself, with host keys that they know.
set -eu
ssh -o BatchMode=yes -o ConnectTimeout=5 root@localhost id -un || true
sudo -n -u "$ADMIN_USER" ssh -o BatchMode=yes -o ConnectTimeout=5 "$ADMIN_USER@localhost" id -un || true
