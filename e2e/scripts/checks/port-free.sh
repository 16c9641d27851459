#!/bin/sh
# Whether anything listens on the registry's port.
set -eu
listening=$(ss -Hltn "sport = :$REGISTRY_PORT")
if [ -n "$listening" ]; then echo taken; else echo free; fi
