package lab

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/poolready/poolready/e2e/internal/netsim"
	"github.com/poolready/poolready/sshx/sshtest"
	"github.com/poolready/poolready/vsphere/vspheretest"
)

// Options describe the lab. The zero value is the lab of the con/dis system, without
// reservations.
type Options struct {
	// LabNetwork, PrivateNetwork and ExternalNetwork are port groups; "" means "Lab Network",
	// "Private Network" (a trunk, without DHCP) and "External Network".
	LabNetwork, PrivateNetwork, ExternalNetwork string
	// Reserved maps MACs to the addresses that the lab's DHCP server keeps for them.
	Reserved map[string]netip.Addr
	// AuthorizedKey is the public key that templates let in as root, in authorized_keys form.
	AuthorizedKey string
	// NameServer is the lab's name and time server; the zero value means 10.0.1.8.
	NameServer netip.Addr
	// Debian are the names of templates that are of the Debian 12 kind. All others are of the RHEL
	// 9 kind.
	Debian []string
	// Commands are programs of the user's own, on every machine, unless one of Packages has them.
	Commands map[string]sshtest.Command
	// Packages are the user's own, which the mirrors have beside theirs.
	Packages map[string]Package
	// OnNotSimulated, if set, is called for what a machine refuses, besides its hypervisor.
	OnNotSimulated func(vm string, r sshtest.Refusal)
	// Prepare, if set, changes the disk that every template has.
	Prepare func(disk *sshtest.Disk)
}

// A Package is one of the user's own, for every system.
type Package struct {
	Version  string            // "" means 1.0-1
	Commands []string          // of Options.Commands, that it brings
	Files    map[string]string // by absolute path
}

// pkg is the package as the mirrors have it.
func (p Package) pkg() pkg {
	out := pkg{version: cmp.Or(p.Version, "1.0-1"), commands: p.Commands, files: p.Files, own: true}
	for file := range p.Files {
		if unit, ok := strings.CutSuffix(strings.TrimPrefix(file, unitDir), ".service"); ok && strings.HasPrefix(file, unitDir) {
			out.units = append(out.units, unit)
		}
	}
	slices.Sort(out.units)
	return out
}

// Validate returns all faults of the user's own commands and packages.
func (o Options) Validate() error {
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	for name, c := range o.Commands {
		if name == "" || strings.ContainsAny(name, "/ \n\t") {
			fault("Commands[%q] is not the name of a program", name)
		} else if c == nil {
			fault("Commands[%q] is nil", name)
		}
	}
	for name, p := range o.Packages {
		_, inRHEL := rhelMirror[name]
		_, inDebian := debianMirror[name]
		if name == "" || strings.ContainsAny(name, "/ \n\t") {
			fault("Packages[%q] is not the name of a package", name)
		} else if inRHEL || inDebian {
			fault("Packages[%q] is one that the mirrors have already", name)
		}
		if strings.ContainsAny(p.Version, " \n\t") {
			fault("Packages[%q].Version %q has a blank", name, p.Version)
		}
		for _, c := range p.Commands {
			if o.Commands[c] == nil {
				fault("Packages[%q].Commands has %q, which Commands has not", name, c)
			}
		}
		for file := range p.Files {
			if !path.IsAbs(file) || path.Clean(file) != file || file == "/" {
				fault("Packages[%q].Files has %q, which is not the absolute path of a file", name, file)
			}
		}
	}
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errors.Join(errs...)
}

// mirror returns the packages that a system's mirror has.
func (l *Lab) mirror(o *distro) map[string]pkg { return l.mirrors[o] }

// A Lab is one lab. It implements vspheretest.OS.
type Lab struct {
	opts   Options
	rhel   *sshtest.Disk // of templates
	debian *sshtest.Disk // of those in Options.Debian; nil if there are none
	net    *netsim.Network
	runner *netsim.Node
	web    *web

	mirrors map[*distro]map[string]pkg

	mu      sync.Mutex // guards what follows
	guests  map[string]*Guest
	deny    int // how many times more the mirror refuses
	served  int // how many times it did not
	startup time.Duration
}

