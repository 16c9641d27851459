#!/bin/sh
# What the installer asks for, in the root file system $1. STACK says who configures its network.
set -eu
root=$1
export DEBIAN_FRONTEND=noninteractive
in_root() { chroot "$root" "$@"; }
# Recommended packages are installed, as on a stock system; mmdebstrap has them left out.
get() { in_root apt-get -y -qq -o APT::Install-Recommends=true "$@" >/dev/null; }

case $STACK in
ifupdown) ;; # as installed: networkd is there and does not run
networkmanager) get install network-manager ;;
cloud) # Debian's cloud images: cloud-init, netplan, networkd and resolved, no ifupdown
	# The package's script replaces resolv.conf, which names have to be found by until then.
	cp "$root/etc/resolv.conf" "$root/run/resolv.conf"
	get install cloud-init netplan.io systemd-resolved
	rm -f "$root/etc/resolv.conf"
	cp "$root/run/resolv.conf" "$root/etc/resolv.conf"
	get purge ifupdown
	;;
*)
	echo "unknown stack $STACK: ifupdown, networkmanager or cloud" >&2
	exit 1
	;;
esac

# shellcheck disable=SC2086 # a list of packages
get install --download-only $PACKAGES
mv "$root"/var/cache/apt/archives/*.deb "$DIR/repo/"
mkdir "$root/tmp/repo"
mount --bind "$DIR/repo" "$root/tmp/repo"
in_root sh -ec 'cd /tmp/repo
	apt-ftparchive packages . >Packages
	apt-ftparchive release . >Release.new
	mv Release.new Release'
umount "$root/tmp/repo"
rmdir "$root/tmp/repo"

if [ "$KIND" = vms ]; then
	(cd "$DIR/repo" && cp ./*.deb "$root/var/cache/apt/archives/")
	# shellcheck disable=SC2086 # a list of packages
	get install $PACKAGES qemu-guest-agent initramfs-tools
	# Only the modules that this machine boots from: the kernel is started by QEMU, not by GRUB.
	sed -i 's/^MODULES=.*/MODULES=list/' "$root/etc/initramfs-tools/initramfs.conf"
	printf 'virtio_pci\nvirtio_scsi\nsd_mod\next4\n' >>"$root/etc/initramfs-tools/modules"
	in_root apt-get -y -qq --no-install-recommends install linux-image-amd64 >/dev/null
	rm -f "$root"/var/cache/apt/archives/*.deb
fi

echo 'deb [trusted=yes] http://deb.example.net/ ./' >"$root/etc/apt/sources.list"
rm -rf "$root"/etc/apt/sources.list.d/* "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*.bin

install -d -m 700 "$root/root/.ssh"
install -m 600 "$DIR/authorized_keys" "$root/root/.ssh/authorized_keys"
sed -i 's/^# *en_US.UTF-8/en_US.UTF-8/' "$root/etc/locale.gen"
in_root locale-gen >/dev/null
echo 'LANG=en_US.UTF-8' >"$root/etc/default/locale"
echo debian >"$root/etc/hostname"
cat >"$root/etc/hosts" <<-END
	127.0.0.1	localhost
	127.0.1.1	debian.example.com	debian

	::1     localhost ip6-localhost ip6-loopback
	ff02::1 ip6-allnodes
	ff02::2 ip6-allrouters
END
echo '/dev/sda1 / ext4 errors=remount-ro 0 1' >"$root/etc/fstab"
: >"$root/etc/machine-id"

if [ "$STACK" = cloud ]; then
	rm -rf "$root/etc/network"
	in_root systemctl enable systemd-networkd systemd-resolved 2>/dev/null
	ln -sf ../run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"
	seed=$root/var/lib/cloud/seed/nocloud-net
	mkdir -p "$seed"
	echo 'instance-id: template' >"$seed/meta-data"
	printf '#cloud-config\ndisable_root: false\nssh_deletekeys: false\n' >"$seed/user-data"
	printf 'version: 2\nethernets:\n  ens192: {dhcp4: true}\n' >"$seed/network-config"
	echo 'datasource_list: [NoCloud]' >"$root/etc/cloud/cloud.cfg.d/99-seed.cfg"
else
	rm -f "$root/etc/resolv.conf"
	cat >"$root/etc/network/interfaces" <<-END
		source /etc/network/interfaces.d/*

		auto lo
		iface lo inet loopback

		allow-hotplug ens192
		iface ens192 inet dhcp
	END
fi
