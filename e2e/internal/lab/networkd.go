package lab

import (
	"context"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"

	"github.com/poolready/poolready/sshx/sshtest"
)

const networkdDir = "/etc/systemd/network"

// A netFile is a .network or .netdev file of systemd-networkd, with its drop-ins: values by
// "Section.Key", the last one last.
type netFile struct {
	name   string
	values map[string][]string
}

// networkdKeys are those that the simulation knows, by the kind of file. networkd passes over
// others with a warning; here they fail, as what the machine would do is unknown.
var networkdKeys = map[string][]string{
	".network": {
		"Match.Name", "Link.MTUBytes", "Link.Unmanaged", "Link.RequiredForOnline",
		"Network.DHCP", "Network.Address", "Network.Gateway", "Network.DNS", "Network.VLAN", "Network.LinkLocalAddressing", "Network.IPv6AcceptRA",
		"DHCPv4.ClientIdentifier", "DHCPv4.UseRoutes", "DHCPv4.UseDNS", "DHCPv4.UseMTU",
	},
	".netdev": {"NetDev.Name", "NetDev.Kind", "VLAN.Id"},
}

func (f netFile) get(key, standard string) string {
	if v := f.values[key]; len(v) > 0 {
		return v[len(v)-1]
	}
	return standard
}

// networkdFiles reads the configuration, in the order of file names.
func (g *Guest) networkdFiles() (all []netFile, err error) {
	entries, _ := g.disk.ReadDir(networkdDir)
	for _, e := range entries {
		known, ok := networkdKeys[path.Ext(e.Name())]
		if !ok || e.IsDir() {
			continue
		}
		file := path.Join(networkdDir, e.Name())
		f := netFile{name: file, values: map[string][]string{}}
		parts := []string{file}
		dropIns, _ := g.disk.ReadDir(file + ".d")
		for _, d := range dropIns {
			if strings.HasSuffix(d.Name(), ".conf") {
				parts = append(parts, path.Join(file+".d", d.Name()))
			}
		}
		for _, part := range parts {
			data, err := g.disk.ReadFile(part)
			if err != nil {
				return nil, err
			}
			section := ""
			for line := range strings.Lines(string(data)) {
				line = strings.TrimSpace(line)
				if line == "" || line[0] == '#' || line[0] == ';' {
					continue
				}
				if s, ok := strings.CutPrefix(line, "["); ok {
					section = strings.TrimSuffix(s, "]")
					continue
				}
				k, v, _ := strings.Cut(line, "=")
				key := section + "." + strings.TrimSpace(k)
				if !slices.Contains(known, key) {
					return nil, fmt.Errorf("%s: %w", part, errNotSimulated(key))
				}
				f.values[key] = append(f.values[key], strings.TrimSpace(v))
			}
		}
		all = append(all, f)
	}
	return all, nil
}

// networkdLoad reads the configuration, and changes nothing.
func (g *Guest) networkdLoad() error {
	files, err := g.networkdFiles()
	if err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.networkd = files
	return nil
}

// networkdUp is the start of systemd-networkd: it makes the VLAN interfaces and configures all
// links.
func (g *Guest) networkdUp() {
	g.mu.Lock()
	var names []string
	for _, l := range g.links {
		if l.parent == "" {
			names = append(names, l.name)
		}
	}
	g.mu.Unlock()
	for _, name := range names {
		g.networkdLink(name)
	}
	if !g.booting() {
		g.networkdVLANs()
	}
}

// networkdVLANs makes VLAN interfaces that are not there. What is there stays as it is.
func (g *Guest) networkdVLANs() {
	g.mu.Lock()
	var made []string
	for _, f := range g.networkd {
		name := f.get("NetDev.Name", "")
		if path.Ext(f.name) != ".netdev" || f.get("NetDev.Kind", "") != "vlan" || g.link(name) != nil {
			continue
		}
		for _, l := range slices.Clone(g.links) {
			if of, ok := g.networkdFile(l.name); ok && slices.Contains(of.values["Network.VLAN"], name) {
				_, err := g.device(profile{props: map[string]string{
					"connection.type": "vlan", "connection.interface-name": name, "vlan.parent": l.name, "vlan.id": f.get("VLAN.Id", ""),
				}})
				if err == nil {
					made = append(made, name)
				}
			}
		}
	}
	g.mu.Unlock()
	for _, name := range made {
		g.networkdLink(name)
	}
}

// networkdFile is the first file that is for a link. The caller holds mu.
func (g *Guest) networkdFile(name string) (netFile, bool) {
	for _, f := range g.networkd {
		if path.Ext(f.name) == ".network" && slices.Contains(strings.Fields(f.get("Match.Name", "")), name) {
			return f, f.get("Link.Unmanaged", "no") != "yes"
		}
	}
	return netFile{}, false
}

