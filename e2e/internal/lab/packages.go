package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"path"
	"slices"
	"strings"

	"github.com/poolready/poolready/sshx/sshtest"
)

// A pkg is a package as the mirror has it.
type pkg struct {
	version  string            // that of templates
	update   string            // the newest one, or "" if that is version
	commands []string          // it brings
	units    []string          // it brings
	files    map[string]string // it brings
	own      bool              // it is the user's: what it brings goes with it

	// Of Debian's only.
	needs     []string // packages that its update brings along
	conflicts string   // a package that goes when it comes
	essential bool     // cannot be removed
	conffile  string   // that the recipe changes: an update asks about it
}

const rpmDB = "/var/lib/rpm/packages" // "NAME VERSION" lines

// rhelMirror holds all packages that can be had.
var rhelMirror = map[string]pkg{
	"kernel":         {version: "5.14.0-427.13.1", update: "5.14.0-427.40.1"},
	"openssl-libs":   {version: "3.0.7-27", update: "3.0.7-28"},
	"openssh-server": {version: "8.7p1-38", update: "8.7p1-43", units: []string{"sshd"}},
	"openssh":        {version: "8.7p1-38", update: "8.7p1-43"},
	"sudo":           {version: "1.9.5p2-10"},
	"hostname":       {version: "3.23-6", commands: []string{"hostname"}},
	"chrony": {version: "4.5-1", commands: []string{"chronyc"}, units: []string{"chronyd"}, files: map[string]string{
		"/etc/chrony.conf": "# Use public servers from the pool.ntp.org project.\npool 2.rhel.pool.ntp.org iburst\ndriftfile /var/lib/chrony/drift\nmakestep 1.0 3\nrtcsync\n",
	}},
	"NetworkManager": {version: "1.46.0-1", commands: []string{"nmcli", "NetworkManager"}, units: []string{"NetworkManager"}, files: map[string]string{
		"/etc/NetworkManager/NetworkManager.conf": "# Configuration file for NetworkManager.\n[main]\n#plugins=keyfile,ifcfg-rh\n\n[logging]\n",
	}},
	"firewalld": {version: "1.3.4-1", commands: []string{"firewall-cmd"}, units: []string{"firewalld"}, files: map[string]string{
		zoneFileDefault: "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<zone>\n  <short>Public</short>\n  <service name=\"ssh\"/>\n  <service name=\"dhcpv6-client\"/>\n  <service name=\"cockpit\"/>\n  <forward/>\n</zone>\n", firewalldConf: "# firewalld config file\nDefaultZone=public\n",
	}},
	"dnsmasq": {version: "2.85-16", commands: []string{"dnsmasq"}, units: []string{"dnsmasq"}, files: map[string]string{
		"/etc/dnsmasq.conf": "# Configuration file for dnsmasq.\nuser=dnsmasq\ngroup=dnsmasq\ninterface=lo\nbind-interfaces\nconf-dir=/etc/dnsmasq.d,.rpmnew,.rpmsave,.rpmorig\n",
	}},
	"bind-utils":           {version: "9.16.23-18", commands: []string{"dig"}},
	"curl":                 {version: "7.76.1-29", commands: []string{"curl"}},
	"tmux":                 {version: "3.2a-5", commands: []string{"tmux"}},
	"git":                  {version: "2.43.5-1", commands: []string{"git"}},
	"make":                 {version: "4.3-8", commands: []string{"make"}},
	"jq":                   {version: "1.6-17", commands: []string{"jq"}},
	"podman":               {version: "4.9.4-16", commands: []string{"podman"}},
	"rsync":                {version: "3.2.3-19", commands: []string{"rsync"}},
	"python3-jinja2":       {version: "2.11.3-6"},
	"python3-pyyaml":       {version: "5.4.1-6"},
	"cloud-utils-growpart": {version: "0.33-1", commands: []string{"growpart"}},
	"xfsprogs":             {version: "6.3.0-1", commands: []string{"xfs_growfs"}},
}

var rhelTemplate = []string{
	"kernel", "openssl-libs", "openssh", "openssh-server", "sudo", "hostname", "chrony", "NetworkManager", "firewalld",
	"curl", "make", "jq", "python3-pyyaml", "cloud-utils-growpart", "xfsprogs",
}

// packages are the versions of all that is installed.
func (g *Guest) packages() map[string]string { return g.os.readPackages(g.disk) }

func (o *distro) readPackages(d *sshtest.Disk) map[string]string {
	if o == debian {
		return readStatus(d, "install")
	}
	have := map[string]string{}
	data, _ := d.ReadFile(rpmDB)
	for line := range strings.Lines(string(data)) {
		if name, version, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			have[name] = version
		}
	}
	return have
}

func (o *distro) writePackages(d *sshtest.Disk, have map[string]string) error {
	if o == debian {
		return writeStatus(d, have)
	}
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(have)) {
		fmt.Fprintf(&b, "%s %s\n", name, have[name])
	}
	return d.WriteFile(rpmDB, []byte(b.String()), 0o644)
}

