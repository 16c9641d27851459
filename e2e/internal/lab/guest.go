package lab

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/poolready/poolready/e2e/internal/netsim"
	"github.com/poolready/poolready/sshx/sshtest"
	"github.com/poolready/poolready/vsphere/vspheretest"
)

// A Guest is one running machine. It implements vspheretest.Guest.
type Guest struct {
	lab     *Lab
	machine *vspheretest.Machine
	disk    *sshtest.Disk
	os      *distro
	host    *sshtest.Host
	node    *netsim.Node
	kernel  string // that was booted

	life   context.Context // ends with Kill
	cancel context.CancelFunc
	work   sync.WaitGroup // what systemd has started

	power sync.Mutex // held while the guest reboots or is killed

	mu       sync.Mutex // guards what follows: all that a reboot forgets
	hw       vspheretest.Hardware
	links    []*link
	active   map[string]bool      // units
	failed   map[string]bool      // units
	services map[string]*service  // units of the user's own, that were started
	journal  []entry              // of theirs
	idle     map[string]time.Time // when services that others have started end by themselves
	conns    map[string]active    // NetworkManager's active connections, by interface
	metrics  map[string]int       // of the routes of links, by name
	networkd []netFile            // systemd-networkd's configuration, as it was read
	wired    []profile            // NetworkManager's automatic profiles, which are on no disk
	sysctl   map[string]string
	zone     zone // what firewalld applies
	names    *dnsmasq
	time     chrony
	aptDaily bool // apt-daily.service is still to run
	// listsFree is when it is done with apt's lists.
	listsFree time.Time
	early     bool     // the boot has not got to sshd yet
	rest      *startup // of the boot
}

// A link is a network interface.
type link struct {
	name, mac string
	port      int // index in hw.NICs
	parent    string
	vlan      int
	up        bool // set up by the guest
	mtu       int
	addrs     []netip.Prefix
	dynamic   bool // addrs are leased
	routes    []netsim.Route
}

// Host is the machine inside, for tests that look at it or break it.
func (g *Guest) Host() *sshtest.Host { return g.host }

// MAC is that of a NIC, by its number.
func (g *Guest) MAC(nic int) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return strings.ToLower(g.hw.NICs[nic].MAC)
}

// Serve makes a program listen on a TCP port until the next reboot, for tests.
func (g *Guest) Serve(port uint16, h func(conn net.Conn)) {
	g.node.HandleTCP(port, func(conn net.Conn, _ netip.AddrPort) { h(conn) })
}

// boot starts the system on m's disk.
func (l *Lab) boot(m *vspheretest.Machine) *Guest {
	g := l.newGuest(m)
	g.start()
	return g
}

func (l *Lab) newGuest(m *vspheretest.Machine) *Guest {
	disk := m.Disk.(Disk).Disk
	g := &Guest{
		lab: l, machine: m, disk: disk, os: distroOf(disk), host: sshtest.NewHost(disk), hw: m.Hardware,
		node: l.net.Attach(m.Hardware.Name),
	}
	g.life, g.cancel = context.WithCancel(context.Background())
	g.host.Commands = g.commands()
	g.host.Installed = g.installed
	g.host.Version = g.os.sshd
	g.host.OnNotSimulated = func(r sshtest.Refusal) {
		m.NotSimulated(&r)
		if f := l.opts.OnNotSimulated; f != nil {
			f(m.Hardware.Name, r)
		}
	}
	g.host.OnPowerOff = m.PowerOff
	g.host.OnReboot = g.reboot
	g.host.Dial = g.dialName
	if g.os == debian { // which has built its sudo so
		g.host.Lookup = g.lookupOwn
	}
	g.host.Bind = g.bind
	l.add(g)
	return g
}

// start is what happens between power on, or a reboot, and sshd's first answer; startRest is the rest.
func (g *Guest) start() {
	g.host.Boot()
	_ = g.disk.MkdirAll("/run/systemd/system", 0o755)
	_ = g.disk.WriteFile(nologin, []byte("System is booting up. Unprivileged users are not permitted to log in yet.\n"), 0o644)
	g.mu.Lock()
	g.links, g.conns, g.wired, g.names, g.networkd = nil, map[string]active{}, nil, nil, nil
	g.metrics, g.idle = map[string]int{}, map[string]time.Time{}
	g.active, g.failed = map[string]bool{}, map[string]bool{}
	g.services, g.journal = map[string]*service{}, nil
	g.sysctl, g.zone, g.time = map[string]string{}, zone{}, chrony{}
	g.early = true
	g.aptDaily, g.listsFree = g.os == debian, time.Time{}
	if config, err := g.aptConfig(); err == nil && slices.Contains(config["APT::Periodic::Enable"], "0") {
		g.aptDaily = false
	}
	g.mu.Unlock()

	if id, _ := g.disk.ReadFile("/etc/machine-id"); strings.TrimSpace(string(id)) == "" {
		b := make([]byte, 16)
		_, _ = rand.Read(b)
		_ = g.disk.WriteFile("/etc/machine-id", []byte(hex.EncodeToString(b)+"\n"), 0o444)
	}
	g.kernel = g.packages()["kernel"]
	g.sysctlBoot()
	g.plugIn()
	g.host.StopSSHD() // systemd starts it, if it is enabled
	for _, unit := range bootOrder {
		if slices.Contains(besideSSHD(), unit) {
			continue
		}
		if unit == "sshd" {
			g.startRest()
		}
		if u := g.os.unit(unit); g.unitExists(u) && g.enabled(u) {
			g.refusal(g.startUnit(unit))
		}
	}
}

