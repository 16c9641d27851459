package lab

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/poolready/poolready/e2e/internal/netsim"
	"github.com/poolready/poolready/sshx/sshtest"
)

// ip knows: [-4|-6] [-o] [-br] addr|link [show [dev] [DEV]], link set [dev] DEV up|down, addr flush
// dev DEV, [-4|-6] route [show [default]], [-4|-6] route get ADDRESS
// [from ADDRESS iif DEV].
func (g *Guest) ip(_ context.Context, p *sshtest.Proc) int {
	args := p.Args[1:]
	flags := map[string]bool{}
	for len(args) > 0 && strings.HasPrefix(args[0], "-") {
		if !slices.Contains([]string{"-4", "-6", "-o", "-br"}, args[0]) {
			return p.NotSimulated(args[0])
		}
		flags[args[0]], args = true, args[1:]
	}
	if len(args) == 0 {
		return p.NotSimulated("no object")
	}
	object, args := args[0], args[1:]
	switch object {
	case "a", "addr", "address", "link", "l":
		if len(args) > 1 && args[0] == "set" && strings.HasPrefix(object, "l") {
			return g.ipLinkSet(p, args[1:])
		}
		if len(args) == 3 && args[0] == "flush" && args[1] == "dev" && strings.HasPrefix(object, "a") {
			return g.ipFlush(p, args[2])
		}
		if len(args) > 0 && args[0] == "show" {
			args = args[1:]
		}
		if len(args) > 0 && args[0] == "dev" {
			args = args[1:]
		}
		if len(args) > 1 {
			return p.NotSimulated(strings.Join(p.Args[1:], " "))
		}
		return g.ipShow(p, strings.HasPrefix(object, "a"), flags, args)
	case "r", "route":
		if len(args) == 2 && args[0] == "get" {
			return g.ipRouteGet(p, args[1])
		}
		if len(args) == 6 && args[0] == "get" && args[2] == "from" && args[4] == "iif" {
			return g.ipForwarded(p, args[1], args[3], args[5])
		}
		if len(args) > 0 && args[0] == "show" {
			args = args[1:]
		}
		if len(args) > 1 || len(args) == 1 && args[0] != "default" {
			return p.NotSimulated(strings.Join(p.Args[1:], " "))
		}
		return g.ipRoutes(p, flags["-6"], len(args) == 1)
	}
	return p.NotSimulated(object)
}

func (g *Guest) ipLinkSet(p *sshtest.Proc, args []string) int {
	if args[0] == "dev" {
		args = args[1:]
	}
	if len(args) != 2 || args[1] != "up" && args[1] != "down" {
		return p.NotSimulated("link set " + strings.Join(args, " "))
	}
	if p.User != "root" {
		return p.Fail(2, "RTNETLINK answers: Operation not permitted")
	}
	managed := g.isManaged(args[0])
	g.mu.Lock()
	l := g.link(args[0])
	if l == nil {
		g.mu.Unlock()
		return p.Fail(1, "Cannot find device %q", args[0])
	}
	l.up = args[1] == "up"
	switch {
	case !l.up:
		// The kernel drops routes over the link, and IPv6 addresses; NetworkManager the rest.
		l.routes = nil
		l.addrs = slices.DeleteFunc(l.addrs, func(a netip.Prefix) bool { return managed || a.Addr().Is6() })
		delete(g.conns, l.name)
	case !managed && l.parent == "" && g.hw.NICs[l.port].Connected:
		// Nothing keeps the kernel from listening to routers.
		if addr, router, ok := g.lab.net.Autoconf(g.hw.NICs[l.port].Network, l.mac); ok && !slices.Contains(l.addrs, addr) {
			l.addrs = append(l.addrs, addr)
			l.routes = append(l.routes, netsim.Route{Dst: netip.MustParsePrefix("::/0"), Via: router, Dev: l.name, Metric: 1024})
		}
	}
	g.apply()
	g.mu.Unlock()
	if args[1] == "up" {
		g.carrierCame(args[0])
	}
	g.machine.Changed()
	return 0
}

