package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"

	"github.com/miekg/dns"

	"github.com/poolready/poolready/sshx/sshtest"
)

// A dnsmasq is the configuration of a name server that runs.
type dnsmasq struct {
	servers     []netip.Addr
	noResolv    bool
	noHosts     bool
	bindIfs     bool // listens on the addresses of the moment it started
	interfaces  []string
	listen      []netip.Addr
	localOnly   string // local-service: "" no, "net" local subnets, "host" this machine
	addresses   []domainAddr
	hosts       map[string][]netip.Addr
	boundAtBoot []netip.Addr
}

// domainAddr answers for a domain and all below it.
type domainAddr struct {
	domain string // ends with a dot
	addr   netip.Addr
}

// dnsmasqConfig reads /etc/dnsmasq.conf and what it includes. It knows server, address,
// host-record, no-resolv, no-hosts, bind-dynamic, bind-interfaces, interface, listen-address,
// local-service, conf-dir, user, group, domain-needed, bogus-priv and cache-size.
func (g *Guest) dnsmasqConfig() (*dnsmasq, error) {
	c := &dnsmasq{hosts: map[string][]netip.Addr{}}
	if err := g.dnsmasqFile(c, "/etc/dnsmasq.conf", true); err != nil {
		return nil, err
	}
	if g.os == debian { // its service says these on the command line
		c.localOnly = "net"
		if err := g.dnsmasqOption(c, "conf-dir", "/etc/dnsmasq.d,.dpkg-dist,.dpkg-old,.dpkg-new", true); err != nil {
			return nil, err
		}
	}
	if !c.noHosts {
		for name, list := range g.hostsFile() {
			key := dns.Fqdn(name)
			for _, a := range list {
				if !slices.Contains(c.hosts[key], a) {
					c.hosts[key] = append(c.hosts[key], a)
				}
			}
		}
	}
	return c, nil
}

func (g *Guest) dnsmasqFile(c *dnsmasq, file string, include bool) error {
	data, err := g.disk.ReadFile(file)
	if err != nil {
		return fmt.Errorf("cannot read %s: %w", file, err)
	}
	n := 0
	for line := range strings.Lines(string(data)) {
		n++
		line, _, _ = strings.Cut(strings.TrimSpace(line), "#")
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		key, value, _ := strings.Cut(line, "=")
		if err := g.dnsmasqOption(c, strings.TrimSpace(key), strings.TrimSpace(value), include); err != nil {
			return fmt.Errorf("%w at line %d of %s", err, n, file)
		}
	}
	return nil
}

func (g *Guest) dnsmasqOption(c *dnsmasq, key, value string, include bool) error {
	bad := errors.New("bad option")
	switch key {
	case "no-resolv":
		c.noResolv = true
	case "no-hosts":
		c.noHosts = true
	case "bind-dynamic", "domain-needed", "bogus-priv", "user", "group", "cache-size":
	case "bind-interfaces":
		c.bindIfs = true
	case "interface":
		c.interfaces = append(c.interfaces, value)
	case "local-service":
		c.localOnly = "net"
		if value != "" {
			c.localOnly = value
		}
	case "listen-address":
		for _, s := range strings.Split(value, ",") {
			a, err := netip.ParseAddr(s)
			if err != nil {
				return bad
			}
			c.listen = append(c.listen, a)
		}
	case "server":
		a, err := netip.ParseAddr(value)
		if err != nil {
			return bad
		}
		c.servers = append(c.servers, a)
	case "address":
		f := strings.Split(value, "/")
		if len(f) != 3 || f[0] != "" {
			return bad
		}
		a, err := netip.ParseAddr(f[2])
		if err != nil {
			return bad
		}
		c.addresses = append(c.addresses, domainAddr{dns.Fqdn(strings.ToLower(strings.TrimPrefix(f[1], "."))), a})
	case "host-record":
		f := strings.Split(value, ",")
		if len(f) != 2 {
			return bad
		}
		a, err := netip.ParseAddr(f[1])
		if err != nil {
			return bad
		}
		name := dns.Fqdn(strings.ToLower(f[0]))
		c.hosts[name] = append(c.hosts[name], a)
	case "conf-dir":
		if !include {
			return bad
		}
		f := strings.Split(value, ",")
		entries, _ := g.disk.ReadDir(f[0])
		for _, e := range entries {
			skip := slices.ContainsFunc(f[1:], func(suffix string) bool { return strings.HasSuffix(e.Name(), suffix) })
			if e.IsDir() || skip || strings.HasPrefix(e.Name(), ".") || strings.HasSuffix(e.Name(), "~") {
				continue
			}
			if err := g.dnsmasqFile(c, path.Join(f[0], e.Name()), false); err != nil {
				return err
			}
		}
	default:
		return bad
	}
	return nil
}