// New returns a lab with nothing but its infrastructure. It needs no closing once all its
// guests are off.
func New(opts Options) *Lab {
	if opts.LabNetwork == "" {
		opts.LabNetwork = "Lab Network"
	}
	if opts.PrivateNetwork == "" {
		opts.PrivateNetwork = "Private Network"
	}
	if opts.ExternalNetwork == "" {
		opts.ExternalNetwork = "External Network"
	}
	if !opts.NameServer.IsValid() {
		opts.NameServer = netip.MustParseAddr("10.0.1.8")
	}
	l := &Lab{opts: opts, net: netsim.New(), guests: make(map[string]*Guest), startup: 20 * time.Millisecond, mirrors: map[*distro]map[string]pkg{}}
	for _, o := range []*distro{rhel, debian} {
		all := maps.Clone(o.mirror)
		for name, p := range opts.Packages {
			all[name] = p.pkg()
		}
		l.mirrors[o] = all
	}
	l.rhel = l.newTemplate(rhel)
	if len(opts.Debian) > 0 {
		l.debian = l.newTemplate(debian)
	}
	l.build()
	return l
}

func (l *Lab) newTemplate(o *distro) *sshtest.Disk {
	d := sshtest.NewDisk()
	o.installTemplate(d, l.opts.AuthorizedKey)
	if l.opts.Prepare != nil {
		l.opts.Prepare(d)
	}
	return d
}

// Refuse makes the package mirror turn away n requests, as one does that limits the
// rate.
func (l *Lab) Refuse(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.deny = n
}

// SetStartup says how long guests that are booted from now on go on starting after sshd; without,
// 20 ms.
func (l *Lab) SetStartup(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.startup = d
}

// refused reports whether the mirror turns somebody away.
func (l *Lab) refused() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.deny > 0 {
		l.deny--
		return true
	}
	l.served++
	return false
}

// Served is how many times the package mirror has served somebody.
func (l *Lab) Served() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.served
}

// Disk is the disk of a guest.
type Disk struct{ *sshtest.Disk }

// Clone implements vspheretest.Disk.
func (d Disk) Clone() vspheretest.Disk { return Disk{d.Disk.Clone()} }

// Install implements vspheretest.OS: the disk of a template, as its makers left it.
func (l *Lab) Install(hw vspheretest.Hardware) vspheretest.Disk {
	if slices.Contains(l.opts.Debian, hw.Name) {
		return Disk{l.debian.Clone()}
	}
	return Disk{l.rhel.Clone()}
}

// HostKeys returns the public host keys of templates, and so of all that is cloned from them, in
// authorized_keys form.
func (l *Lab) HostKeys() []string {
	var keys []string
	for _, d := range []*sshtest.Disk{l.rhel, l.debian} {
		if d == nil {
			continue
		}
		entries, _ := d.ReadDir("/etc/ssh")
		for _, e := range entries {
			if ok, _ := path.Match("ssh_host_*_key.pub", e.Name()); ok {
				data, _ := d.ReadFile("/etc/ssh/" + e.Name())
				keys = append(keys, strings.TrimSpace(string(data)))
			}
		}
	}
	return keys
}

// Boot implements vspheretest.OS.
func (l *Lab) Boot(m *vspheretest.Machine) vspheretest.Guest { return l.boot(m) }

// Guest returns the running guest of the VM of that name, for tests that break or look at it,
// or nil.
func (l *Lab) Guest(name string) *Guest {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.guests[name]
}

func (l *Lab) add(g *Guest) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.guests[g.hw.Name] = g
}

func (l *Lab) remove(g *Guest) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.guests[g.hw.Name] == g {
		delete(l.guests, g.hw.Name)
	}
}

// Infrastructure of the lab. Names on the internet are of documentation domains where
// nothing else is said.
var (
	labGateway  = netip.MustParseAddr("10.0.1.1")
	runnerAddr  = netip.MustParseAddr("10.0.1.5")
	extGateway  = netip.MustParseAddr("192.168.50.1")
	extGateway6 = netip.MustParseAddr("2001:db8:50::1")
)

// names are what public name servers know.
var names = map[string][]netip.Addr{
	"example.org.":        addrs("203.0.113.80"),
	"www.example.org.":    addrs("203.0.113.80"),
	"mirror.example.net.": addrs("203.0.113.10"),
	"dns.google.":         addrs("8.8.8.8", "2001:4860:4860::8888"),
	"one.one.one.one.":    addrs("1.1.1.1", "2606:4700:4700::1111"),
}

func addrs(list ...string) []netip.Addr {
	var a []netip.Addr
	for _, s := range list {
		a = append(a, netip.MustParseAddr(s))
	}
	return a
}

const internet = "internet" // the segment that stands for all of it

