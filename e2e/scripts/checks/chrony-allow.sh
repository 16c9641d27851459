#!/bin/sh
# Whether chronyd serves time to the lab.
set -eu
chronyc accheck "$DIS_LAB_ADDR" | sed -n -E 's/^20[89] //p'
