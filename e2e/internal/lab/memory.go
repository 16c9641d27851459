package lab

import (
	"encoding/json"
	"errors"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/poolready/poolready/e2e/internal/netsim"
	"github.com/poolready/poolready/vsphere/vspheretest"
)

var (
	_ vspheretest.Resumer     = (*Lab)(nil)
	_ vspheretest.MemorySaver = (*Guest)(nil)
)

// A memory is what a running guest knows beside its disk. The configuration of services is not in
// it: sshd, chronyd and dnsmasq read theirs again, and programs of the user's own are called again, with
// Proc.Resumed.
type memory struct {
	Host           []byte
	Kernel         string
	Links          []frozenLink
	Active, Failed map[string]bool
	Services       []string // that run, of the user's own
	Conns          map[string]frozenConn
	Wired          []frozenConn
	Sysctl         map[string]string
	Zone           zone
}

type frozenLink struct {
	Name, MAC, Parent string
	Port, VLAN, MTU   int
	Up, Dynamic       bool
	Addrs             []netip.Prefix
	Routes            []netsim.Route
}

type frozenConn struct {
	Props  map[string]string
	OnDisk bool
	DNS    []netip.Addr
	Metric int
	ByNM   bool
}

// SaveMemory implements vspheretest.MemorySaver.
func (g *Guest) SaveMemory() (vspheretest.Disk, []byte, error) {
	disk, host, err := g.host.SaveMemory()
	if err != nil {
		return nil, nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	m := memory{Host: host, Kernel: g.kernel, Active: g.active, Failed: g.failed, Conns: map[string]frozenConn{}, Sysctl: g.sysctl, Zone: g.zone}
	for name, s := range g.services {
		if s.run != nil {
			m.Services = append(m.Services, name)
		}
	}
	slices.Sort(m.Services)
	for _, l := range g.links {
		m.Links = append(m.Links, frozenLink{l.name, l.mac, l.parent, l.port, l.vlan, l.mtu, l.up, l.dynamic, l.addrs, l.routes})
	}
	for name, a := range g.conns {
		m.Conns[name] = frozenConn{a.profile.props, a.profile.onDisk, a.dns, a.metric, a.byNetworkManager}
	}
	for _, p := range g.wired {
		m.Wired = append(m.Wired, frozenConn{Props: p.props, OnDisk: p.onDisk})
	}
	data, err := json.Marshal(m)
	return Disk{disk}, data, err
}

// Resume implements vspheretest.Resumer. A guest has the leases of then, whatever the servers have
// done with them since.
func (l *Lab) Resume(m *vspheretest.Machine, saved []byte) (vspheretest.Guest, error) {
	var then memory
	if err := json.Unmarshal(saved, &then); err != nil {
		return nil, err
	}
	g := l.newGuest(m)
	if err := g.host.Resume(then.Host); err != nil {
		g.Kill()
		return nil, err
	}
	g.mu.Lock()
	g.kernel, g.active, g.failed, g.sysctl, g.zone = then.Kernel, then.Active, then.Failed, then.Sysctl, then.Zone
	for _, f := range then.Links {
		g.links = append(g.links, &link{f.Name, f.MAC, f.Port, f.Parent, f.VLAN, f.Up, f.MTU, f.Addrs, f.Dynamic, f.Routes})
	}
	g.conns, g.metrics, g.idle = map[string]active{}, map[string]int{}, map[string]time.Time{}
	for name, c := range then.Conns {
		g.conns[name] = active{profile{c.Props, c.OnDisk}, c.DNS, c.Metric, c.ByNM}
		g.metrics[name] = c.Metric
	}
	for _, w := range then.Wired {
		g.wired = append(g.wired, profile{w.Props, w.OnDisk})
	}
	g.apply()
	g.mu.Unlock()
	g.services = map[string]*service{}
	err := g.serveAgain()
	for _, unit := range then.Services {
		err = errors.Join(err, g.startService(unit, true))
	}
	if err != nil {
		g.Kill()
		return nil, err
	}
	return g, nil
}

// serveAgain has the services that are active listen.
func (g *Guest) serveAgain() error {
	if g.host.SSHDRunning() {
		g.node.HandleTCP(22, func(conn net.Conn, _ netip.AddrPort) { g.host.ServeConn(conn) })
	}
	for unit, start := range map[string]func() error{"chronyd": g.chronyStart, "dnsmasq": g.dnsmasqStart} {
		if g.isActive(unit) {
			if err := start(); err != nil {
				return err
			}
		}
	}
	return nil
}
