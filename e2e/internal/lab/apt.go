package lab

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/poolready/poolready/sshx/sshtest"
)

const (
	dpkgStatus = "/var/lib/dpkg/status"
	aptList    = "/var/lib/apt/lists/mirror.example.net_debian_dists_stable_InRelease"
)

// debianMirror holds all packages that can be had. Nothing of these starts before it is installed,
// and then it does at once, as Debian's packages do.
var debianMirror = map[string]pkg{
	"linux-image-amd64":          {version: "6.1.76-1", update: "6.1.112-1", needs: []string{"linux-image-6.1.0-26-amd64"}},
	"linux-image-6.1.0-18-amd64": {version: "6.1.76-1"},
	"linux-image-6.1.0-26-amd64": {version: "6.1.112-1"},
	"libssl3":                    {version: "3.0.11-1~deb12u2", update: "3.0.15-1~deb12u1"},
	"bash":                       {version: "5.2.15-2+b2", essential: true},
	"hostname":                   {version: "3.23+nmu1", commands: []string{"hostname"}, essential: true},
	"openssh-server":             {version: "1:9.2p1-2+deb12u2", update: "1:9.2p1-2+deb12u3", units: []string{"ssh"}, conffile: "/etc/ssh/sshd_config"},
	"openssh-client":             {version: "1:9.2p1-2+deb12u2", update: "1:9.2p1-2+deb12u3", commands: []string{"ssh"}},
	"sudo":                       {version: "1.9.13p3-1+deb12u1"},
	"systemd":                    {version: "252.22-1~deb12u1", essential: true, units: []string{"systemd-networkd"}, commands: []string{"networkctl"}},
	"systemd-timesyncd":          {version: "252.22-1~deb12u1", units: []string{"systemd-timesyncd"}},
	"ifupdown":                   {version: "0.8.41", units: []string{"networking"}},
	"isc-dhcp-client":            {version: "4.4.3-P1-2", commands: []string{"dhclient"}},
	"iputils-ping":               {version: "3:20221126-1", commands: []string{"ping"}},
	"e2fsprogs":                  {version: "1.47.0-2", commands: []string{"resize2fs"}},
	"python3-yaml":               {version: "6.0-3+b2"},
	"chrony": {version: "4.3-2+deb12u1", commands: []string{"chronyc"}, units: []string{"chrony"}, conflicts: "systemd-timesyncd", files: map[string]string{
		"/etc/chrony/chrony.conf": "confdir /etc/chrony/conf.d\npool 2.debian.pool.ntp.org iburst\nsourcedir /run/chrony-dhcp\nsourcedir /etc/chrony/sources.d\n" +
			"keyfile /etc/chrony/chrony.keys\ndriftfile /var/lib/chrony/chrony.drift\nntsdumpdir /var/lib/chrony\nlogdir /var/log/chrony\nmaxupdateskew 100.0\nrtcsync\nmakestep 1 3\nleapsectz right/UTC\n",
	}},
	"network-manager": {version: "1.42.4-1", commands: []string{"nmcli", "NetworkManager"}, units: []string{"NetworkManager"}, files: map[string]string{
		"/etc/NetworkManager/NetworkManager.conf": "[main]\nplugins=ifupdown,keyfile\n\n[ifupdown]\nmanaged=false\n",
	}},
	"firewalld": {version: "1.3.3-1~deb12u1", commands: []string{"firewall-cmd"}, units: []string{"firewalld"}, files: map[string]string{
		zoneFileDefault: "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<zone>\n  <short>Public</short>\n  <service name=\"ssh\"/>\n  <service name=\"dhcpv6-client\"/>\n  <forward/>\n</zone>\n", firewalldConf: "# firewalld config file\nDefaultZone=public\n",
	}},
	"dnsmasq": {version: "2.90-4~deb12u1", commands: []string{"dnsmasq"}, units: []string{"dnsmasq"}, files: map[string]string{
		"/etc/dnsmasq.conf": "# Configuration file for dnsmasq.\n#conf-dir=/etc/dnsmasq.d\n",
	}},
	"bind9-dnsutils":    {version: "1:9.18.28-1~deb12u2", commands: []string{"dig"}},
	"curl":              {version: "7.88.1-10+deb12u7", commands: []string{"curl"}},
	"tmux":              {version: "3.3a-3", commands: []string{"tmux"}},
	"git":               {version: "1:2.39.5-0+deb12u1", commands: []string{"git"}},
	"make":              {version: "4.3-4.1", commands: []string{"make"}},
	"jq":                {version: "1.6-2.1", commands: []string{"jq"}},
	"podman":            {version: "4.3.1+ds1-8+b1", commands: []string{"podman"}},
	"rsync":             {version: "3.2.7-1", commands: []string{"rsync"}},
	"python3-jinja2":    {version: "3.1.2-1"},
	"cloud-guest-utils": {version: "0.33-1", commands: []string{"growpart"}},
}

