package lab

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/poolready/poolready/sshx/sshtest"
)

const interfacesFile = "/etc/network/interfaces"

// An ifaceConf is what ifupdown does with an interface.
type ifaceConf struct {
	name, method string
	auto         bool
	options      map[string]string
	fault        string // what the simulation does not know of it
}

// interfaces reads /etc/network/interfaces, but the loopback. It knows source DIR/*, auto,
// allow-hotplug and iface NAME inet dhcp|static|manual, with address (and prefix length), gateway
// and mtu.
func (g *Guest) interfaces() []ifaceConf {
	files := []string{interfacesFile}
	var all []ifaceConf
	auto := map[string]bool{}
	for len(files) > 0 {
		data, _ := g.disk.ReadFile(files[0])
		files = files[1:]
		var in *ifaceConf
		for line := range strings.Lines(string(data)) {
			f := strings.Fields(line)
			switch {
			case len(f) == 0 || strings.HasPrefix(f[0], "#"):
			case f[0] == "source" && len(f) == 2:
				entries, _ := g.disk.ReadDir(path.Dir(f[1]))
				for _, e := range entries {
					files = append(files, path.Join(path.Dir(f[1]), e.Name()))
				}
			case f[0] == "auto" || f[0] == "allow-hotplug":
				for _, name := range f[1:] {
					auto[name] = true
				}
			case f[0] == "iface" && len(f) == 4:
				all = append(all, ifaceConf{name: f[1], method: f[3], options: map[string]string{}})
				in = &all[len(all)-1]
				if f[2] != "inet" || !slices.Contains([]string{"dhcp", "static", "manual", "loopback"}, f[3]) {
					in.fault = strings.TrimSpace(line)
				}
			case in != nil && len(f) == 2 && slices.Contains([]string{"address", "gateway", "mtu"}, f[0]):
				in.options[f[0]] = f[1]
			case in != nil:
				in.fault = strings.TrimSpace(line)
			}
		}
	}
	for i := range all {
		all[i].auto = auto[all[i].name]
	}
	return slices.DeleteFunc(all, func(i ifaceConf) bool { return i.name == "lo" })
}

// dhclientID is how ifupdown's client calls itself to DHCP servers, with the MAC: to one that goes by client
// identifiers it is another client than networkd and NetworkManager, where those send the MAC.
const dhclientID = "dhclient-"

func dhclientPID(name string) string { return "/run/dhclient." + name + ".pid" }

// ifupdownFault is what the simulation does not know of the interfaces that start by themselves.
func (g *Guest) ifupdownFault() error {
	for _, i := range g.interfaces() {
		if i.auto && i.fault != "" {
			return errNotSimulated(i.fault)
		}
	}
	return nil
}

// ifupdownUp is the start of networking.service, and of what udev has it do for interfaces that
// are plugged in.
func (g *Guest) ifupdownUp() {
	for _, i := range g.interfaces() {
		if !i.auto {
			continue
		}
		p := profile{props: map[string]string{
			"connection.interface-name": i.name, "connection.type": "802-3-ethernet",
			"ipv4.method":    map[string]string{"dhcp": "auto", "static": "manual", "manual": "disabled"}[i.method],
			"ipv4.addresses": i.options["address"], "ipv4.gateway": i.options["gateway"], "ipv4.dhcp-client-id": dhclientID,
		}}
		if mtu := i.options["mtu"]; mtu != "" {
			p.props["802-3-ethernet.mtu"] = mtu
		}
		g.mu.Lock()
		l := g.link(i.name)
		if l != nil && g.hw.NICs[l.port].Connected && g.configure(p, l) && i.method == "dhcp" {
			var b strings.Builder
			for _, s := range g.conns[i.name].dns {
				fmt.Fprintf(&b, "nameserver %s\n", s)
			}
			_ = g.disk.Remove("/etc/resolv.conf") // dhclient-script moves its own there
			_ = g.disk.WriteFile("/etc/resolv.conf", []byte(b.String()), 0o644)
			_ = g.disk.WriteFile(dhclientPID(i.name), []byte("512\n"), 0o644)
		}
		g.mu.Unlock()
		g.machine.Changed()
	}
}

// dhclient knows: -x -pf FILE INTERFACE, which ends the one that ifupdown has started.
func (g *Guest) dhclient(_ context.Context, p *sshtest.Proc) int {
	if len(p.Args) != 5 || p.Args[1] != "-x" || p.Args[2] != "-pf" || p.Args[3] != dhclientPID(p.Args[4]) {
		return p.NotSimulated(strings.Join(p.Args[1:], " "))
	}
	if p.User != "root" {
		return p.Fail(2, "Open a socket for LPF: Operation not permitted")
	}
	_ = g.disk.Remove(p.Args[3])
	return 0
}
