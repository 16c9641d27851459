#!/bin/sh
# The static host name.
set -eu
hostnamectl --static
