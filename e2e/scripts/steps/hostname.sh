#!/bin/sh
# The host is called what its VM is called.
set -eu

[ "$(hostnamectl --static)" = "$HOST_NAME" ] || hostnamectl set-hostname "$HOST_NAME"
