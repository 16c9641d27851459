package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/poolready/poolready/sshx/sshtest"
)

// hostsFile is /etc/hosts, by name.
func (g *Guest) hostsFile() map[string][]netip.Addr {
	found := map[string][]netip.Addr{}
	data, _ := g.disk.ReadFile("/etc/hosts")
	for line := range strings.Lines(string(data)) {
		line, _, _ = strings.Cut(line, "#")
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		a, err := netip.ParseAddr(f[0])
		if err != nil {
			continue
		}
		for _, name := range f[1:] {
			name = strings.ToLower(name)
			found[name] = append(found[name], a)
		}
	}
	return found
}

// nameServers and search domains of resolv.conf. Without any, libc asks this machine.
func (g *Guest) nameServers() (servers []netip.Addr, search []string) {
	data, _ := g.disk.ReadFile("/etc/resolv.conf")
	for line := range strings.Lines(string(data)) {
		switch f := strings.Fields(line); {
		case len(f) >= 2 && f[0] == "nameserver":
			if a, err := netip.ParseAddr(f[1]); err == nil && len(servers) < 3 {
				servers = append(servers, a)
			}
		case len(f) >= 2 && f[0] == "search":
			search = f[1:]
		}
	}
	if servers == nil {
		servers = []netip.Addr{netip.MustParseAddr("127.0.0.1")}
	}
	return servers, search
}

var (
	errNoName   = errors.New("Name or service not known")
	errNoServer = errors.New("Temporary failure in name resolution")
)

// lookup resolves a name as libc does: a literal, /etc/hosts, then the name servers of
// resolv.conf, one after the other, with the search domains for names without a dot.
func (g *Guest) lookup(ctx context.Context, name string, six bool) ([]netip.Addr, error) {
	return g.lookupIn(ctx, lookups{files: true, dns: true}, name, six)
}

// lookups says where names are looked up.
type lookups struct{ files, dns bool }

func (g *Guest) lookupIn(ctx context.Context, in lookups, name string, six bool) ([]netip.Addr, error) {
	want := func(a netip.Addr) bool { return a.Is6() == six }
	if a, err := netip.ParseAddr(strings.Trim(name, "[]")); err == nil {
		if !want(a) {
			return nil, errNoName
		}
		return []netip.Addr{a}, nil
	}
	if list, ok := g.hostsFile()[strings.ToLower(name)]; ok && in.files {
		if list = slices.DeleteFunc(list, func(a netip.Addr) bool { return !want(a) }); len(list) > 0 {
			return list, nil
		}
		return nil, errNoName
	}
	if !in.dns {
		return nil, errNoName
	}
	servers, search := g.nameServers()
	tries := []string{name}
	if !strings.Contains(name, ".") {
		for _, s := range search {
			tries = append(tries, name+"."+s)
		}
	}
	kind := dns.TypeA
	if six {
		kind = dns.TypeAAAA
	}
	last := errNoServer
	for _, try := range tries {
		for _, s := range servers {
			m, err := g.ask(ctx, s, try, kind, false)
			if err != nil {
				continue
			}
			if m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError {
				continue // the next server may know
			}
			last = errNoName
			if list := addresses(m); len(list) > 0 {
				return list, nil
			}
			break
		}
	}
	return nil, last
}

// unresolved is how long a lookup takes that no name server answers: 5 seconds for each on a real
// machine, and no less than here is noticed.
const unresolved = 200 * time.Millisecond

// lookupOwn is what sudo does with the machine's own name, at every call.
func (g *Guest) lookupOwn(ctx context.Context, name string) error {
	_, err := g.lookup(ctx, name, false)
	if errors.Is(err, errNoServer) {
		select {
		case <-time.After(unresolved):
		case <-ctx.Done():
		}
	}
	return err
}

func addresses(m *dns.Msg) []netip.Addr {
	var list []netip.Addr
	for _, rr := range m.Answer {
		switch rr := rr.(type) {
		case *dns.A:
			if a, ok := netip.AddrFromSlice(rr.A.To4()); ok {
				list = append(list, a)
			}
		case *dns.AAAA:
			if a, ok := netip.AddrFromSlice(rr.AAAA); ok {
				list = append(list, a)
			}
		}
	}
	return list
}

// ask sends one question over the network.
func (g *Guest) ask(ctx context.Context, server netip.Addr, name string, kind uint16, tcp bool) (*dns.Msg, error) {
	q := new(dns.Msg)
	q.SetQuestion(dns.Fqdn(name), kind)
	to := netip.AddrPortFrom(server, 53)
	m := new(dns.Msg)
	if tcp {
		conn, err := g.node.Dial(to)
		if err != nil {
			return nil, err
		}
		defer conn.Close()
		c := &dns.Conn{Conn: conn}
		if err := c.WriteMsg(q); err != nil {
			return nil, err
		}
		return c.ReadMsg()
	}
	data, err := q.Pack()
	if err != nil {
		return nil, err
	}
	reply, err := g.node.Exchange(ctx, to, data)
	if err != nil {
		return nil, err
	}
	return m, m.Unpack(reply)
}