// refusal reports an error that is one.
func (g *Guest) refusal(err error) {
	if r, ok := errors.AsType[*sshtest.Refusal](err); ok {
		g.host.OnNotSimulated(*r)
	}
	if what, ok := errors.AsType[errNotSimulated](err); ok {
		g.host.OnNotSimulated(sshtest.Refusal{Command: "systemd", What: string(what)})
	}
}

// bind is sshtest.Host.Bind.
func (g *Guest) bind(at netip.AddrPort, serve func(net.Conn)) (release func(), err error) {
	err = g.node.ListenTCP(at, func(conn net.Conn, _ netip.AddrPort) { serve(conn) })
	if errors.Is(err, netsim.ErrInUse) {
		err = fmt.Errorf("%w: %w", err, syscall.EADDRINUSE)
	}
	return func() { g.node.HandleTCP(at.Port(), nil) }, err
}

// plugIn makes a link for every NIC, in PCI order, as VMware's first slots are called.
func (g *Guest) plugIn() {
	g.mu.Lock()
	defer g.mu.Unlock()
	slots := []string{"ens192", "ens224", "ens256", "ens161", "ens193", "ens225", "ens257", "ens162", "ens194", "ens226"}
	for i, nic := range g.hw.NICs {
		g.host.ShowNIC(slots[i], nic.MAC)
		g.links = append(g.links, &link{name: slots[i], mac: strings.ToLower(nic.MAC), port: i, mtu: 1500})
	}
	g.apply()
}

// apply tells the network what has become of the guest. The caller holds mu.
func (g *Guest) apply() {
	cfg := netsim.Config{Forward4: g.sysctl["net.ipv4.ip_forward"] == "1", Forward6: g.sysctl["net.ipv6.conf.all.forwarding"] == "1"}
	for _, l := range g.links {
		nic := g.hw.NICs[l.port]
		cfg.Interfaces = append(cfg.Interfaces, netsim.Interface{
			Name: l.name, Segment: nic.Network, VLAN: l.vlan, Trunk: nic.Network == g.lab.opts.PrivateNetwork,
			Up: g.running(l), Addrs: slices.Clone(l.addrs),
		})
		cfg.Routes = append(cfg.Routes, l.routes...)
	}
	if g.active["firewalld"] {
		cfg.Filter = g.zone.filter()
		cfg.Masquerade = g.zone.masquerades()
		cfg.Between = []string{}
		if g.zone.Forward != nil {
			cfg.Between = g.zoneInterfaces(g.zone)
		}
		cfg.Forward6 = false
	}
	g.node.Configure(cfg)
}

// running reports whether a link is up, with its parent, and has a carrier. The caller holds mu.
func (g *Guest) running(l *link) bool {
	if l.parent != "" {
		if p := g.link(l.parent); p == nil || !p.up {
			return false
		}
	}
	return l.up && g.hw.NICs[l.port].Connected
}

// link returns an interface, or nil. The caller holds mu.
func (g *Guest) link(name string) *link {
	for _, l := range g.links {
		if l.name == name {
			return l
		}
	}
	return nil
}

// Info implements vspheretest.Guest.
func (g *Guest) Info() vspheretest.GuestInfo {
	info := vspheretest.GuestInfo{HostName: g.host.Hostname()}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, l := range g.links {
		if !l.up {
			continue // tools list what is up
		}
		nic := vspheretest.GuestNIC{MAC: l.mac, Connected: g.hw.NICs[l.port].Connected}
		if g.running(l) {
			nic.Addrs = slices.Clone(l.addrs)
		}
		info.NICs = append(info.NICs, nic)
	}
	return info
}

// ServeConn implements vspheretest.Guest: conn comes from the runner, on the lab network, and
// is served only if the runner's packets reach this guest.
func (g *Guest) ServeConn(conn net.Conn, to netip.AddrPort) {
	if to.Port() == 0 {
		to = netip.AddrPortFrom(to.Addr(), 22)
	}
	if n, err := g.lab.runner.Reaches(to); err != nil || n != g.node || !g.node.Serve(conn, to) {
		conn.Close()
	}
}

// Shutdown implements vspheretest.Guest.
func (g *Guest) Shutdown() { g.machine.PowerOff() }

// HardwareChanged implements vspheretest.Guest.
func (g *Guest) HardwareChanged(hw vspheretest.Hardware) {
	g.mu.Lock()
	var back []string // interfaces whose carrier has come
	for i := range min(len(hw.NICs), len(g.hw.NICs)) {
		if hw.NICs[i].Connected && !g.hw.NICs[i].Connected {
			for _, l := range g.links {
				if l.port == i {
					back = append(back, l.name)
				}
			}
		}
	}
	if len(hw.NICs) < len(g.hw.NICs) {
		g.links = slices.DeleteFunc(g.links, func(l *link) bool { return l.port >= len(hw.NICs) })
	}
	g.hw = hw
	g.apply()
	g.mu.Unlock()
	for _, name := range back {
		g.carrierCame(name)
	}
	g.machine.Changed()
}

// Kill implements vspheretest.Guest.
func (g *Guest) Kill() {
	g.cancel()
	g.power.Lock()
	defer g.power.Unlock()
	g.endStartup()
	g.forgetServices()
	g.host.Halt()
	g.node.Detach()
	g.work.Wait()
	g.lab.remove(g)
}

// reboot is what a command that requested one gets.
func (g *Guest) reboot() {
	g.power.Lock()
	defer g.power.Unlock()
	if g.life.Err() != nil {
		return
	}
	g.machine.Rebooted()
	g.endStartup()
	g.forgetServices()
	g.host.Halt()
	g.node.Reset()
	g.start()
	g.machine.Changed()
}
