#!/bin/sh
# Builds a Debian as its installer leaves it (priority "important", an SSH server) in DIR, and
# DIR/repo, a repository of what the recipe installs. For "containers" it is DIR/root, for "vms"
# DIR/disk.qcow2, vmlinux and initrd. The lines of sources.list are on standard input. Run it as root.
# usage: build.sh DIR CODENAME STACK KIND PACKAGES
set -eu
dir=$1 codename=$2 stack=$3 kind=$4 packages=$5
here=$(dirname "$(readlink -f "$0")")
include=openssh-server,sudo,systemd-sysv,libpam-systemd,dbus,systemd-timesyncd,locales,ifupdown
include=$include,isc-dhcp-client,apparmor,bash-completion,python3,ca-certificates,xz-utils,lsof,wget
include=$include,bind9-host,jq,python3-yaml,iputils-ping,apt-utils
mkdir -p "$dir/repo"
export DIR="$dir" STACK="$stack" KIND="$kind" PACKAGES="$packages"
mmdebstrap --quiet --mode=root --variant=important --include="$include" \
	--dpkgopt=force-unsafe-io --dpkgopt='path-exclude=/usr/share/doc/*' \
	--dpkgopt='path-exclude=/usr/share/man/*' \
	--customize-hook="'$here/customize.sh' \"\$1\"" \
	"$codename" "$dir/root" -
cat "$dir"/root/etc/ssh/ssh_host_*_key.pub >"$dir/hostkeys"
[ "$kind" = vms ] || exit 0

# QEMU starts a kernel that is not compressed at once; under emulation, unpacking it takes long.
kernel=$(echo "$dir"/root/boot/vmlinuz-*)
offset=$(LC_ALL=C grep -abo 7zXZ "$kernel" | head -n 1 | cut -d: -f1)
# What follows the kernel in the file is no xz.
tail -c "+$offset" "$kernel" | xz -dc >"$dir/vmlinux" 2>/dev/null || [ -s "$dir/vmlinux" ]
cp "$dir"/root/boot/initrd.img-* "$dir/initrd"
truncate -s 4G "$dir/raw"
printf 'label: dos\nstart=2048, type=83, bootable\n' | sfdisk -q "$dir/raw"
mke2fs -q -F -t ext4 -m 0 -d "$dir/root" -E offset=1048576 "$dir/raw" 4193280k
qemu-img convert -O qcow2 "$dir/raw" "$dir/disk.qcow2"
rm -rf "$dir/raw" "$dir/root"