// dial connects to a host by name or address.
func (g *Guest) dial(ctx context.Context, host string, port uint16, six bool) (net.Conn, error) {
	list, err := g.lookup(ctx, host, six)
	if err != nil {
		return nil, &lookupError{host, err}
	}
	return g.node.Dial(netip.AddrPortFrom(list[0], port))
}

type lookupError struct {
	host string
	err  error
}

func (e *lookupError) Error() string { return e.host + ": " + e.err.Error() }

// dialName is dial for sshd's forwarding.
func (g *Guest) dialName(ctx context.Context, _, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	n, err := net.LookupPort("tcp", port)
	if err != nil {
		return nil, err
	}
	return g.dial(ctx, host, uint16(n), strings.Contains(host, ":"))
}

// dig knows: +short [+tcp|+notcp] [+time=N] [+tries=N] [@SERVER] NAME [A|AAAA]. Like dig, it says
// on stdout that there was no answer.
func (g *Guest) dig(ctx context.Context, p *sshtest.Proc) int {
	servers, _ := g.nameServers()
	name, kind, short, tcp := "", dns.TypeA, false, false
	for _, a := range p.Args[1:] {
		switch {
		case a == "+short":
			short = true
		case a == "+tcp", a == "+notcp":
			tcp = a == "+tcp"
		case strings.HasPrefix(a, "+time="), strings.HasPrefix(a, "+tries="):
		case strings.HasPrefix(a, "@"):
			list, err := g.lookup(ctx, a[1:], false)
			if err != nil {
				fmt.Fprintf(p.Stderr, "dig: couldn't get address for '%s': not found\n", a[1:])
				return 10
			}
			servers = list[:1]
		case strings.HasPrefix(a, "+"), strings.HasPrefix(a, "-"):
			return p.NotSimulated(a)
		case a == "A":
		case a == "AAAA":
			kind = dns.TypeAAAA
		case name == "":
			name = a
		default:
			return p.NotSimulated(a)
		}
	}
	if !short || name == "" {
		return p.NotSimulated("anything but +short of one name")
	}
	for _, s := range servers {
		m, err := g.ask(ctx, s, name, kind, tcp)
		if err != nil {
			continue
		}
		for _, a := range addresses(m) {
			fmt.Fprintln(p.Stdout, a)
		}
		return 0
	}
	fmt.Fprintln(p.Stdout, ";; connection timed out; no servers could be reached")
	return 9
}

// getent knows: passwd [NAME], group [NAME], [-s files|dns] hosts NAME, [-s files|dns] ahostsv4 NAME.
func (g *Guest) getent(ctx context.Context, p *sshtest.Proc) int {
	args, from := p.Args[1:], lookups{files: true, dns: true}
	if len(args) > 2 && args[0] == "-s" {
		switch args[1] {
		case "files", "dns":
			from = lookups{files: args[1] == "files", dns: args[1] == "dns"}
		default:
			return p.NotSimulated("-s " + args[1])
		}
		args = args[2:]
		if args[0] == "passwd" || args[0] == "group" {
			return p.NotSimulated("-s with " + args[0])
		}
	}
	if len(args) == 0 || len(args) > 2 {
		return p.NotSimulated(strings.Join(args, " "))
	}
	switch args[0] {
	case "passwd", "group":
		data, _ := g.disk.ReadFile("/etc/" + args[0])
		for line := range strings.Lines(string(data)) {
			name, _, _ := strings.Cut(line, ":")
			if len(args) == 1 || name == args[1] {
				_, _ = io.WriteString(p.Stdout, line)
				if len(args) == 2 {
					return 0
				}
			}
		}
		if len(args) == 1 {
			return 0
		}
		return 2
	case "hosts", "ahostsv4":
		if len(args) == 1 {
			return p.NotSimulated(args[0] + " without a name")
		}
		list, err := g.lookupIn(ctx, from, args[1], false)
		if err != nil {
			return 2
		}
		for _, a := range list {
			if args[0] == "hosts" {
				fmt.Fprintf(p.Stdout, "%-15s %s\n", a, args[1])
				continue
			}
			fmt.Fprintf(p.Stdout, "%-15s STREAM %s\n%-15s DGRAM  \n%-15s RAW    \n", a, args[1], a, a)
		}
		return 0
	}
	return p.NotSimulated(args[0])
}
