package lab

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/poolready/poolready/sshx/sshtest"
)

// sysctlKeys are the kernel settings that the simulation acts on, with the kernel's defaults.
var sysctlKeys = map[string]string{"net.ipv4.ip_forward": "0", "net.ipv6.conf.all.forwarding": "0"}

// sysctlBoot applies /etc/sysctl.d, as systemd-sysctl does.
func (g *Guest) sysctlBoot() {
	g.mu.Lock()
	for k, v := range sysctlKeys {
		g.sysctl[k] = v
	}
	g.mu.Unlock()
	entries, _ := g.disk.ReadDir("/etc/sysctl.d")
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".conf") {
			g.refusal(g.sysctlFile("/etc/sysctl.d/" + e.Name()))
		}
	}
}

func (g *Guest) sysctlFile(file string) error {
	data, err := g.disk.ReadFile(file)
	if err != nil {
		return fmt.Errorf("cannot open %q", file)
	}
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' || line[0] == ';' {
			continue
		}
		k, v, _ := strings.Cut(line, "=")
		if err := g.sysctlSet(strings.TrimSpace(k), strings.TrimSpace(v)); err != nil {
			return err
		}
	}
	return nil
}

func (g *Guest) sysctlSet(k, v string) error {
	if _, ok := sysctlKeys[k]; !ok {
		return errNotSimulated("the setting " + k)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.sysctl[k] = v
	g.apply()
	return nil
}

// sysctlCmd knows: -n KEY, [-q] -w KEY=VALUE, [-q] -p FILE.
func (g *Guest) sysctlCmd(_ context.Context, p *sshtest.Proc) int {
	args := slices.DeleteFunc(slices.Clone(p.Args[1:]), func(a string) bool { return a == "-q" })
	if len(args) != 2 {
		return p.NotSimulated(strings.Join(p.Args[1:], " "))
	}
	if args[0] != "-n" && p.User != "root" {
		return p.Fail(1, "permission denied")
	}
	var err error
	switch args[0] {
	case "-n":
		g.mu.Lock()
		v, ok := g.sysctl[args[1]]
		g.mu.Unlock()
		if !ok {
			return p.NotSimulated(args[1])
		}
		fmt.Fprintln(p.Stdout, v)
	case "-w":
		k, v, _ := strings.Cut(args[1], "=")
		err = g.sysctlSet(k, v)
	case "-p":
		err = g.sysctlFile(args[1])
	default:
		return p.NotSimulated(args[0])
	}
	if what, ok := errors.AsType[errNotSimulated](err); ok {
		return p.NotSimulated(string(what))
	}
	if err != nil {
		return p.Fail(1, "%v", err)
	}
	return 0
}

// podman knows: ps -q, ps -aq, rm -f ID. Containers are lines "ID STATE NAME" of a file in
// the storage of the user. That of a user who may not enter the working directory fails.
func (g *Guest) podman(_ context.Context, p *sshtest.Proc) int {
	if !g.mayEnter(p.User, p.Dir) {
		return p.Fail(125, "cannot chdir to %s: Permission denied", p.Dir)
	}
	file := "/var/lib/containers/containers"
	if p.User != "root" {
		file = g.home(p.User) + "/.local/share/containers/containers"
	}
	data, _ := g.disk.ReadFile(file)
	args := p.Args[1:]
	switch {
	case slices.Equal(args, []string{"ps", "-q"}), slices.Equal(args, []string{"ps", "-aq"}):
		for line := range strings.Lines(string(data)) {
			if f := strings.Fields(line); len(f) == 3 && (args[1] == "-aq" || f[1] == "running") {
				fmt.Fprintln(p.Stdout, f[0])
			}
		}
	case len(args) == 3 && args[0] == "rm" && args[1] == "-f":
		var kept []string
		for line := range strings.Lines(string(data)) {
			if !strings.HasPrefix(line, args[2]+" ") {
				kept = append(kept, line)
			}
		}
		if err := g.disk.WriteFile(file, []byte(strings.Join(kept, "")), 0o600); err != nil {
			return p.Fail(125, "Error: %v", err)
		}
		fmt.Fprintln(p.Stdout, args[2])
	default:
		return p.NotSimulated(strings.Join(args, " "))
	}
	return 0
}

// mayEnter reports whether a user may be in a directory.
func (g *Guest) mayEnter(user, dir string) bool {
	for ; user != "root" && dir != "/" && dir != "."; dir = path.Dir(dir) {
		info, err := g.disk.Stat(dir)
		if err != nil {
			return false
		}
		mode := info.Mode().Perm()
		if owner, ok := info.Sys().(*sshtest.Owner); ok && owner.User == user {
			mode >>= 6
		}
		if mode&1 == 0 { // groups are not looked at: what they open is open to others, too
			return false
		}
	}
	return true
}

// findmnt knows: -n -o SOURCE|FSTYPE /.
func (g *Guest) findmnt(_ context.Context, p *sshtest.Proc) int {
	if len(p.Args) != 5 || p.Args[1] != "-n" || p.Args[2] != "-o" || p.Args[4] != "/" {
		return p.NotSimulated(strings.Join(p.Args[1:], " "))
	}
	switch p.Args[3] {
	case "SOURCE":
		fmt.Fprintln(p.Stdout, g.os.root)
	case "FSTYPE":
		fmt.Fprintln(p.Stdout, g.os.fs)
	default:
		return p.NotSimulated(p.Args[3])
	}
	return 0
}

// The partition is as large as this file says, in GiB; the file system as the disk says.
const partitionFile = "/boot/.partition-gib"

// growpart knows: /dev/sda N, with the number of the root partition.
func (g *Guest) growpart(_ context.Context, p *sshtest.Proc) int {
	n := strings.TrimPrefix(g.os.root, "/dev/sda")
	if !slices.Equal(p.Args[1:], []string{"/dev/sda", n}) {
		return p.NotSimulated(strings.Join(p.Args[1:], " "))
	}
	g.mu.Lock()
	want := fmt.Sprintf("%d\n", g.hw.DiskGiB)
	g.mu.Unlock()
	if have, _ := g.disk.ReadFile(partitionFile); string(have) == want || want == "0\n" {
		fmt.Fprintln(p.Stdout, "NOCHANGE: partition "+n+" cannot be grown")
		return 1
	}
	if err := g.disk.WriteFile(partitionFile, []byte(want), 0o600); err != nil {
		return p.Fail(2, "%v", err)
	}
	fmt.Fprintln(p.Stdout, "CHANGED: partition="+n)
	return 0
}

// xfsGrowfs knows: /.
func (g *Guest) xfsGrowfs(_ context.Context, p *sshtest.Proc) int {
	if !slices.Equal(p.Args[1:], []string{"/"}) {
		return p.NotSimulated(strings.Join(p.Args[1:], " "))
	}
	g.growFS()
	return 0
}

// resize2fs knows: the device of the root file system.
func (g *Guest) resize2fs(_ context.Context, p *sshtest.Proc) int {
	if !slices.Equal(p.Args[1:], []string{g.os.root}) {
		return p.NotSimulated(strings.Join(p.Args[1:], " "))
	}
	g.growFS()
	return 0
}

func (g *Guest) growFS() {
	var gib int64
	data, _ := g.disk.ReadFile(partitionFile)
	if _, err := fmt.Sscan(string(data), &gib); err == nil && gib > 0 {
		g.disk.SetSize(gib << 30)
	}
}

// hostnameCmd knows: [-s|-f].
func (g *Guest) hostnameCmd(_ context.Context, p *sshtest.Proc) int {
	if len(p.Args) > 2 || len(p.Args) == 2 && p.Args[1] != "-f" && p.Args[1] != "-s" {
		return p.NotSimulated(strings.Join(p.Args[1:], " "))
	}
	fmt.Fprintln(p.Stdout, g.host.Hostname())
	return 0
}

// onlyVersion is a program that is there, but of which nothing is simulated. It knows: --version.
func onlyVersion(_ context.Context, p *sshtest.Proc) int {
	if !slices.Equal(p.Args[1:], []string{"--version"}) {
		return p.NotSimulated(strings.Join(p.Args[1:], " "))
	}
	fmt.Fprintf(p.Stdout, "%s (simulated)\n", p.Args[0])
	return 0
}

// commands are the administration commands, by name.
func (g *Guest) commands() map[string]sshtest.Command {
	all := map[string]sshtest.Command{
		"journalctl": g.journalctl,
		"systemctl":  g.systemctl, "nmcli": g.nmcli, "NetworkManager": g.networkManager, "ip": g.ip,
		"firewall-cmd": g.firewallCmd, "sysctl": g.sysctlCmd, "timedatectl": g.timedatectl,
		"chronyc": g.chronyc, "hostnamectl": g.hostnamectl, "hostname": g.hostnameCmd, "dnsmasq": g.dnsmasqCmd,
		"dig": g.dig, "getent": g.getent, "ping": g.ping, "curl": g.curl, "ss": g.ss, "ssh": g.ssh,
		"dnf": g.dnf, "rpm": g.rpm, "needs-restarting": g.needsRestarting, "resize2fs": g.resize2fs,
		"apt-get": g.aptGet, "dpkg-query": g.dpkgQuery, "networkctl": g.networkctl, "dhclient": g.dhclient, "podman": g.podman,
		"findmnt": g.findmnt, "growpart": g.growpart, "xfs_growfs": g.xfsGrowfs,
		"python3": g.python3, "git": onlyVersion, "make": onlyVersion, "tmux": onlyVersion, "jq": onlyVersion, "rsync": onlyVersion,
	}
	maps.Copy(all, g.lab.opts.Commands)
	return all
}