// unpack puts a package's files on the disk.
func unpack(d *sshtest.Disk, p pkg) {
	for file, text := range p.files {
		mode := fs.FileMode(0o644)
		if strings.HasPrefix(text, "#!") {
			mode = 0o755
		}
		if _, err := d.Stat(file); err != nil {
			_ = d.MkdirAll(path.Dir(file), 0o755)
			_ = d.WriteFile(file, []byte(text), mode)
		}
	}
	for _, u := range p.units {
		if _, own := p.files[unitDir+u+".service"]; own {
			continue
		}
		_ = d.WriteFile(unitDir+u+".service", []byte("[Unit]\nDescription="+u+"\n[Install]\nWantedBy=multi-user.target\n"), 0o644)
		if u == "dnsmasq" {
			_ = d.MkdirAll("/etc/dnsmasq.d", 0o755)
		}
		if u == "NetworkManager" {
			_ = d.MkdirAll("/etc/NetworkManager/conf.d", 0o755)
			_ = d.MkdirAll("/etc/NetworkManager/dispatcher.d", 0o755)
			_ = d.MkdirAll(profileDir, 0o755)
		}
	}
}

const mirrorHost = "mirror.example.net"

// reachMirror connects to the mirror, which may refuse: see Lab.Refuse.
func (g *Guest) reachMirror(ctx context.Context, port uint16) error {
	list, err := g.lookup(ctx, mirrorHost, false)
	if err != nil {
		return errNoName
	}
	conn, err := g.node.Dial(netip.AddrPortFrom(list[0], port))
	if err != nil {
		return err
	}
	if g.lab.refused() {
		err = errRefused
	}
	return errors.Join(err, conn.Close())
}

// unknownPackage is what is said of a package that real mirrors may have.
func unknownPackage(name string) string {
	return "the package " + name + ", of which nothing is known here: e2etest.Site.Packages adds packages"
}

// errRefused is what a mirror that limits the rate says.
var errRefused = errors.New("429 Too Many Requests")

// dnfMirror is what dnf does first: it gets the repository's metadata over HTTPS.
func (g *Guest) dnfMirror(ctx context.Context) error {
	const url = "https://" + mirrorHost + "/repodata/repomd.xml"
	switch err := g.reachMirror(ctx, 443); {
	case err == nil:
		return nil
	case errors.Is(err, errNoName):
		return fmt.Errorf("Curl error (6): Couldn't resolve host name for %s [Could not resolve host: %s]", url, mirrorHost)
	case errors.Is(err, errRefused):
		return fmt.Errorf("Status code: 429 for %s", url)
	default:
		return fmt.Errorf("Curl error (7): Couldn't connect to server for %s [%w]", url, err)
	}
}

// dnfRepo is the mirror's entry, which has dnf go on without it, as many of third parties have.
const dnfRepo = "/etc/yum.repos.d/base.repo"

// dnfSkips reports whether dnf does without the mirror if that cannot be had.
func (g *Guest) dnfSkips() bool {
	data, _ := g.disk.ReadFile(dnfRepo)
	for line := range strings.Lines(string(data)) {
		if k, v, _ := strings.Cut(strings.TrimSpace(line), "="); k == "skip_if_unavailable" {
			return v == "1" || strings.EqualFold(v, "true")
		}
	}
	return false
}

