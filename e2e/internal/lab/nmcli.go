package lab

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/poolready/poolready/sshx/sshtest"
)

// nmcli knows: [-t] [-f DEVICE,TYPE,STATE,CONNECTION] device [status], on RHEL; [-g FIELDS, or -t -f
// FIELDS] connection show [PROFILE]; connection add type ethernet|vlan con-name C
// ifname I [dev PARENT] [id VLAN] [PROPERTY VALUE]...; connection modify PROFILE [PROPERTY
// VALUE]...; connection up|down|delete PROFILE; connection reload. Properties are those of
// profile.go.
func (g *Guest) nmcli(_ context.Context, p *sshtest.Proc) int {
	args := p.Args[1:]
	var fields []string
	terse := false
	if len(args) > 1 && args[0] == "-t" {
		terse, args = true, args[1:]
	}
	if len(args) > 1 && (args[0] == "-g" && !terse || args[0] == "-f" && terse) {
		fields, args = strings.Split(args[1], ","), args[2:]
	}
	if len(args) > 0 && slices.Contains([]string{"device", "dev", "d"}, args[0]) && (len(args) == 1 || slices.Equal(args[1:], []string{"status"})) {
		return g.nmcliDevices(p, terse, fields)
	}
	if terse && len(fields) == 0 || terse && len(args) > 2 {
		return p.NotSimulated(strings.Join(p.Args[1:], " "))
	}
	if len(args) < 2 || args[0] != "connection" && args[0] != "con" {
		return p.NotSimulated(strings.Join(args, " "))
	}
	if !g.isActive("NetworkManager") {
		return p.Fail(8, "Error: NetworkManager is not running.")
	}
	verb, rest := args[1], args[2:]
	if verb == "show" && len(fields) > 0 {
		return g.nmcliShow(p, fields, rest)
	}
	if len(fields) > 0 {
		return p.NotSimulated("-g with " + verb)
	}
	if p.User != "root" {
		return p.Fail(1, "Error: insufficient privileges")
	}
	switch {
	case verb == "reload" && len(rest) == 0:
		return 0 // profiles are read from the disk each time
	case verb == "add":
		return g.nmcliAdd(p, rest)
	case len(rest) == 0 || strings.HasPrefix(rest[0], "-"):
		return p.NotSimulated(verb + " " + strings.Join(rest, " "))
	}
	prof, ok := g.profileNamed(rest[0])
	if !ok {
		return p.Fail(10, "Error: unknown connection '%s'.", rest[0])
	}
	switch {
	case verb == "modify":
		if err := prof.change(rest[1:]); err != nil {
			return nmcliError(p, err)
		}
		if err := g.save(prof); err != nil {
			return p.Fail(1, "Error: %v", err)
		}
	case verb == "up" && len(rest) == 1:
		if err := g.activate(prof); err != nil {
			return p.Fail(4, "Error: %v", err)
		}
		fmt.Fprintln(p.Stdout, "Connection successfully activated")
	case verb == "down" && len(rest) == 1:
		if !g.activeOn(prof) {
			return p.Fail(10, "Error: '%s' is not an active connection.", rest[0])
		}
		g.deactivate(prof.iface())
		fmt.Fprintf(p.Stdout, "Connection '%s' successfully deactivated\n", prof.id())
	case verb == "delete" && len(rest) == 1:
		return g.nmcliDelete(p, prof)
	default:
		return p.NotSimulated(verb + " " + strings.Join(rest, " "))
	}
	return 0
}

// nmcliDevices is nmcli device. On Debian, which interfaces are ifupdown's is not asked here.
func (g *Guest) nmcliDevices(p *sshtest.Proc, terse bool, fields []string) int {
	if g.os == debian {
		return p.NotSimulated("device on Debian")
	}
	if !g.isActive("NetworkManager") {
		return p.Fail(8, "Error: NetworkManager is not running.")
	}
	all := []string{"DEVICE", "TYPE", "STATE", "CONNECTION"}
	if len(fields) == 0 {
		fields = all
	}
	var rows [][]string
	g.mu.Lock()
	for _, l := range g.links {
		kind, state, name := "ethernet", "disconnected", ""
		if l.parent != "" {
			kind = "vlan"
		}
		if a, ok := g.conns[l.name]; ok {
			state, name = "connected", a.profile.id()
		} else if !g.hw.NICs[l.port].Connected {
			state = "unavailable"
		}
		rows = append(rows, []string{l.name, kind, state, name})
	}
	g.mu.Unlock()
	rows = append(rows, []string{"lo", "loopback", "connected (externally)", "lo"})
	order := []string{"connected", "connected (externally)", "disconnected", "unavailable"}
	slices.SortStableFunc(rows, func(a, b []string) int { return slices.Index(order, a[2]) - slices.Index(order, b[2]) })
	if !terse {
		rows = append([][]string{all}, rows...)
	}
	widths := map[string]int{}
	for _, row := range rows {
		for i, v := range row {
			widths[all[i]] = max(widths[all[i]], len(v), 2)
		}
	}
	for _, row := range rows {
		var cells []string
		for _, f := range fields {
			i := slices.Index(all, f)
			switch {
			case i < 0:
				return p.NotSimulated("field " + f)
			case terse:
				cells = append(cells, strings.ReplaceAll(row[i], ":", `\:`))
			default:
				v := row[i]
				if v == "" {
					v = "--"
				}
				cells = append(cells, fmt.Sprintf("%-*s", widths[f], v))
			}
		}
		if terse {
			fmt.Fprintln(p.Stdout, strings.Join(cells, ":"))
		} else {
			fmt.Fprintln(p.Stdout, strings.Join(cells, "  ")+" ")
		}
	}
	return 0
}

