#!/bin/sh
# The first process of a container's namespaces (PID, mounts, network): what it mounts and starts ends
# with it. It exits as systemd-nspawn does: with 133 if the container wants to be started again.
# usage: boot.sh NAME CGROUP ROOT LOWER UPPER WORK
set -eu
name=$1 cgroup=$2 root=$3 lower=$4 upper=$5 work=$6

mount --make-rprivate /
mount -t proc proc /proc
# A cgroup of its own in every hierarchy, or containers would share the units of their names.
for h in /sys/fs/cgroup /sys/fs/cgroup/systemd /sys/fs/cgroup/unified; do
	[ -e "$h/cgroup.procs" ] || continue
	mkdir -p "$h/$cgroup"
	echo 0 >"$h/$cgroup/cgroup.procs"
done
# Nothing is written back to the disk for the sake of a power failure of this machine. The mark says so.
(cd "$work" && rm -rf work/incompat)
mount -t overlay overlay -o "volatile,lowerdir=$lower,upperdir=$upper,workdir=$work" "$root"

SYSTEMD_NSPAWN_API_VFS_WRITABLE=network systemd-nspawn --quiet --boot --register=no --keep-unit \
	--network-namespace-path=/proc/self/ns/net --directory="$root" --machine="$name" \
	--resolv-conf=off --timezone=off --link-journal=no --console=pipe \
	--capability=CAP_NET_ADMIN,CAP_NET_RAW </dev/null &
pid=$!
trap 'kill -TERM "$pid"' TERM # nspawn shuts the container down
while :; do
	status=0
	wait "$pid" || status=$?
	kill -0 "$pid" 2>/dev/null || exit "$status" # else the trap has interrupted the wait
done