// dnf knows: [-y] [-q] install|remove PACKAGE..., [-y] [-q] update|upgrade, [-q] check-update, [-q]
// clean all, and --setopt=*.skip_if_unavailable=0|1.
func (g *Guest) dnf(ctx context.Context, p *sshtest.Proc) int {
	var words []string
	yes, skips := false, g.dnfSkips()
	for _, a := range p.Args[1:] {
		switch {
		case a == "--setopt=*.skip_if_unavailable=0", a == "--setopt=*.skip_if_unavailable=1":
			skips = strings.HasSuffix(a, "1")
		case a == "-y":
			yes = true
		case a == "-q":
		case strings.HasPrefix(a, "-"):
			return p.NotSimulated(a)
		default:
			words = append(words, a)
		}
	}
	if len(words) == 0 {
		return p.NotSimulated("no command")
	}
	verb, args := words[0], words[1:]
	switch {
	case verb == "clean" && slices.Equal(args, []string{"all"}):
		_ = g.disk.RemoveAll("/var/cache/dnf")
		return 0
	case verb == "check-update" && len(args) == 0:
	case (verb == "update" || verb == "upgrade") && len(args) == 0 && yes:
	case (verb == "install" || verb == "remove") && len(args) > 0 && yes:
	default:
		return p.NotSimulated(strings.Join(p.Args[1:], " "))
	}
	if p.User != "root" && verb != "check-update" {
		return p.Fail(1, "Error: This command has to be run with superuser privileges (under the root user on most systems).")
	}
	if verb != "remove" {
		switch err := g.dnfMirror(ctx); {
		case err == nil:
		case !skips:
			return p.Fail(1, "Error: Failed to download metadata for repo 'base': Cannot download repomd.xml: %v", err)
		default:
			fmt.Fprintf(p.Stderr, "Errors during downloading metadata for repository 'base':\n  - %v\nIgnoring repositories: base\n", err)
			if verb == "install" {
				return p.Fail(1, "Error: Unable to find a match: %s", strings.Join(args, " "))
			}
			return 0
		}
		_ = g.disk.WriteFile("/var/cache/dnf/base/repomd.xml", []byte("<repomd/>\n"), 0o644)
	}
	have := g.packages()
	switch verb {
	case "check-update":
		old := g.outdated(have)
		for _, name := range old {
			fmt.Fprintf(p.Stdout, "%s.x86_64  %s  base\n", name, g.lab.mirror(g.os)[name].newest())
		}
		if len(old) > 0 {
			return 100
		}
		return 0
	case "update", "upgrade":
		for _, name := range g.outdated(have) {
			have[name] = g.lab.mirror(g.os)[name].newest()
			g.restartUnits(g.lab.mirror(g.os)[name]) // as the packages' own scripts do
		}
	case "install":
		for _, name := range args {
			m, ok := g.lab.mirror(g.os)[name]
			if !ok {
				return p.NotSimulated(unknownPackage(name))
			}
			if _, ok := have[name]; !ok {
				have[name] = m.newest()
				unpack(g.disk, m)
			}
		}
	case "remove":
		for _, name := range args {
			if _, ok := have[name]; !ok {
				continue
			}
			delete(have, name)
			g.removeUnits(g.lab.mirror(g.os)[name])
		}
	}
	if err := g.os.writePackages(g.disk, have); err != nil {
		return p.Fail(1, "Error: %v", err)
	}
	return 0
}

func (p pkg) newest() string {
	if p.update != "" {
		return p.update
	}
	return p.version
}

// restartUnits restarts a package's services, if they run.
func (g *Guest) restartUnits(p pkg) {
	for _, u := range p.units {
		if s := g.os.service(u); g.isActive(s) {
			g.stopUnit(s)
			g.refusal(g.startUnit(s))
		}
	}
}

func (g *Guest) removeUnits(p pkg) {
	for _, u := range p.units {
		g.stopUnit(g.os.service(u))
		g.os.disable(g.disk, u)
		_ = g.disk.Remove(unitDir + u + ".service")
	}
	if p.own {
		for file := range p.files {
			if g.os != debian || !strings.HasPrefix(file, "/etc/") { // dpkg leaves configuration
				_ = g.disk.Remove(file)
			}
		}
	}
}

func (g *Guest) outdated(have map[string]string) []string {
	var old []string
	for _, name := range slices.Sorted(maps.Keys(have)) {
		if m, ok := g.lab.mirror(g.os)[name]; ok && m.newest() != have[name] {
			old = append(old, name)
		}
	}
	return old
}

// rpm knows: -q [--quiet] PACKAGE..., -qa.
func (g *Guest) rpm(_ context.Context, p *sshtest.Proc) int {
	args := p.Args[1:]
	have := g.packages()
	if slices.Equal(args, []string{"-qa"}) {
		for _, name := range slices.Sorted(maps.Keys(have)) {
			fmt.Fprintf(p.Stdout, "%s-%s.el9.x86_64\n", name, have[name])
		}
		return 0
	}
	if len(args) < 2 || args[0] != "-q" {
		return p.NotSimulated(strings.Join(args, " "))
	}
	quiet, missing := false, 0
	for _, name := range args[1:] {
		if name == "--quiet" {
			quiet = true
			continue
		}
		if strings.HasPrefix(name, "-") {
			return p.NotSimulated(name)
		}
		version, ok := have[name]
		switch {
		case !ok:
			missing++
			if !quiet {
				fmt.Fprintf(p.Stdout, "package %s is not installed\n", name)
			}
		case !quiet:
			fmt.Fprintf(p.Stdout, "%s-%s.el9.x86_64\n", name, version)
		}
	}
	return missing
}

// needsRestarting knows: -r.
func (g *Guest) needsRestarting(_ context.Context, p *sshtest.Proc) int {
	if !slices.Equal(p.Args[1:], []string{"-r"}) {
		return p.NotSimulated(strings.Join(p.Args[1:], " "))
	}
	if now := g.packages()["kernel"]; now != g.kernel {
		fmt.Fprintf(p.Stdout, "Core libraries or services have been updated since boot-up:\n  * kernel\n\nReboot is required to fully utilize these updates.\n")
		return 1
	}
	fmt.Fprintln(p.Stdout, "Reboot should not be necessary.")
	return 0
}
