package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path"
	"regexp"
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
		line = strings.TrimSpace(comment.ReplaceAllString(line, ""))
		if line == "" {
			continue
		}
		if strings.ContainsAny(line, `"\\`) {
			return fmt.Errorf("%w at line %d of %s", dnsmasqRefusal("quotes: "+line), n, file)
		}
		key, value, _ := strings.Cut(line, "=")
		if err := g.dnsmasqOption(c, strings.TrimSpace(key), strings.TrimSpace(value), include); err != nil {
			return fmt.Errorf("%w at line %d of %s", err, n, file)
		}
	}
	return nil
}

// comment is one of dnsmasq's: a # elsewhere is part of a value, such as a port.
var comment = regexp.MustCompile(`(^|\s)#.*`)

// dnsmasqLacking are dnsmasq's other options. What is in neither list is a bad option to the real one,
// too.
var dnsmasqLacking = strings.Fields(`addn-hosts add-cpe-id add-mac add-subnet alias all-servers auth-peer auth-sec-servers auth-server
	auth-soa auth-ttl auth-zone bogus-nxdomain bootp-dynamic bridge-interface caa-record clear-on-reload cname conf-file conf-script
	connmark-allowlist connmark-allowlist-enable conntrack dhcp-alternate-port dhcp-authoritative dhcp-boot dhcp-broadcast
	dhcp-circuitid dhcp-client-update dhcp-duid dhcp-fqdn dhcp-generate-names dhcp-host dhcp-hostsdir dhcp-hostsfile
	dhcp-ignore dhcp-ignore-clid dhcp-ignore-names dhcp-lease-max dhcp-leasefile dhcp-luascript dhcp-mac dhcp-match
	dhcp-name-match dhcp-no-override dhcp-option dhcp-option-force dhcp-option-pxe dhcp-optsdir dhcp-optsfile dhcp-proxy
	dhcp-pxe-vendor dhcp-range dhcp-rapid-commit dhcp-relay dhcp-remoteid dhcp-reply-delay dhcp-script dhcp-scriptuser
	dhcp-sequential-ip dhcp-subscrid dhcp-ttl dhcp-userclass dhcp-vendorclass dns-forward-max dns-loop-detect dnssec
	dnssec-check-unsigned dnssec-debug dnssec-limits dnssec-no-timecheck dnssec-timestamp do-0x20-encode domain domain-suffix
	dumpfile dumpmask dynamic-host edns-packet-max enable-dbus enable-ra enable-tftp enable-ubus except-interface
	expand-hosts fast-dns-retry fast-retry filter-A filter-AAAA filter-rr filterwin2k hostsdir ignore-address interface-name ipset
	keep-in-foreground leasefile-ro leasequery local local-ttl localise-queries localmx log-async log-debug log-dhcp
	log-facility log-malloc log-queries max-cache-ttl max-port max-tcp-connections max-ttl min-cache-ttl min-port
	mx-host mx-target naptr-record neg-ttl nftset no-0x20-encode no-daemon no-dhcp-interface no-dhcpv4-interface
	no-dhcpv6-interface no-ident no-negcache no-ping no-poll no-round-robin pid-file port port-limit ptr-record pxe-prompt pxe-service
	query-port quiet-dhcp quiet-dhcp6 quiet-ra quiet-tftp ra-param read-ethers rebind-domain-ok rebind-localhost-ok
	resolv-file rev-server script-arp script-on-renewal selfmx server-notice servers-file shared-network srv-host stale-timeout stop-dns-rebind
	strict-order synth-domain tag-if tftp-lowercase tftp-max tftp-mtu tftp-no-blocksize tftp-no-fail tftp-port-range tftp-root
	tftp-secure tftp-single-port tftp-unique-root trust-anchor txt-record umbrella use-stale-cache`)

func dnsmasqRefusal(what string) error { return &sshtest.Refusal{Command: "dnsmasq", What: what} }

func (g *Guest) dnsmasqOption(c *dnsmasq, key, value string, include bool) error {
	refuse := dnsmasqRefusal(strings.TrimSuffix(key+"="+value, "="))
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
				return refuse
			}
			c.listen = append(c.listen, a)
		}
	case "server":
		a, err := netip.ParseAddr(value)
		if err != nil {
			return refuse
		}
		c.servers = append(c.servers, a)
	case "address":
		f := strings.Split(value, "/")
		if len(f) != 3 || f[0] != "" {
			return refuse
		}
		a, err := netip.ParseAddr(f[2])
		if err != nil {
			return refuse
		}
		c.addresses = append(c.addresses, domainAddr{dns.Fqdn(strings.ToLower(strings.TrimPrefix(f[1], "."))), a})
	case "host-record":
		f := strings.Split(value, ",")
		if len(f) != 2 {
			return refuse
		}
		a, err := netip.ParseAddr(f[1])
		if err != nil {
			return refuse
		}
		name := dns.Fqdn(strings.ToLower(f[0]))
		c.hosts[name] = append(c.hosts[name], a)
	case "conf-dir":
		if !include {
			return refuse
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
		if slices.Contains(dnsmasqLacking, key) {
			return refuse
		}
		return errors.New("bad option")
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

// dnsmasqListens reports whether it listens on one of the machine's addresses.
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
	err := g.dnsmasqFile(&dnsmasq{hosts: map[string][]netip.Addr{}}, file, true)
	if r, ok := errors.AsType[*sshtest.Refusal](err); ok {
		return p.NotSimulated(r.What)
	}
	if err != nil {
		return p.Fail(1, "%v", err)
	}
	fmt.Fprintln(p.Stderr, "dnsmasq: syntax check OK.")
	return 0
}
