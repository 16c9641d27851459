#!/bin/sh
# What NetworkManager does with resolv.conf.
set -eu
NetworkManager --print-config | sed -n 's/^dns=//p'
