package lab

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/poolready/poolready/e2e/internal/netsim"
	"github.com/poolready/poolready/sshx/sshtest"
)

// A zone is firewalld's public zone, its default one, as its file has it. What comes in by an
// interface that is in no zone is filtered by it, too, but it passes packets on only between its
// own interfaces.
type zone struct {
	XMLName    xml.Name      `xml:"zone"`
	Short      string        `xml:"short,omitempty"`
	Interfaces []zoneService `xml:"interface"`
	Services   []zoneService `xml:"service"`
	Ports      []zonePort    `xml:"port"`
	Masquerade *struct{}     `xml:"masquerade"`
	Forward    *struct{}     `xml:"forward"`
}

// A zoneService is an element of a zone that is but a name.
type zoneService struct {
	Name string `xml:"name,attr"`
}

type zonePort struct {
	Protocol string `xml:"protocol,attr"`
	Port     string `xml:"port,attr"`
}

const (
	zoneFile        = "/etc/firewalld/zones/public.xml"
	zoneFileDefault = "/usr/lib/firewalld/zones/public.xml"
	firewalldConf   = "/etc/firewalld/firewalld.conf"
)

// firewallServices are those that firewalld defines.
var firewallServices = map[string][]netsim.Service{
	"ssh":           {{Proto: "tcp", Port: 22}},
	"dns":           {{Proto: "tcp", Port: 53}, {Proto: "udp", Port: 53}},
	"ntp":           {{Proto: "udp", Port: 123}},
	"http":          {{Proto: "tcp", Port: 80}},
	"https":         {{Proto: "tcp", Port: 443}},
	"cockpit":       {{Proto: "tcp", Port: 9090}},
	"dhcpv6-client": {{Proto: "udp", Port: 546}},
}

func (z zone) masquerades() bool { return z.Masquerade != nil }

func (z zone) filter() *netsim.Filter {
	f := new(netsim.Filter)
	for _, s := range z.Services {
		f.Open = append(f.Open, firewallServices[s.Name]...)
	}
	for _, p := range z.Ports {
		n, _ := strconv.ParseUint(p.Port, 10, 16)
		f.Open = append(f.Open, netsim.Service{Proto: p.Protocol, Port: uint16(n)})
	}
	return f
}

func (z zone) clone() zone {
	z.Services, z.Ports, z.Interfaces = slices.Clone(z.Services), slices.Clone(z.Ports), slices.Clone(z.Interfaces)
	return z
}

// permanent is what the zone's file says.
func (g *Guest) permanent() (zone, error) {
	data, err := g.disk.ReadFile(zoneFile)
	if err != nil {
		data, err = g.disk.ReadFile(zoneFileDefault)
	}
	if err != nil {
		return zone{}, err
	}
	var z zone
	if err := xml.Unmarshal(data, &z); err != nil {
		return zone{}, fmt.Errorf("INVALID_ZONE: %w", err)
	}
	for _, s := range z.Services {
		if firewallServices[s.Name] == nil {
			return zone{}, errNotSimulated("firewalld's service " + s.Name)
		}
	}
	return z, nil
}

func (g *Guest) firewallStore(z zone) error {
	data, err := xml.MarshalIndent(z, "", "  ")
	if err != nil {
		return err
	}
	return g.disk.WriteFile(zoneFile, []byte(xml.Header+string(data)+"\n"), 0o644)
}

// firewallLoad makes the permanent configuration the one that is applied.
func (g *Guest) firewallLoad() error {
	z, err := g.permanent()
	if err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.zone = z
	g.apply()
	return nil
}