func (g *Guest) dnsmasqStart() error {
	c, err := g.dnsmasqConfig()
	if err != nil {
		return err
	}
	for _, i := range g.node.Config().Interfaces {
		for _, a := range i.Addrs {
			if i.Up {
				c.boundAtBoot = append(c.boundAtBoot, a.Addr())
			}
		}
	}
	serve := func(ctx context.Context, from, to netip.AddrPort, q *dns.Msg) *dns.Msg {
		if !g.dnsmasqListens(c, to.Addr()) || !g.dnsmasqServes(c, from.Addr()) {
			return nil
		}
		return g.dnsmasqAnswer(ctx, c, q)
	}
	g.node.HandleUDP(53, dnsUDP(serve))
	g.node.HandleTCP(53, dnsTCP(serve))
	return nil
}

// dnsmasqListens tells whether it listens on one of the machine's addresses.
func (g *Guest) dnsmasqListens(c *dnsmasq, a netip.Addr) bool {
	if len(c.interfaces) == 0 && len(c.listen) == 0 {
		return !c.bindIfs || a.IsLoopback() || slices.Contains(c.boundAtBoot, a)
	}
	if slices.Contains(c.listen, a) || len(c.interfaces) > 0 && a.IsLoopback() {
		return true
	}
	for _, i := range g.node.Config().Interfaces {
		if slices.Contains(c.interfaces, i.Name) && slices.ContainsFunc(i.Addrs, func(p netip.Prefix) bool { return p.Addr() == a }) {
			return !c.bindIfs || slices.Contains(c.boundAtBoot, a)
		}
	}
	return false
}

func (g *Guest) dnsmasqServes(c *dnsmasq, from netip.Addr) bool {
	if c.localOnly == "" || from.IsLoopback() || len(c.interfaces)+len(c.listen) > 0 {
		return true // local-service has no effect beside these
	}
	for _, i := range g.node.Config().Interfaces {
		for _, p := range i.Addrs {
			if p.Addr() == from || c.localOnly == "net" && p.Contains(from) {
				return true
			}
		}
	}
	return false
}

// dnsmasqAnswer answers from hosts, then from the longest domain that matches, then asks upstream.
func (g *Guest) dnsmasqAnswer(ctx context.Context, c *dnsmasq, q *dns.Msg) *dns.Msg {
	name := strings.ToLower(q.Question[0].Name)
	if list, ok := c.hosts[name]; ok {
		return answer(q, list, true)
	}
	best := domainAddr{}
	for _, d := range c.addresses {
		if dns.IsSubDomain(d.domain, name) && len(d.domain) >= len(best.domain) {
			best = d
		}
	}
	if best.addr.IsValid() {
		return answer(q, []netip.Addr{best.addr}, true)
	}
	servers := c.servers
	if !c.noResolv {
		own, _ := g.nameServers()
		servers = append(slices.Clone(servers), own...)
	}
	data, err := q.Pack()
	if err != nil {
		return nil
	}
	for _, s := range servers {
		if slices.Contains(g.ownAddrs(), s) || s.IsLoopback() {
			continue
		}
		if reply, err := g.node.Exchange(ctx, netip.AddrPortFrom(s, 53), data); err == nil {
			m := new(dns.Msg)
			if m.Unpack(reply) == nil {
				return m
			}
		}
	}
	if len(servers) > 0 {
		return nil // the client waits for an answer that does not come
	}
	m := new(dns.Msg)
	m.SetRcode(q, dns.RcodeRefused)
	return m
}

func (g *Guest) ownAddrs() []netip.Addr {
	var own []netip.Addr
	for _, i := range g.node.Config().Interfaces {
		for _, p := range i.Addrs {
			own = append(own, p.Addr())
		}
	}
	return own
}

// dnsmasqCmd knows: --test [-C FILE]. systemd starts the daemon.
func (g *Guest) dnsmasqCmd(_ context.Context, p *sshtest.Proc) int {
	file := "/etc/dnsmasq.conf"
	if len(p.Args) == 4 && p.Args[2] == "-C" {
		file = p.Args[3]
	} else if len(p.Args) != 2 {
		return p.NotSimulated(strings.Join(p.Args[1:], " "))
	}
	if p.Args[1] != "--test" {
		return p.NotSimulated(p.Args[1])
	}
	if err := g.dnsmasqFile(&dnsmasq{hosts: map[string][]netip.Addr{}}, file, true); err != nil {
		return p.Fail(1, "%v", err)
	}
	fmt.Fprintln(p.Stderr, "dnsmasq: syntax check OK.")
	return 0
}
