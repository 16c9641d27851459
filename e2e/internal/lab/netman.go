package lab

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/poolready/poolready/e2e/internal/netsim"
)

// active is a profile that NetworkManager has activated on an interface.
type active struct {
	profile profile // as it was when it was activated
	dns     []netip.Addr
	metric  int // of its default route; 0 if it has none
	// Whether NetworkManager has activated it, not systemd-networkd or ifupdown.
	byNetworkManager bool
}

// networkConf returns the value of key in a section of NetworkManager's configuration: the last
// file that says it wins.
func (g *Guest) networkConf(section, key string) string {
	files := []string{"/etc/NetworkManager/NetworkManager.conf"}
	entries, _ := g.disk.ReadDir("/etc/NetworkManager/conf.d")
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".conf") {
			files = append(files, "/etc/NetworkManager/conf.d/"+e.Name())
		}
	}
	value, in := "", ""
	for _, f := range files {
		data, _ := g.disk.ReadFile(f)
		for line := range strings.Lines(string(data)) {
			line = strings.TrimSpace(line)
			if s, ok := strings.CutPrefix(line, "["); ok {
				in = strings.TrimSuffix(s, "]")
			} else if k, v, ok := strings.Cut(line, "="); ok && in == section && strings.TrimSpace(k) == key {
				value = strings.TrimSpace(v)
			}
		}
	}
	return value
}

// managed reports whether NetworkManager may touch an interface.
func (g *Guest) managed(name string) bool {
	if g.os == debian && g.networkConf("ifupdown", "managed") != "true" {
		for _, i := range g.interfaces() {
			if i.name == name {
				return false // as Debian's NetworkManager is shipped
			}
		}
	}
	specs := strings.FieldsFunc(g.networkConf("keyfile", "unmanaged-devices"), func(r rune) bool { return r == ';' || r == ',' })
	return !slices.Contains(specs, "interface-name:"+name)
}

// networkUp is the start of NetworkManager: managed links are set up, whether or not a profile
// is for them, and profiles that connect by themselves are activated, VLANs last.
func (g *Guest) networkUp() {
	all := g.profiles()
	g.mu.Lock()
	var names []string
	for i, l := range g.links {
		if l.parent != "" {
			continue
		}
		names = append(names, l.name)
		if !slices.ContainsFunc(all, func(p profile) bool { return p.iface() == l.name }) {
			id := fmt.Sprintf("Wired connection %d", i+1)
			g.wired = append(g.wired, profile{props: map[string]string{
				"connection.id": id, "connection.uuid": newUUID(id + l.mac),
				"connection.type": "802-3-ethernet", "connection.interface-name": l.name,
			}})
		}
	}
	g.mu.Unlock()
	rand.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] }) // as devices come
	g.connect(names)
	if !g.booting() {
		g.networkVLANs()
	}
}

// networkVLANs makes the VLANs that there are profiles for.
func (g *Guest) networkVLANs() {
	var names []string
	for _, p := range g.profiles() {
		if p.get("connection.type") == "vlan" {
			names = append(names, p.iface())
		}
	}
	g.connect(names)
}

func (g *Guest) connect(names []string) {
	for _, name := range names {
		if g.managed(name) {
			g.setLink(name, true)
			g.autoconnect(name)
		}
	}
}

// carrierCame is what becomes of an interface whose cable has been plugged in.
func (g *Guest) carrierCame(name string) {
	if g.isActive("NetworkManager") {
		g.autoconnect(name)
	}
	if g.isActive("systemd-networkd") {
		g.networkdLink(name)
	}
}

// networkReload reads the configuration again.
func (g *Guest) networkReload() {
	g.mu.Lock()
	var names []string
	for _, l := range g.links {
		names = append(names, l.name)
	}
	g.mu.Unlock()
	for _, name := range names {
		g.mu.Lock()
		_, on := g.conns[name]
		g.mu.Unlock()
		if on && !g.managed(name) {
			g.deactivate(name)
		}
	}
	g.writeResolv()
}

func (g *Guest) setLink(name string, up bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if l := g.link(name); l != nil {
		l.up = up
		g.apply()
	}
}