// zoneInterfaces are those in the zone: what its file names, and where NetworkManager has a profile
// active, which it tells firewalld of. The caller holds mu.
func (g *Guest) zoneInterfaces(z zone) []string {
	var names []string
	for _, i := range z.Interfaces {
		names = append(names, i.Name)
	}
	for name, a := range g.conns {
		if a.byNetworkManager && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// firewallCmd knows: [-q|--quiet] [--permanent] [--zone=public] and one of --state, --reload,
// --list-all, --list-ports, --list-services, --query-|--add-|--remove- masquerade, forward,
// port=PORT/PROTOCOL, service=NAME, interface=NAME.
func (g *Guest) firewallCmd(_ context.Context, p *sshtest.Proc) int {
	quiet, permanent, action := false, false, ""
	for _, a := range p.Args[1:] {
		switch {
		case a == "-q" || a == "--quiet":
			quiet = true
		case a == "--permanent":
			permanent = true
		case a == "--zone=public":
		case action == "":
			action = a
		default:
			return p.NotSimulated(a)
		}
	}
	if p.User != "root" {
		return p.Fail(253, "Authorization failed.")
	}
	say := func(s string) {
		if !quiet {
			fmt.Fprintln(p.Stdout, s)
		}
	}
	if !g.isActive("firewalld") {
		return p.Fail(252, "FirewallD is not running")
	}
	switch action {
	case "--state":
		say("running")
		return 0
	case "--reload":
		if err := g.firewallLoad(); err != nil {
			return p.Fail(13, "Error: %v", err)
		}
		say("success")
		return 0
	}
	g.mu.Lock()
	z := g.zone.clone()
	g.mu.Unlock()
	if permanent {
		var err error
		if z, err = g.permanent(); err != nil {
			return p.Fail(13, "Error: %v", err)
		}
	}
	changed, code := false, 0
	switch word, what, _ := strings.Cut(strings.TrimPrefix(action, "--"), "-"); word {
	case "list":
		switch what {
		case "all":
			g.listAll(p, z, permanent)
		case "ports":
			var list []string
			for _, port := range z.Ports {
				list = append(list, port.Port+"/"+port.Protocol)
			}
			say(strings.Join(list, " "))
		case "services":
			var list []string
			for _, s := range z.Services {
				list = append(list, s.Name)
			}
			say(strings.Join(list, " "))
		default:
			return p.NotSimulated(action)
		}
		return 0
	case "query", "add", "remove":
		have, err := z.alter(word, what)
		switch {
		case errors.Is(err, errUnknown):
			return p.NotSimulated(action)
		case err != nil:
			return p.Fail(101, "Error: %v", err)
		case word == "query" && have:
			say("yes")
			return 0
		case word == "query":
			say("no")
			return 1
		case word == "add" && have:
			fmt.Fprintf(p.Stderr, "Warning: ALREADY_ENABLED: %s\n", what)
		case word == "remove" && !have:
			fmt.Fprintf(p.Stderr, "Warning: NOT_ENABLED: %s\n", what)
		default:
			changed = true
		}
	default:
		return p.NotSimulated(action)
	}
	if changed && permanent {
		if err := g.firewallStore(z); err != nil {
			return p.Fail(1, "Error: %v", err)
		}
	} else if changed {
		g.mu.Lock()
		g.zone = z
		g.apply()
		g.mu.Unlock()
	}
	say("success")
	return code
}

// listAll prints a zone with the fields that firewalld 1.x has.
func (g *Guest) listAll(p *sshtest.Proc, z zone, permanent bool) {
	yes := map[bool]string{true: "yes", false: "no"}
	var interfaces, services, ports []string
	if permanent {
		for _, i := range z.Interfaces {
			interfaces = append(interfaces, i.Name)
		}
	} else {
		g.mu.Lock()
		interfaces = g.zoneInterfaces(z)
		g.mu.Unlock()
	}
	for _, s := range z.Services {
		services = append(services, s.Name)
	}
	for _, port := range z.Ports {
		ports = append(ports, port.Port+"/"+port.Protocol)
	}
	slices.Sort(services)
	fmt.Fprintln(p.Stdout, "public (active)")
	for _, row := range [][2]string{
		{"target", "default"},
		{"icmp-block-inversion", "no"},
		{"interfaces", strings.Join(interfaces, " ")},
		{"sources", ""},
		{"services", strings.Join(services, " ")},
		{"ports", strings.Join(ports, " ")},
		{"protocols", ""},
		{"forward", yes[z.Forward != nil]},
		{"masquerade", yes[z.masquerades()]},
		{"forward-ports", ""},
		{"source-ports", ""},
		{"icmp-blocks", ""},
		{"rich rules", ""},
	} {
		fmt.Fprintf(p.Stdout, "  %s: %s\n", row[0], row[1])
	}
}

var errUnknown = errors.New("unknown")

// alter queries, adds or removes what, and reports whether it was there before.
func (z *zone) alter(verb, what string) (have bool, err error) {
	kind, value, _ := strings.Cut(what, "=")
	switch kind {
	case "masquerade":
		have = z.Masquerade != nil
		switch verb {
		case "add":
			z.Masquerade = new(struct{})
		case "remove":
			z.Masquerade = nil
		}
	case "forward":
		have = z.Forward != nil
		switch verb {
		case "add":
			z.Forward = new(struct{})
		case "remove":
			z.Forward = nil
		}
	case "interface":
		i := zoneService{value}
		have = slices.Contains(z.Interfaces, i)
		switch {
		case verb == "add" && !have:
			z.Interfaces = append(z.Interfaces, i)
		case verb == "remove":
			z.Interfaces = slices.DeleteFunc(z.Interfaces, func(o zoneService) bool { return o == i })
		}
	case "service":
		if firewallServices[value] == nil {
			return false, errUnknown
		}
		s := zoneService{value}
		have = slices.Contains(z.Services, s)
		switch {
		case verb == "add" && !have:
			z.Services = append(z.Services, s)
		case verb == "remove":
			z.Services = slices.DeleteFunc(z.Services, func(o zoneService) bool { return o == s })
		}
	case "port":
		number, proto, ok := strings.Cut(value, "/")
		if n, err := strconv.ParseUint(number, 10, 16); err != nil || n == 0 || !ok || proto != "tcp" && proto != "udp" {
			return false, fmt.Errorf("INVALID_PORT: %s", value)
		}
		s := zonePort{Protocol: proto, Port: number}
		have = slices.Contains(z.Ports, s)
		switch {
		case verb == "add" && !have:
			z.Ports = append(z.Ports, s)
		case verb == "remove":
			z.Ports = slices.DeleteFunc(z.Ports, func(o zonePort) bool { return o == s })
		}
	default:
		return false, errUnknown
	}
	return have, nil
}
