#!/bin/sh
# Whether anything listens on the registry's port.
set -eu
if ss -Hltn "sport = :$REGISTRY_PORT" | grep -q .; then echo taken; else echo free; fi