var debianTemplate = []string{
	"linux-image-amd64", "linux-image-6.1.0-18-amd64", "libssl3", "bash", "hostname", "openssh-server", "openssh-client", "sudo", "systemd",
	"systemd-timesyncd", "ifupdown", "isc-dhcp-client", "iputils-ping", "e2fsprogs", "jq", "python3-yaml",
}

// readStatus returns the versions of the packages in dpkg's database that are wanted as it says:
// "install", or "deinstall" for those whose configuration is left.
func readStatus(d *sshtest.Disk, want string) map[string]string {
	have := map[string]string{}
	data, _ := d.ReadFile(dpkgStatus)
	for stanza := range strings.SplitSeq(string(data), "\n\n") {
		var name, status, version string
		for line := range strings.Lines(stanza) {
			switch k, v, _ := strings.Cut(strings.TrimSpace(line), ": "); k {
			case "Package":
				name = v
			case "Status":
				status = v
			case "Version":
				version = v
			}
		}
		if strings.HasPrefix(status, want+" ") {
			have[name] = version
		}
	}
	return have
}

// writeStatus writes dpkg's database. What was there and is no more leaves its configuration.
func writeStatus(d *sshtest.Disk, have map[string]string) error {
	left := readStatus(d, "deinstall")
	maps.Copy(left, readStatus(d, "install"))
	all := maps.Clone(left)
	maps.Copy(all, have)
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(all)) {
		status := "install ok installed"
		if _, ok := have[name]; !ok {
			status = "deinstall ok config-files"
		}
		fmt.Fprintf(&b, "Package: %s\nStatus: %s\nVersion: %s\n\n", name, status, all[name])
	}
	return d.WriteFile(dpkgStatus, []byte(b.String()), 0o644)
}

// aptOptions are those of apt's configuration and of -o that the simulation knows.
var aptOptions = []string{"DPkg::Lock::Timeout", "APT::Update::Error-Mode", "APT::Periodic::Enable", "Dpkg::Options", "Dpkg::Options::"}

var aptSetting = regexp.MustCompile(`^([A-Za-z:-]+) "([^"]*)";$`)

// aptConfig reads /etc/apt/apt.conf.d: lines of the form KEY "VALUE";.
func (g *Guest) aptConfig() (map[string][]string, error) {
	all := map[string][]string{}
	entries, _ := g.disk.ReadDir("/etc/apt/apt.conf.d")
	for _, e := range entries {
		data, _ := g.disk.ReadFile("/etc/apt/apt.conf.d/" + e.Name())
		for line := range strings.Lines(string(data)) {
			line = strings.TrimSpace(line)
			if line == "" || strings.HasPrefix(line, "//") || strings.HasPrefix(line, "#") {
				continue
			}
			m := aptSetting.FindStringSubmatch(line)
			if m == nil || !slices.Contains(aptOptions, m[1]) {
				return nil, errNotSimulated(line)
			}
			all[m[1]] = append(all[m[1]], m[2])
		}
	}
	return all, nil
}

