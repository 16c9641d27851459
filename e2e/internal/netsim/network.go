package netsim

import (
	"net/netip"
	"slices"
	"sync"
)

// A Network is everything that machines are plugged into. It may be used from any goroutine.
type Network struct {
	mu    sync.RWMutex // guards nodes, and the configuration and services of each
	nodes []*Node
	dhcp  map[string]*DHCP // by segment
}

// New returns a network that nothing is plugged into.
func New() *Network { return &Network{dhcp: make(map[string]*DHCP)} }

// A Node is one machine on the network.
type Node struct {
	net  *Network
	name string

	cfg   Config
	udp   map[uint16]UDPHandler
	tcp   map[uint16]tcpPort
	gone  bool
	conns connSet
}

// Attach plugs in a machine, as yet without interfaces. The caller calls Detach.
func (n *Network) Attach(name string) *Node {
	n.mu.Lock()
	defer n.mu.Unlock()
	m := &Node{net: n, name: name, udp: make(map[uint16]UDPHandler), tcp: make(map[uint16]tcpPort)}
	m.conns.init()
	n.nodes = append(n.nodes, m)
	return m
}

// Detach unplugs the machine for good, breaks its connections, and returns when no handler of
// its services is still running.
func (m *Node) Detach() {
	m.net.mu.Lock()
	m.gone = true
	m.net.nodes = slices.DeleteFunc(m.net.nodes, func(o *Node) bool { return o == m })
	m.net.mu.Unlock()
	m.conns.close()
}

// Name is the name that the machine was attached under.
func (m *Node) Name() string { return m.name }

// Config is how a machine is connected at one moment.
type Config struct {
	Interfaces []Interface
	// Routes besides those that the addresses of interfaces make by themselves.
	Routes []Route
	// Forward4 and Forward6 pass on what is not for the machine itself.
	Forward4, Forward6 bool
	// Between, if it is not nil, names the only interfaces that it passes on between, what answers
	// to what has been passed on excepted.
	Between []string
	// Masquerade gives what is passed on the address of the interface that it leaves by, IPv4 only.
	Masquerade bool
	// Filter is nil for a machine that lets everything in.
	Filter *Filter
}

// An Interface is one network interface. Loopback is always there and need not be named.
type Interface struct {
	Name    string
	Segment string // what it is plugged into: a port group, a cable
	VLAN    int    // 802.1Q tag; 0 is untagged
	Trunk   bool   // the segment passes tagged frames to this interface
	Up      bool   // set up by its machine, and the link is there
	Addrs   []netip.Prefix
}

// A Route leads to Dst by Via, or directly if Via is the zero Addr.
type Route struct {
	Dst    netip.Prefix
	Via    netip.Addr
	Dev    string
	Metric int
}

// A Filter is a packet filter for what comes in. Pings and answers pass.
type Filter struct {
	Open []Service
}

// A Service is a protocol ("tcp", "udp") and a port.
type Service struct {
	Proto string
	Port  uint16
}

// Configure replaces the machine's configuration.
func (m *Node) Configure(cfg Config) {
	m.net.mu.Lock()
	defer m.net.mu.Unlock()
	m.cfg = cfg
}

// Config returns the machine's configuration. The caller does not change it.
func (m *Node) Config() Config {
	m.net.mu.RLock()
	defer m.net.mu.RUnlock()
	return m.cfg
}

func (f *Filter) passes(proto string, port uint16) bool {
	return f == nil || proto == "icmp" || slices.Contains(f.Open, Service{proto, port})
}

// owns reports whether a is one of the machine's addresses. Like Linux, it answers to all its
// addresses on every interface.
func (m *Node) owns(a netip.Addr) bool {
	if a.IsLoopback() {
		return true
	}
	for _, i := range m.cfg.Interfaces {
		if i.Up && i.has(a) {
			return true
		}
	}
	return false
}

func (i Interface) has(a netip.Addr) bool {
	return slices.ContainsFunc(i.Addrs, func(p netip.Prefix) bool { return p.Addr() == a })
}

// source is the address that the interface sends from to next.
func (i Interface) source(next netip.Addr) netip.Addr {
	var found netip.Addr
	for _, p := range i.Addrs {
		switch {
		case p.Addr().Is4() != next.Is4():
		case p.Contains(next):
			return p.Addr()
		case !found.IsValid() && !p.Addr().IsLinkLocalUnicast():
			found = p.Addr()
		}
	}
	return found
}

// route returns the interface and the next hop to dst.
func (c Config) route(dst netip.Addr) (Interface, netip.Addr, bool) {
	best, bits, metric := Interface{}, -1, 0
	var next netip.Addr
	consider := func(i Interface, p netip.Prefix, via netip.Addr, m int) {
		if !i.Up || p.Addr().Is4() != dst.Is4() || !p.Contains(dst) {
			return
		}
		if p.Bits() > bits || p.Bits() == bits && m < metric {
			best, bits, metric, next = i, p.Bits(), m, dst
			if via.IsValid() {
				next = via
			}
		}
	}
	for _, i := range c.Interfaces {
		for _, p := range i.Addrs {
			consider(i, p.Masked(), netip.Addr{}, 0)
		}
	}
	for _, r := range c.Routes {
		for _, i := range c.Interfaces {
			if i.Name == r.Dev {
				consider(i, r.Dst, r.Via, r.Metric)
			}
		}
	}
	return best, next, bits >= 0
}

// Route returns the interface, next hop and source address of what the machine sends to dst;
// ok is false if it has no route.
func (m *Node) Route(dst netip.Addr) (dev string, next, src netip.Addr, ok bool) {
	m.net.mu.RLock()
	defer m.net.mu.RUnlock()
	i, next, ok := m.cfg.route(dst)
	return i.Name, next, i.source(next), ok
}

// Reset is what a reboot does: no interfaces, no services, and connections broken. It returns
// when no handler of a connection is still running.
func (m *Node) Reset() {
	m.net.mu.Lock()
	m.cfg = Config{}
	clear(m.udp)
	clear(m.tcp)
	m.net.mu.Unlock()
	m.conns.drop()
}