// autoconnect activates a profile for an interface that has none active, if there is one.
func (g *Guest) autoconnect(name string) {
	g.mu.Lock()
	_, on := g.conns[name]
	g.mu.Unlock()
	if on || !g.managed(name) {
		return
	}
	for _, p := range g.profiles() {
		if p.iface() == name && p.auto() && g.activate(p) == nil {
			return
		}
	}
}

// activate puts a profile into effect on its interface, in place of the one that is active there.
func (g *Guest) activate(p profile) error {
	name := p.iface()
	if !g.managed(name) {
		return errors.New("Connection activation failed: No suitable device found for this connection (device " + name + " is strictly unmanaged)")
	}
	g.mu.Lock()
	l, err := g.device(p)
	if err != nil {
		g.mu.Unlock()
		return err
	}
	if !g.hw.NICs[l.port].Connected {
		g.mu.Unlock()
		return fmt.Errorf("Connection '%s' is not available on device %s because device has no carrier", p.id(), name)
	}
	ok := g.configure(p, l)
	if a, on := g.conns[name]; on {
		a.byNetworkManager = true
		g.conns[name] = a
		g.apply()
	}
	g.mu.Unlock()
	g.machine.Changed()
	if !ok {
		return errors.New("Connection activation failed: IP configuration could not be reserved (no available address, timeout, etc.)")
	}
	g.writeResolv()
	g.dispatch(name, "up")
	return nil
}

// configure gives a link, in place of what it has, the addresses and routes of a profile, and tells
// whether it could. The caller holds mu.
func (g *Guest) configure(p profile, l *link) bool {
	l.up = true
	a := active{profile: p}
	l.addrs, l.routes, l.dynamic, l.mtu = nil, nil, false, 1500
	if parent := g.link(l.parent); parent != nil {
		l.mtu = parent.mtu
	}
	delete(g.metrics, l.name)
	ok := g.addresses4(p, l, &a)
	g.metric(l)
	if p.get("ipv6.method") == "auto" {
		if addr, router, found := g.lab.net.Autoconf(g.hw.NICs[l.port].Network, l.mac); found && l.parent == "" {
			ok = true
			l.addrs = append(l.addrs, addr)
			l.routes = append(l.routes, netsim.Route{Dst: netip.MustParsePrefix("::/0"), Via: router, Dev: l.name, Metric: g.metric(l)})
		}
	}
	if mtu, err := strconv.Atoi(p.get("802-3-ethernet.mtu")); err == nil {
		l.mtu = mtu
	}
	if ok {
		g.conns[l.name] = a
	} else {
		delete(g.conns, l.name)
	}
	g.apply()
	return ok
}

// metric is that of a link's routes. NetworkManager gives every device its own, in the order in which they
// come up, and a free one when it comes up again. The caller holds mu.
func (g *Guest) metric(l *link) int {
	first := 100
	if l.vlan != 0 {
		first = 400
	}
	if g.metrics[l.name] == 0 {
		taken := slices.Collect(maps.Values(g.metrics))
		for slices.Contains(taken, first) {
			first++
		}
		g.metrics[l.name] = first
	}
	return g.metrics[l.name]
}

// device returns the interface that p is for; that of a VLAN is made. The caller holds mu.
func (g *Guest) device(p profile) (*link, error) {
	name := p.iface()
	if p.get("connection.type") != "vlan" {
		if l := g.link(name); l != nil {
			if !p.fits(l) {
				return nil, fmt.Errorf("Connection activation failed: No suitable device found for this connection (device %s not available because profile is not compatible with device (mac-address mismatch))", name)
			}
			return l, nil
		}
		return nil, fmt.Errorf("Connection activation failed: No suitable device found for this connection (device %s does not exist)", name)
	}
	parent := g.link(p.get("vlan.parent"))
	if parent == nil {
		return nil, fmt.Errorf("Connection activation failed: Failed to find a compatible device for this connection: no parent %s", p.get("vlan.parent"))
	}
	id, _ := strconv.Atoi(p.get("vlan.id"))
	l := g.link(name)
	if l == nil {
		l = &link{name: name}
		g.links = append(g.links, l)
	}
	l.mac, l.port, l.parent, l.vlan = parent.mac, parent.port, parent.name, id
	return l, nil
}

