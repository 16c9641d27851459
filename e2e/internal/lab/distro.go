package lab

import (
	"slices"
	"strings"

	"github.com/poolready/poolready/sshx/sshtest"
)

// A distro is a kind of operating system: what its packages, services and files are called.
// Services go by the names that RHEL's units have, all through this package.
type distro struct {
	mirror     map[string]pkg
	inTemplate []string          // packages that the template's makers installed
	enabled    []string          // units that start with the template
	units      map[string]string // of services whose unit has another name
	absent     []string          // commands that only the other kind has
	chronyConf string
	sshd       string // what sshd calls itself; "" is sshtest's default
	root, fs   string // device and type of the root file system
	prepare    func(d *sshtest.Disk)
}

var rhel = &distro{
	mirror: rhelMirror, inTemplate: rhelTemplate, enabled: []string{"sshd", "NetworkManager", "chronyd", "firewalld"},
	absent:     []string{"apt-get", "dpkg-query", "networkctl", "dhclient", "resize2fs"},
	chronyConf: "/etc/chrony.conf", root: "/dev/sda2", fs: "xfs",
	prepare: func(d *sshtest.Disk) {
		_ = d.MkdirAll("/etc/yum.repos.d", 0o755)
		_ = d.WriteFile(dnfRepo, []byte("[base]\nname=base\nbaseurl=https://"+mirrorHost+"/\nenabled=1\nskip_if_unavailable=1\n"), 0o644)
	},
}

var debian = &distro{
	mirror: debianMirror, inTemplate: debianTemplate, enabled: []string{"ssh", "networking", "systemd-timesyncd"},
	units:      map[string]string{"sshd": "ssh", "chronyd": "chrony"},
	absent:     []string{"dnf", "rpm", "needs-restarting", "xfs_growfs"},
	chronyConf: "/etc/chrony/chrony.conf", sshd: "OpenSSH_9.2p1 Debian-2+deb12u3", root: "/dev/sda1", fs: "ext4",
	prepare: debianDisk,
}

// distroOf tells by a disk what is installed on it.
func distroOf(d *sshtest.Disk) *distro {
	if _, err := d.Stat("/etc/debian_version"); err == nil {
		return debian
	}
	return rhel
}

// unit is the name of a service's unit.
func (o *distro) unit(service string) string {
	if u, ok := o.units[service]; ok {
		return u
	}
	return service
}

// service is the service of a unit, or its alias.
func (o *distro) service(unit string) string {
	for service, u := range o.units {
		if u == unit {
			return service
		}
	}
	return unit
}

// alias is the other name that an enabled unit has, or "". Those of Debian are what RHEL calls
// them.
func (o *distro) alias(unit string) string {
	if service := o.service(unit); service != unit {
		return service
	}
	return ""
}

// debianDisk turns sshtest's disk, which is of the RHEL kind, into what Debian's installer leaves.
func debianDisk(d *sshtest.Disk) {
	_ = d.Remove("/etc/redhat-release")
	group, _ := d.ReadFile("/etc/group")
	groups := strings.Replace(string(group), "wheel:x:10:", "sudo:x:27:", 1)
	for file, text := range map[string]string{
		"/etc/debian_version": "12.5\n",
		"/etc/group":          groups,
		"/etc/os-release": "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nNAME=\"Debian GNU/Linux\"\nVERSION_ID=\"12\"\n" +
			"VERSION=\"12 (bookworm)\"\nVERSION_CODENAME=bookworm\nID=debian\nHOME_URL=\"https://www.debian.org/\"\n",
		"/etc/sudoers": "Defaults\tenv_reset\nDefaults\tmail_badpass\nDefaults\tsecure_path=\"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\"\n" +
			"root\tALL=(ALL:ALL) ALL\n%sudo\tALL=(ALL:ALL) ALL\n@includedir /etc/sudoers.d\n",
		"/etc/ssh/sshd_config": "Include /etc/ssh/sshd_config.d/*.conf\n#PermitRootLogin prohibit-password\nKbdInteractiveAuthentication no\n" +
			"UsePAM yes\nX11Forwarding yes\nPrintMotd no\nAcceptEnv LANG LC_*\nSubsystem sftp /usr/lib/openssh/sftp-server\n",
		"/etc/hostname": "debian12\n",
		"/etc/hosts":    "127.0.0.1\tlocalhost\n127.0.1.1\tdebian12.example.com\tdebian12\n\n::1     localhost ip6-localhost ip6-loopback\n",
		interfacesFile: "# This file describes the network interfaces available on your system\nsource /etc/network/interfaces.d/*\n\n" +
			"auto lo\niface lo inet loopback\n\nallow-hotplug ens192\niface ens192 inet dhcp\n",
	} {
		_ = d.WriteFile(file, []byte(text), 0o644)
	}
	_ = d.Chmod("/etc/sudoers", 0o440)
	for _, dir := range []string{"/etc/network/interfaces.d", networkdDir, "/etc/apt/apt.conf.d", "/var/lib/apt/lists", "/var/lib/dhcp"} {
		_ = d.MkdirAll(dir, 0o755)
	}
}

// installTemplate turns a plain disk into that of a template, as its makers left it: some of the
// packages, networks as they come, the runner's key for root.
func (o *distro) installTemplate(d *sshtest.Disk, key string) {
	o.prepare(d)
	have := map[string]string{}
	for _, name := range o.inTemplate {
		have[name] = o.mirror[name].version
		unpack(d, o.mirror[name])
	}
	_ = o.writePackages(d, have)
	_ = d.MkdirAll(wantsDir, 0o755)
	for _, u := range o.enabled {
		o.enable(d, u)
	}
	for _, zone := range timezones {
		_ = d.WriteFile("/usr/share/zoneinfo/"+zone, []byte("TZif2"), 0o644)
	}
	_ = d.Symlink("../usr/share/zoneinfo/America/New_York", "/etc/localtime")
	for _, dir := range []string{"/etc/sysctl.d", "/etc/firewalld/zones", "/var/lib/NetworkManager", "/var/lib/systemd"} {
		_ = d.MkdirAll(dir, 0o755)
	}
	_ = d.WriteFile(partitionFile, []byte("20\n"), 0o600)
	if key != "" {
		_ = d.MkdirAll("/root/.ssh", 0o700)
		_ = d.WriteFile("/root/.ssh/authorized_keys", []byte(strings.TrimSpace(key)+"\n"), 0o600)
	}
}

// installed reports whether a command is on the machine: if a package brings it, that must be
// installed.
func (g *Guest) installed(command string) bool {
	if slices.Contains(g.os.absent, command) {
		return false
	}
	for name, p := range g.lab.mirror(g.os) {
		if slices.Contains(p.commands, command) {
			_, ok := g.packages()[name]
			return ok
		}
	}
	return true
}
