package realguests

import (
	"context"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
)

// Missing lists what this machine lacks. Its text is a sentence that says so and what to do.
type Missing []string

func (m Missing) Error() string {
	return "real guests cannot run here: this needs " + strings.Join(m, "; ")
}

// programs that are needed, and the Debian packages that have them.
func programs(kind Kind) [][2]string {
	list := [][2]string{
		{"mmdebstrap", "mmdebstrap"},
		{"dnsmasq", "dnsmasq-base"},
		{"unshare", "util-linux"},
	}
	if kind == VMs {
		return append(list, [][2]string{
			{"qemu-system-x86_64", "qemu-system-x86"},
			{"qemu-img", "qemu-utils"},
			{"mke2fs", "e2fsprogs"},
			{"sfdisk", "fdisk"},
			{"xz", "xz-utils"},
		}...)
	}
	return append(list, [2]string{"systemd-nspawn", "systemd-container"})
}

// Check returns a Missing if guests of a kind cannot run on this machine.
func Check(ctx context.Context, kind Kind) error {
	var m Missing
	if os.Geteuid() != 0 {
		m = append(m, "root, for machines and their networks")
	}
	var packages []string
	for _, p := range programs(kind) {
		if _, err := exec.LookPath(p[0]); err != nil && !slices.Contains(packages, p[1]) {
			packages = append(packages, p[1])
		}
	}
	if len(packages) > 0 {
		m = append(m, "programs: apt-get install "+strings.Join(packages, " "))
	}
	if len(m) > 0 {
		return m
	}
	if data, err := os.ReadFile("/proc/filesystems"); kind == Containers &&
		(err != nil || !strings.Contains(string(data), "\toverlay\n")) {
		if exec.CommandContext(ctx, "modprobe", "overlay").Run() != nil {
			m = append(m, "a kernel with overlayfs")
		}
	}
	if _, err := os.Stat("/dev/net/tun"); kind == VMs && err != nil {
		m = append(m, "a kernel with TAP interfaces ("+err.Error()+")")
	}
	n, err := newNamespace()
	if err != nil {
		return append(m, "a kernel that lets root make network namespaces ("+err.Error()+")")
	}
	defer n.close()
	for _, l := range []netlink.Link{
		&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "b"}},
		&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "v"}, PeerName: "w"},
	} {
		if err := n.LinkAdd(l); err != nil {
			m = append(m, "a kernel with interfaces of type "+l.Type()+" ("+err.Error()+")")
		}
	}
	if len(m) > 0 {
		return m
	}
	return nil
}

// hasVLANs reports whether the kernel has 802.1Q.
func hasVLANs() bool {
	n, err := newNamespace()
	if err != nil {
		return false
	}
	defer n.close()
	v := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "v"}, PeerName: "w"}
	if n.LinkAdd(v) != nil {
		return false
	}
	return n.LinkAdd(
		&netlink.Vlan{LinkAttrs: netlink.LinkAttrs{Name: "v.1", ParentIndex: v.Index}, VlanId: 1},
	) == nil
}

// kvmAnswers reports whether a kernel that is started with KVM ends within a deadline. Where
// virtualization is nested, KVM may be there and let nothing run. The kernel finds no disk, panics
// and restarts, on which QEMU ends.
func (s *Site) kvmAnswers(ctx context.Context) bool {
	if _, err := os.Stat("/dev/kvm"); err != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	return exec.CommandContext(ctx, "qemu-system-x86_64", "-accel", "kvm", "-cpu", "host", "-m", "512",
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-kernel", s.image.file("vmlinux"), "-append", "panic=-1").
		Run() ==
		nil
}