// addresses4 gives the link its IPv4 addresses and routes. The caller holds mu.
func (g *Guest) addresses4(p profile, l *link, a *active) bool {
	var gateway netip.Addr
	switch p.get("ipv4.method") {
	case "disabled":
		return true
	case "auto":
		if l.vlan != 0 {
			return false // there is no DHCP server on a VLAN here
		}
		id := l.mac
		switch p.get("ipv4.dhcp-client-id") {
		case "duid":
			data, _ := g.disk.ReadFile("/etc/machine-id")
			id = "duid-" + strings.TrimSpace(string(data))
		case dhclientID:
			id = dhclientID + l.mac
		}
		lease, ok := g.lab.net.Lease(g.hw.NICs[l.port].Network, l.mac, id)
		if !ok {
			return false
		}
		l.addrs, l.dynamic, gateway = []netip.Prefix{lease.Addr}, true, lease.Gateway
		for _, s := range strings.FieldsFunc(p.get("ipv4.addresses"), func(r rune) bool { return r == ',' }) {
			l.addrs = append(l.addrs, netip.MustParsePrefix(s)) // valid, by verify
		}
		if lease.MTU > 0 {
			l.mtu = lease.MTU
		}
		if p.get("ipv4.ignore-auto-dns") == "no" {
			a.dns = lease.DNS
		}
	case "manual":
		for _, s := range strings.Split(p.get("ipv4.addresses"), ",") {
			l.addrs = append(l.addrs, netip.MustParsePrefix(s)) // valid, by verify
		}
		if s := p.get("ipv4.gateway"); s != "" {
			gateway = netip.MustParseAddr(s)
		}
	}
	var own []netip.Addr
	for _, s := range strings.FieldsFunc(p.get("ipv4.dns"), func(r rune) bool { return r == ',' }) {
		own = append(own, netip.MustParseAddr(s))
	}
	a.dns = append(own, a.dns...)
	if gateway.IsValid() && p.get("ipv4.never-default") == "no" {
		a.metric = g.metric(l)
		l.routes = append(l.routes, netsim.Route{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: gateway, Dev: l.name, Metric: a.metric})
	}
	return true
}

// deactivate takes the active profile of an interface away. Its link stays up; that of a VLAN goes.
func (g *Guest) deactivate(name string) {
	g.mu.Lock()
	delete(g.conns, name)
	delete(g.metrics, name)
	if l := g.link(name); l != nil {
		l.addrs, l.routes, l.dynamic = nil, nil, false
		if l.parent != "" {
			g.links = slices.DeleteFunc(g.links, func(o *link) bool { return o == l })
		}
	}
	g.apply()
	g.mu.Unlock()
	g.machine.Changed()
	g.writeResolv()
	g.dispatch(name, "down")
}

// writeResolv writes resolv.conf with the name servers of the active profiles, that with the
// best default route first, unless the configuration says that this is not NetworkManager's.
func (g *Guest) writeResolv() {
	if g.networkConf("main", "dns") == "none" {
		return
	}
	g.mu.Lock()
	var on []active
	for _, l := range g.links {
		if a, ok := g.conns[l.name]; ok {
			on = append(on, a)
		}
	}
	g.mu.Unlock()
	slices.SortStableFunc(on, func(a, b active) int {
		rank := func(m int) int { return (m + 9999) % 10000 } // none is last
		return rank(a.metric) - rank(b.metric)
	})
	var b strings.Builder
	b.WriteString("# Generated by NetworkManager\n")
	seen := map[netip.Addr]bool{}
	for _, a := range on {
		for _, s := range a.dns {
			if !seen[s] {
				seen[s] = true
				fmt.Fprintf(&b, "nameserver %s\n", s)
			}
		}
	}
	_ = g.disk.WriteFile("/etc/resolv.conf", []byte(b.String()), 0o644)
}

// dispatch runs the administrator's scripts for a change of an interface.
func (g *Guest) dispatch(name, action string) {
	const dir = "/etc/NetworkManager/dispatcher.d"
	entries, _ := g.disk.ReadDir(dir)
	for _, e := range entries {
		info, err := g.disk.Stat(path.Join(dir, e.Name()))
		if err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o111 != 0 {
			g.host.Run(context.WithoutCancel(g.life), path.Join(dir, e.Name())+" "+name+" "+action)
		}
	}
}