// build attaches the machines that every lab has.
func (l *Lab) build() {
	l.web = newWeb()
	pfx := netip.MustParsePrefix
	lan, ext := l.opts.LabNetwork, l.opts.ExternalNetwork
	everywhere := []netsim.Route{{Dst: pfx("0.0.0.0/0"), Dev: "inet"}, {Dst: pfx("::/0"), Dev: "inet"}}

	gateway := l.net.Attach("lab gateway")
	gateway.Configure(netsim.Config{
		Interfaces: []netsim.Interface{
			{Name: "lan", Segment: lan, Up: true, Addrs: []netip.Prefix{netip.PrefixFrom(labGateway, 20)}},
			{Name: "inet", Segment: internet, Up: true, Addrs: []netip.Prefix{pfx("198.51.100.1/32")}},
		},
		Routes: everywhere, Forward4: true, Masquerade: true,
	})

	router := l.net.Attach("internet router")
	router.Configure(netsim.Config{
		Interfaces: []netsim.Interface{
			{Name: "lan", Segment: ext, Up: true, Addrs: []netip.Prefix{netip.PrefixFrom(extGateway, 24), netip.PrefixFrom(extGateway6, 64)}},
			{Name: "inet", Segment: internet, Up: true, Addrs: []netip.Prefix{pfx("198.51.100.2/32"), pfx("2001:db8:ffff::2/128")}},
		},
		Routes: everywhere, Forward4: true, Forward6: true, Masquerade: true,
	})
	router.HandleUDP(53, dnsUDP(publicNames))
	router.HandleTCP(53, dnsTCP(publicNames))

	server := l.net.Attach("lab server")
	server.Configure(netsim.Config{
		Interfaces: []netsim.Interface{{Name: "lan", Segment: lan, Up: true, Addrs: []netip.Prefix{netip.PrefixFrom(l.opts.NameServer, 20)}}},
		Routes:     []netsim.Route{{Dst: pfx("0.0.0.0/0"), Via: labGateway, Dev: "lan"}},
	})
	server.HandleUDP(53, dnsUDP(publicNames))
	server.HandleTCP(53, dnsTCP(publicNames))
	server.HandleUDP(123, ntpAnswer)

	l.runner = l.net.Attach("runner")
	l.runner.Configure(netsim.Config{
		Interfaces: []netsim.Interface{{Name: "lan", Segment: lan, Up: true, Addrs: []netip.Prefix{netip.PrefixFrom(runnerAddr, 20)}}},
		Routes:     []netsim.Route{{Dst: pfx("0.0.0.0/0"), Via: labGateway, Dev: "lan"}},
	})

	reserved := make(map[string]netip.Addr)
	for mac, a := range l.opts.Reserved {
		reserved[strings.ToLower(mac)] = a
	}
	l.net.ServeDHCP(lan, &netsim.DHCP{
		Server: server, Reserved: reserved, Pool: pfx("10.0.8.0/22"), Bits: 20,
		Gateway: labGateway, DNS: []netip.Addr{l.opts.NameServer}, MTU: 9000,
	})
	l.net.ServeDHCP(ext, &netsim.DHCP{
		Server: router, Pool: pfx("192.168.50.128/25"), Bits: 24, Gateway: extGateway, DNS: []netip.Addr{extGateway},
		Router6: extGateway6, Prefix6: pfx("2001:db8:50::/64"),
	})

	l.internetHost("public dns", "1.1.1.1", "2606:4700:4700::1111")
	l.internetHost("other public dns", "8.8.8.8", "2001:4860:4860::8888")
	l.internetHost("mirror", "203.0.113.10")
	l.internetHost("www", "203.0.113.80")
}

// internetHost attaches a machine that serves web pages and names on its addresses.
func (l *Lab) internetHost(name string, at ...string) {
	var prefixes []netip.Prefix
	for _, a := range addrs(at...) {
		prefixes = append(prefixes, netip.PrefixFrom(a, a.BitLen()))
	}
	n := l.net.Attach(name)
	n.Configure(netsim.Config{
		Interfaces: []netsim.Interface{{Name: "inet", Segment: internet, Up: true, Addrs: prefixes}},
		Routes: []netsim.Route{
			{Dst: netip.MustParsePrefix("0.0.0.0/0"), Dev: "inet"},
			{Dst: netip.MustParsePrefix("2001:db8:50::/64"), Via: netip.MustParseAddr("2001:db8:ffff::2"), Dev: "inet"},
			{Dst: netip.MustParsePrefix("::/0"), Dev: "inet"},
		},
	})
	n.HandleUDP(53, dnsUDP(publicNames))
	n.HandleTCP(53, dnsTCP(publicNames))
	n.HandleTCP(80, l.web.http)
	n.HandleTCP(443, l.web.https)
}