// aptGet knows: [-y] [-q|-qq] [-o KEY=VALUE]... update|upgrade|dist-upgrade|clean,
// install|remove PACKAGE....
func (g *Guest) aptGet(ctx context.Context, p *sshtest.Proc) int {
	config, err := g.aptConfig()
	if err != nil {
		return p.NotSimulated(err.Error())
	}
	var words []string
	yes := false
	for args := p.Args[1:]; len(args) > 0; args = args[1:] {
		switch a := args[0]; {
		case a == "-y":
			yes = true
		case a == "-q" || a == "-qq":
			yes = yes || a == "-qq"
		case a == "-o" && len(args) > 1:
			k, v, _ := strings.Cut(args[1], "=")
			if !slices.Contains(aptOptions, k) {
				return p.NotSimulated(args[1])
			}
			config[k] = append(config[k], v)
			args = args[1:]
		case strings.HasPrefix(a, "-"):
			return p.NotSimulated(a)
		default:
			words = append(words, a)
		}
	}
	if len(words) == 0 {
		return p.NotSimulated("no command")
	}
	verb, names := words[0], words[1:]
	if takes := verb == "install" || verb == "remove"; takes != (len(names) > 0) {
		return p.NotSimulated(strings.Join(words, " "))
	}
	if p.User != "root" {
		return p.Fail(100, "E: Could not open lock file /var/lib/dpkg/lock-frontend - open (13: Permission denied)")
	}
	have := g.packages()
	switch verb {
	case "clean":
		_ = g.disk.RemoveAll("/var/cache/apt/archives")
		return 0
	case "update":
		return g.aptUpdate(ctx, p, config)
	case "upgrade", "dist-upgrade":
		names = g.upgradable(have, verb == "dist-upgrade")
	case "install":
		if code := g.aptFind(p, names); code != 0 {
			return code
		}
		names = slices.DeleteFunc(names, func(n string) bool { return have[n] == g.lab.mirror(g.os)[n].newest() })
	case "remove":
		if code := g.aptFind(p, names); code != 0 {
			return code
		}
		names = slices.DeleteFunc(names, func(n string) bool { _, ok := have[n]; return !ok })
	default:
		return p.NotSimulated(verb)
	}
	if len(names) == 0 {
		return 0
	}
	if !yes {
		return p.Fail(1, "Do you want to continue? [Y/n] Abort.") // stdin is at its end
	}
	if verb == "remove" {
		return g.aptRemove(p, have, names)
	}
	if err := g.reachMirror(ctx, 80); err != nil {
		return p.Fail(100, "E: Failed to fetch http://%s/debian/pool/main/: %v\nE: Unable to fetch some archives, maybe run apt-get update or try with --fix-missing?", mirrorHost, err)
	}
	return g.aptUnpack(p, config, have, names)
}

// aptUpdate gets the lists of packages. If it cannot, it says so and succeeds, unless told
// otherwise.
func (g *Guest) aptUpdate(ctx context.Context, p *sshtest.Proc, config map[string][]string) int {
	if g.aptDailyLocks() {
		fmt.Fprintln(p.Stderr, "E: Could not get lock /var/lib/apt/lists/lock. It is held by process 812 (apt-get)\n"+
			"E: Unable to lock directory /var/lib/apt/lists/")
		return 100
	}
	if err := g.reachMirror(ctx, 80); err != nil {
		why := err.Error()
		if errors.Is(err, errNoName) {
			why = "Temporary failure resolving '" + mirrorHost + "'"
		}
		if slices.Contains(config["APT::Update::Error-Mode"], "any") {
			return p.Fail(100, "E: Failed to fetch http://%s/debian/dists/stable/InRelease  %s", mirrorHost, why)
		}
		fmt.Fprintf(p.Stderr, "W: Failed to fetch http://%s/debian/dists/stable/InRelease  %s\nW: Some index files failed to download. They have been ignored, or old ones used instead.\n", mirrorHost, why)
		return 0
	}
	_ = g.disk.WriteFile(aptList, []byte("Origin: Debian\nCodename: bookworm\n"), 0o644)
	return 0
}

// aptDailyTime is how long apt-daily.service has the lists.
const aptDailyTime = 100 * time.Millisecond

// aptDailyLocks reports whether the service that gets apt's lists some time after a boot, where
// APT::Periodic::Enable was not "0" then, has their lock. It has when somebody first wants it:
// DPkg::Lock::Timeout is not for this one.
func (g *Guest) aptDailyLocks() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.aptDaily {
		g.aptDaily, g.listsFree = false, time.Now().Add(aptDailyTime)
	}
	return time.Now().Before(g.listsFree)
}