// networkdLink configures a link as its file says.
func (g *Guest) networkdLink(name string) {
	g.mu.Lock()
	f, managed := g.networkdFile(name)
	l := g.link(name)
	if l == nil || !managed {
		delete(g.conns, name) // what it has stays with it
		g.mu.Unlock()
		return
	}
	l.up = true
	if g.hw.NICs[l.port].Connected {
		g.configure(f.profile(name), l)
	}
	g.apply()
	g.mu.Unlock()
	g.machine.Changed()
}

// profile is the file as NetworkManager would say it.
func (f netFile) profile(name string) profile {
	p := profile{props: map[string]string{"connection.interface-name": name, "connection.type": "802-3-ethernet"}}
	not := func(v string) string { return map[string]string{"yes": "no", "no": "yes"}[v] }
	set := map[string]string{
		"ipv4.addresses":       strings.Join(f.values["Network.Address"], ","),
		"ipv4.gateway":         f.get("Network.Gateway", ""),
		"ipv4.dns":             strings.Join(f.values["Network.DNS"], ","),
		"ipv4.never-default":   not(f.get("DHCPv4.UseRoutes", "yes")),
		"ipv4.ignore-auto-dns": not(f.get("DHCPv4.UseDNS", "yes")),
		"ipv4.dhcp-client-id":  f.get("DHCPv4.ClientIdentifier", "duid"),
		"ipv6.method":          "auto",
		"802-3-ethernet.mtu":   f.get("Link.MTUBytes", ""),
	}
	switch dhcp := f.get("Network.DHCP", "no"); {
	case dhcp == "yes" || dhcp == "ipv4":
		set["ipv4.method"] = "auto"
	case set["ipv4.addresses"] != "":
		set["ipv4.method"], set["ipv4.never-default"] = "manual", "no"
	default:
		set["ipv4.method"] = "disabled"
	}
	if f.get("Network.IPv6AcceptRA", "yes") == "no" || f.get("Network.LinkLocalAddressing", "ipv6") == "no" {
		set["ipv6.method"] = "disabled"
	}
	if set["802-3-ethernet.mtu"] == "" && f.get("DHCPv4.UseMTU", "no") == "no" {
		set["802-3-ethernet.mtu"] = "1500" // the server's word does not count
	}
	for k, v := range set {
		if v != "" {
			p.props[k] = v
		}
	}
	return p
}

// isManaged reports whether a daemon looks after a link.
func (g *Guest) isManaged(name string) bool {
	if g.isActive("NetworkManager") && g.managed(name) {
		return true
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	_, managed := g.networkdFile(name)
	return managed && g.active["systemd-networkd"]
}

// networkctl knows: reload, reconfigure LINK..., status LINK.
func (g *Guest) networkctl(_ context.Context, p *sshtest.Proc) int {
	args := p.Args[1:]
	if len(args) == 0 || strings.HasPrefix(args[0], "-") {
		return p.NotSimulated(strings.Join(args, " "))
	}
	verb, names := args[0], args[1:]
	if !g.isActive("systemd-networkd") {
		return p.Fail(1, "systemd-networkd is not running")
	}
	for _, name := range names {
		g.mu.Lock()
		l := g.link(name)
		g.mu.Unlock()
		if l == nil {
			return p.Fail(1, "Interface %q not found.", name)
		}
	}
	if verb != "status" && p.User != "root" {
		return p.Fail(1, "Access denied")
	}
	switch {
	case verb == "reload" && len(names) == 0:
		if err := g.networkdLoad(); err != nil {
			return p.NotSimulated(err.Error())
		}
		g.networkdVLANs()
	case verb == "reconfigure" && len(names) > 0:
		for _, name := range names {
			g.mu.Lock()
			_, managed := g.networkdFile(name)
			g.mu.Unlock()
			if !managed {
				return p.Fail(1, "Failed to reconfigure network interface %s: Interface is not managed", name)
			}
			g.networkdLink(name)
		}
	case verb == "status" && len(names) == 1:
		g.networkdStatus(p, names[0])
	default:
		return p.NotSimulated(strings.Join(args, " "))
	}
	return 0
}

func (g *Guest) networkdStatus(p *sshtest.Proc, name string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	l := g.link(name)
	f, managed := g.networkdFile(name)
	state := map[bool]string{true: "configured", false: "unmanaged"}[managed]
	operational := map[bool]string{true: "routable", false: "off"}[g.running(l)]
	fmt.Fprintf(p.Stdout, "* %d: %s\n", 2+slices.Index(g.links, l), name)
	row := func(key, value string) { fmt.Fprintf(p.Stdout, "%30s: %s\n", key, value) }
	row("Network File", f.name)
	row("State", operational+" ("+state+")")
	row("Hardware Address", l.mac)
	rows := func(key string, list []string) {
		for i, v := range list {
			if i == 0 {
				row(key, v)
			} else {
				fmt.Fprintf(p.Stdout, "%30s  %s\n", "", v)
			}
		}
	}
	rows("Address", texts(l.addrs))
	rows("DNS", texts(g.conns[name].dns))
}

func texts[T netip.Addr | netip.Prefix](list []T) []string {
	var all []string
	for _, a := range list {
		all = append(all, fmt.Sprint(a))
	}
	return all
}
