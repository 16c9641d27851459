#!/bin/sh
# The timezone.
set -eu
timedatectl show -p Timezone --value