func (g *Guest) ipFlush(p *sshtest.Proc, name string) int {
	if p.User != "root" {
		return p.Fail(2, "RTNETLINK answers: Operation not permitted")
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	l := g.link(name)
	if l == nil {
		return p.Fail(1, "Device %q does not exist.", name)
	}
	l.addrs, l.routes, l.dynamic = nil, nil, false
	g.apply()
	return 0
}

// find returns the requested links. The caller holds mu.
func (g *Guest) find(names []string) []*link {
	if len(names) == 0 {
		lo := &link{name: "lo", mac: "00:00:00:00:00:00", up: true, mtu: 65536, addrs: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/8"), netip.MustParsePrefix("::1/128")}, port: -1}
		return append([]*link{lo}, g.links...)
	}
	if l := g.link(names[0]); l != nil {
		return []*link{l}
	}
	return nil
}

func (g *Guest) ipShow(p *sshtest.Proc, addresses bool, flags map[string]bool, names []string) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	links := g.find(names)
	if links == nil {
		return p.Fail(1, "Device %q does not exist.", names[0])
	}
	sep := "\n    "
	if flags["-o"] {
		sep = `\    `
	}
	for _, l := range links {
		n := 1 + slices.Index(g.links, l) + 1
		var wanted []netip.Prefix
		for _, a := range l.addrs {
			if !(flags["-4"] && a.Addr().Is6() || flags["-6"] && a.Addr().Is4()) {
				wanted = append(wanted, a)
			}
		}
		switch {
		case flags["-br"] && addresses:
			fmt.Fprintf(p.Stdout, "%-16s %-14s %s\n", l.display(), g.state(l), strings.Trim(fmt.Sprint(wanted), "[]"))
		case flags["-br"]:
			fmt.Fprintf(p.Stdout, "%-16s %-14s %s <%s>\n", l.display(), g.state(l), l.mac, g.flags(l))
		case addresses && flags["-o"]:
			for _, a := range wanted {
				fmt.Fprintf(p.Stdout, "%d: %s    %s\n", n, l.name, l.inet(a, sep))
			}
		default:
			fmt.Fprintf(p.Stdout, "%d: %s: <%s> mtu %d qdisc mq state %s mode DEFAULT group default qlen 1000%slink/ether %s brd ff:ff:ff:ff:ff:ff\n",
				n, l.display(), g.flags(l), l.mtu, g.state(l), sep, l.mac)
			if addresses {
				for _, a := range wanted {
					fmt.Fprintf(p.Stdout, "    %s\n", l.inet(a, sep))
				}
			}
		}
	}
	return 0
}

func (l *link) display() string {
	if l.parent != "" {
		return l.name + "@" + l.parent
	}
	return l.name
}

func (l *link) inet(a netip.Prefix, sep string) string {
	family, dynamic := "inet", ""
	if a.Addr().Is6() {
		family = "inet6"
	}
	if l.dynamic {
		dynamic = "dynamic "
	}
	return fmt.Sprintf("%s %s scope global %snoprefixroute %s%s   valid_lft forever preferred_lft forever", family, a, dynamic, l.name, sep)
}

func (g *Guest) flags(l *link) string {
	switch {
	case l.port < 0:
		return "LOOPBACK,UP,LOWER_UP"
	case g.running(l):
		return "BROADCAST,MULTICAST,UP,LOWER_UP"
	case l.up:
		return "NO-CARRIER,BROADCAST,MULTICAST,UP"
	}
	return "BROADCAST,MULTICAST"
}

func (g *Guest) state(l *link) string {
	switch {
	case l.port < 0:
		return "UNKNOWN"
	case g.running(l):
		return "UP"
	}
	return "DOWN"
}

func (g *Guest) ipRoutes(p *sshtest.Proc, six, onlyDefault bool) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, l := range g.links {
		if !g.running(l) {
			continue
		}
		for _, r := range l.routes {
			if r.Dst.Addr().Is6() != six {
				continue
			}
			dst := r.Dst.String()
			if r.Dst.Bits() == 0 {
				dst = "default"
			}
			fmt.Fprintf(p.Stdout, "%s via %s dev %s proto static metric %d \n", dst, r.Via, l.name, r.Metric)
		}
	}
	for _, l := range g.links {
		if onlyDefault || !g.running(l) {
			continue
		}
		for _, a := range l.addrs {
			if a.Addr().Is6() == six {
				metric := ""
				if g.conns[l.name].byNetworkManager {
					metric = fmt.Sprintf("metric %d ", g.metrics[l.name])
				}
				fmt.Fprintf(p.Stdout, "%s dev %s proto kernel scope link src %s %s\n", a.Masked(), l.name, a.Addr(), metric)
			}
		}
	}
	return 0
}

func (g *Guest) ipRouteGet(p *sshtest.Proc, to string) int {
	a, err := netip.ParseAddr(to)
	if err != nil {
		return p.Fail(1, "Error: any valid prefix is expected rather than %q.", to)
	}
	dev, next, src, ok := g.node.Route(a)
	if !ok {
		return p.Fail(2, "RTNETLINK answers: Network is unreachable")
	}
	via := ""
	if next != a {
		via = " via " + next.String()
	}
	fmt.Fprintf(p.Stdout, "%s%s dev %s src %s uid 0 \n    cache \n", a, via, dev, src)
	return 0
}

// ipForwarded says which way a packet would be passed on that came in by an interface.
func (g *Guest) ipForwarded(p *sshtest.Proc, to, from, in string) int {
	a, err := netip.ParseAddr(to)
	if err != nil {
		return p.Fail(1, "Error: any valid prefix is expected rather than %q.", to)
	}
	if _, err := netip.ParseAddr(from); err != nil {
		return p.Fail(1, "Error: any valid prefix is expected rather than %q.", from)
	}
	g.mu.Lock()
	l := g.link(in)
	forwards := g.sysctl["net.ipv4.ip_forward"] == "1"
	up := l != nil && g.running(l)
	g.mu.Unlock()
	if l == nil {
		return p.Fail(1, "Cannot find device %q", in)
	}
	dev, next, _, ok := g.node.Route(a)
	switch {
	case !ok:
		return p.Fail(2, "RTNETLINK answers: Network is unreachable")
	case !forwards || !up:
		return p.Fail(2, "RTNETLINK answers: No route to host")
	}
	via := ""
	if next != a {
		via = " via " + next.String()
	}
	fmt.Fprintf(p.Stdout, "%s from %s%s dev %s \n    cache iif %s \n", a, from, via, dev, in)
	return 0
}
