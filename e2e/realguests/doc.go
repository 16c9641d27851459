// Package realguests puts real Linux machines behind the embedded vCenter: a Site is an OS for a
// vspheretest.Server, so that all that package e2e does on vSphere is done to a real systemd, sshd,
// sudo, NetworkManager, networkd, firewalld, dnsmasq, chrony and apt. It is a module of its own, so
// that no other process has what it needs.
//
//	cd e2e/realguests
//	go test -run Pools -v -timeout 30m            # golden, con1, dis1 in containers, on three stacks
//	go test -run Pools -v -timeout 4h -kind vms   # the same under QEMU
//	go test -run Pools -v -timeout 0 -keep        # and leaves the first stack for a person
//	go run ./reallab                              # serves them, as examples/simlab does
//
// From the project's directory these are make real, make real-qemu, make real-keep and make
// real-serve.
//
// # What it needs
//
// Root, on Linux, and for containers
//
//	apt-get install systemd-container mmdebstrap dnsmasq-base
//
// for VMs qemu-system-x86, qemu-utils, xz-utils and fdisk in the place of systemd-container. Check
// says in one sentence what is missing. Images are built the first time, of Debian's packages, from
// where this machine's own apt gets them, and kept in the user's cache directory under a hash of
// all that decides what is in them. After that nothing needs the internet.
//
// # Kinds of guests
//
// Containers run under systemd-nspawn at native speed. Their disks are layers of overlayfs, their
// NICs veths in a network namespace that lives for one boot. What is this machine's and not theirs:
// the kernel; the clock (chronyd follows its source and sets nothing; chronyc makestep does
// nothing); disks (nothing is grown); udev (ifupdown's allow-hotplug is auto). They have no memory
// that a snapshot could keep, so roles cannot be pool.ReadyRunning. podman uses the vfs driver. Where
// the kernel has no 802.1Q, a macvlan stands in for the VLAN (container/macvlan), which is logged.
//
// VMs run under QEMU with a kernel, a clock and disks of their own: with KVM if it answers, else
// emulated. They have 802.1Q, snapshots with memory, and reboot as machines do; in the tests con and
// dis are pool.ReadyRunning. qemu-guest-agent stands for VMware's tools. The recipe's packages are in the
// image, since dpkg takes minutes under emulation. AppArmor is off.
//
// # The networks
//
// Each port group is a bridge in a network namespace without a name. In the lab there is DHCP (by
// client identifier, with reservations by MAC and an MTU of 9000), names, time and a gateway; on the
// external network DHCP, router advertisements and the internet, which is a few addresses that
// answer ping, DNS, NTP and HTTP, and the mirror of packages; in the private network nothing. No
// packet gets to a network of this machine, or from there.
//
// # What is left behind
//
// Nothing. Processes, mounts and interfaces belong to namespaces that end with the process that
// made them, even by SIGKILL; the directory of a run and its cgroups are removed at the end, or by
// the next run.
//
// # Not shown
//
// RHEL and what is like it, and Ubuntu: no image is built. The documentation of package e2e lists which
// calls of RHEL's branch of the recipe are run here, and which are unconfirmed.
package realguests