func nmcliError(p *sshtest.Proc, err error) int {
	if ns, ok := errors.AsType[errNotSimulated](err); ok {
		return p.NotSimulated(string(ns))
	}
	return p.Fail(2, "Error: %v.", err)
}

// change sets properties from pairs of words, and verifies the whole.
func (p profile) change(words []string) error {
	if len(words)%2 != 0 {
		return fmt.Errorf("value for '%s' is missing", words[len(words)-1])
	}
	for i := 0; i < len(words); i += 2 {
		if err := p.set(words[i], words[i+1]); err != nil {
			return err
		}
	}
	return p.verify()
}

func (g *Guest) activeOn(p profile) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	a, ok := g.conns[p.iface()]
	return ok && a.profile.get("connection.uuid") == p.get("connection.uuid")
}

func (g *Guest) nmcliShow(p *sshtest.Proc, fields, names []string) int {
	switch len(names) {
	case 0:
		for _, prof := range g.profiles() {
			var row []string
			for _, f := range fields {
				var v string
				switch f {
				case "NAME":
					v = prof.id()
				case "UUID":
					v = prof.get("connection.uuid")
				case "TYPE":
					v = prof.get("connection.type")
				case "DEVICE":
					if g.activeOn(prof) {
						v = prof.iface()
					}
				default:
					return p.NotSimulated("field " + f)
				}
				row = append(row, strings.ReplaceAll(v, ":", `\:`))
			}
			fmt.Fprintln(p.Stdout, strings.Join(row, ":"))
		}
		return 0
	case 1:
		prof, ok := g.profileNamed(names[0])
		if !ok {
			return p.Fail(10, "Error: %s - no such connection profile.", names[0])
		}
		for _, f := range fields {
			if _, ok := propertyNamed(f); !ok {
				return p.NotSimulated("field " + f)
			}
			fmt.Fprintln(p.Stdout, prof.get(f))
		}
		return 0
	}
	return p.NotSimulated("more than one profile")
}

func (g *Guest) nmcliAdd(p *sshtest.Proc, words []string) int {
	short := map[string]string{
		"type": "connection.type", "con-name": "connection.id", "ifname": "connection.interface-name",
		"dev": "vlan.parent", "id": "vlan.id", "autoconnect": "connection.autoconnect",
	}
	words = append([]string(nil), words...)
	for i := 0; i+1 < len(words); i += 2 {
		if long, ok := short[words[i]]; ok {
			words[i] = long
		}
		if words[i] == "connection.type" && words[i+1] == "ethernet" {
			words[i+1] = "802-3-ethernet"
		}
	}
	prof := profile{props: map[string]string{}, onDisk: true}
	if err := prof.change(words); err != nil {
		return nmcliError(p, err)
	}
	for _, need := range []string{"connection.id", "connection.type", "connection.interface-name"} {
		if prof.get(need) == "" {
			return p.NotSimulated("add without " + need)
		}
	}
	prof.props["connection.uuid"] = newUUID(g.host.BootID() + prof.id())
	if err := g.save(prof); err != nil {
		return p.Fail(1, "Error: %v", err)
	}
	fmt.Fprintf(p.Stdout, "Connection '%s' (%s) successfully added.\n", prof.id(), prof.get("connection.uuid"))
	if prof.auto() {
		g.autoconnect(prof.iface())
	}
	return 0
}

func (g *Guest) nmcliDelete(p *sshtest.Proc, prof profile) int {
	on := g.activeOn(prof)
	if prof.onDisk {
		_ = g.disk.Remove(profileDir + prof.id() + ".nmconnection")
	} else {
		g.mu.Lock()
		var kept []profile
		for _, w := range g.wired {
			if w.id() != prof.id() {
				kept = append(kept, w)
			}
		}
		g.wired = kept
		g.mu.Unlock()
	}
	if on {
		g.deactivate(prof.iface())
		g.autoconnect(prof.iface())
	}
	fmt.Fprintf(p.Stdout, "Connection '%s' (%s) successfully deleted.\n", prof.id(), prof.get("connection.uuid"))
	return 0
}

// networkManager knows: --print-config.
func (g *Guest) networkManager(_ context.Context, p *sshtest.Proc) int {
	if len(p.Args) != 2 || p.Args[1] != "--print-config" {
		return p.NotSimulated(strings.Join(p.Args[1:], " "))
	}
	fmt.Fprintln(p.Stdout, "# NetworkManager configuration")
	for _, s := range [][2]string{{"main", "dns"}, {"keyfile", "unmanaged-devices"}} {
		if v := g.networkConf(s[0], s[1]); v != "" {
			fmt.Fprintf(p.Stdout, "\n[%s]\n%s=%s\n", s[0], s[1], v)
		}
	}
	return 0
}