// aptFind looks packages up, in the lists and among what is installed.
func (g *Guest) aptFind(p *sshtest.Proc, names []string) int {
	_, err := g.disk.Stat(aptList)
	for _, n := range names {
		_, known := g.lab.mirror(g.os)[n]
		switch _, here := g.packages()[n]; {
		case here:
		case err != nil:
			return p.Fail(100, "E: Unable to locate package %s", n)
		case !known:
			return p.NotSimulated(unknownPackage(n))
		}
	}
	return 0
}

// upgradable are the packages with a newer version. Those that need another package, that is not
// there, are kept back by upgrade.
func (g *Guest) upgradable(have map[string]string, dist bool) []string {
	if _, err := g.disk.Stat(aptList); err != nil {
		return nil
	}
	return slices.DeleteFunc(g.outdated(have), func(n string) bool { return !dist && len(g.lab.mirror(g.os)[n].needs) > 0 })
}

func (g *Guest) aptUnpack(p *sshtest.Proc, config map[string][]string, have map[string]string, names []string) int {
	keep := slices.Contains(append(config["Dpkg::Options"], config["Dpkg::Options::"]...), "--force-confold")
	var starts []string // units
	for _, n := range names {
		m := g.lab.mirror(g.os)[n]
		_, before := have[n]
		if before && m.conffile != "" && !keep {
			return p.Fail(100, "Configuration file '%s'\n ==> Modified (by you or by a script) since installation.\ndpkg: error processing package %s (--configure):\n end of file on stdin at conffile prompt", m.conffile, n)
		}
		for _, other := range append(slices.Clone(m.needs), n) {
			have[other] = g.lab.mirror(g.os)[other].newest()
		}
		if other, ok := g.lab.mirror(g.os)[m.conflicts]; ok {
			delete(have, m.conflicts)
			g.removeUnits(other)
		}
		if before {
			g.restartUnits(m)
			continue
		}
		unpack(g.disk, m)
		starts = append(starts, slices.DeleteFunc(slices.Clone(m.units), func(u string) bool {
			return u == "systemd-networkd" // off unless the administrator says otherwise
		})...)
	}
	_ = g.disk.WriteFile("/var/cache/apt/archives/lock", nil, 0o640)
	if err := writeStatus(g.disk, have); err != nil {
		return p.Fail(100, "E: %v", err)
	}
	for _, u := range starts {
		g.os.enable(g.disk, u)
		g.refusal(g.startUnit(g.os.service(u)))
	}
	return 0
}

func (g *Guest) aptRemove(p *sshtest.Proc, have map[string]string, names []string) int {
	for _, n := range names {
		if g.lab.mirror(g.os)[n].essential {
			return p.Fail(100, "E: Essential packages were removed and -y was used without --allow-remove-essential.")
		}
	}
	for _, n := range names {
		delete(have, n)
		g.removeUnits(g.lab.mirror(g.os)[n])
	}
	if err := writeStatus(g.disk, have); err != nil {
		return p.Fail(100, "E: %v", err)
	}
	return 0
}

// dpkgQuery knows: -W -f FORMAT [PACKAGE...], with ${Package}, ${Version}, ${db:Status-Abbrev} and
// \n.
func (g *Guest) dpkgQuery(_ context.Context, p *sshtest.Proc) int {
	if len(p.Args) < 4 || p.Args[1] != "-W" || p.Args[2] != "-f" {
		return p.NotSimulated(strings.Join(p.Args[1:], " "))
	}
	format, names := p.Args[3], p.Args[4:]
	here, left := g.packages(), readStatus(g.disk, "deinstall")
	all := maps.Clone(here)
	maps.Copy(all, left)
	if len(names) == 0 {
		names = slices.Sorted(maps.Keys(all))
	}
	code := 0
	for _, n := range names {
		version, ok := all[n]
		if !ok {
			fmt.Fprintf(p.Stderr, "dpkg-query: no packages found matching %s\n", n)
			code = 1
			continue
		}
		abbrev := "ii "
		if _, ok := here[n]; !ok {
			abbrev = "rc "
		}
		line := strings.NewReplacer("${Package}", n, "${Version}", version, "${db:Status-Abbrev}", abbrev, `\n`, "\n").Replace(format)
		if strings.Contains(line, "${") {
			return p.NotSimulated(format)
		}
		fmt.Fprint(p.Stdout, line)
	}
	return code
}
