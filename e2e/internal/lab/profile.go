package lab

import (
	"crypto/sha1"
	"fmt"
	"net"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
)

// A profile is a connection of NetworkManager: properties by nmcli's names. Those at their
// default are absent.
type profile struct {
	props  map[string]string
	onDisk bool
}

const profileDir = "/etc/NetworkManager/system-connections/"

// A property is one that the simulation knows: where a keyfile has it, its default as nmcli
// prints it, and what values it takes.
type property struct {
	name, section, key, standard string
	valid                        func(string) bool
}

var properties = []property{
	{"connection.id", "connection", "id", "", nonEmpty},
	{"connection.uuid", "connection", "uuid", "", nonEmpty},
	{"connection.type", "connection", "type", "", oneOf("802-3-ethernet", "vlan")},
	{"connection.interface-name", "connection", "interface-name", "", nonEmpty},
	{"connection.autoconnect", "connection", "autoconnect", "yes", yesNo},
	{"802-3-ethernet.mac-address", "ethernet", "mac-address", "", isMAC},
	{"802-3-ethernet.mtu", "ethernet", "mtu", "auto", number(0, 9216)},
	{"vlan.id", "vlan", "id", "", number(1, 4094)},
	{"vlan.parent", "vlan", "parent", "", nonEmpty},
	{"ipv4.method", "ipv4", "method", "auto", oneOf("auto", "manual", "disabled")},
	{"ipv4.addresses", "ipv4", "addresses", "", list(isPrefix)},
	{"ipv4.gateway", "ipv4", "gateway", "", isAddr},
	{"ipv4.dns", "ipv4", "dns", "", list(isAddr)},
	{"ipv4.ignore-auto-dns", "ipv4", "ignore-auto-dns", "no", yesNo},
	{"ipv4.never-default", "ipv4", "never-default", "no", yesNo},
	{"ipv4.dhcp-client-id", "ipv4", "dhcp-client-id", "", oneOf("mac", "duid")},
	{"ipv6.method", "ipv6", "method", "auto", oneOf("auto", "disabled", "ignore")},
}

func nonEmpty(s string) bool { return s != "" }
func yesNo(s string) bool    { return s == "yes" || s == "no" }

func isMAC(s string) bool {
	mac, err := net.ParseMAC(s)
	return err == nil && len(mac) == 6
}

func isAddr(s string) bool {
	a, err := netip.ParseAddr(s)
	return err == nil && a.Is4()
}

func isPrefix(s string) bool {
	p, err := netip.ParsePrefix(s)
	return err == nil && p.Addr().Is4()
}

func oneOf(words ...string) func(string) bool {
	return func(s string) bool { return slices.Contains(words, s) }
}

func number(least, most int) func(string) bool {
	return func(s string) bool {
		n, err := strconv.Atoi(s)
		return err == nil && n >= least && n <= most
	}
}

func list(each func(string) bool) func(string) bool {
	return func(s string) bool {
		for _, v := range strings.Split(s, ",") {
			if !each(strings.TrimSpace(v)) {
				return false
			}
		}
		return true
	}
}

func propertyNamed(name string) (property, bool) {
	i := slices.IndexFunc(properties, func(p property) bool { return p.name == name })
	if i < 0 {
		return property{}, false
	}
	return properties[i], true
}

func (p profile) get(name string) string {
	if v, ok := p.props[name]; ok {
		return v
	}
	d, _ := propertyNamed(name)
	return d.standard
}

func (p profile) id() string    { return p.get("connection.id") }
func (p profile) iface() string { return p.get("connection.interface-name") }
func (p profile) auto() bool    { return p.get("connection.autoconnect") == "yes" }

// fits reports whether p may be activated on a link.
func (p profile) fits(l *link) bool {
	mac := p.get("802-3-ethernet.mac-address")
	return mac == "" || strings.EqualFold(mac, l.mac)
}

// set changes a property; "" puts it back to its default.
func (p profile) set(name, value string) error {
	d, ok := propertyNamed(name)
	if !ok {
		return errNotSimulated(name)
	}
	value = strings.ReplaceAll(value, ", ", ",")
	if value == "" || value == d.standard {
		delete(p.props, name)
		return nil
	}
	if !d.valid(value) {
		return fmt.Errorf("failed to modify %s: '%s' is not valid", name, value)
	}
	p.props[name] = value
	return nil
}

type errNotSimulated string

func (e errNotSimulated) Error() string { return "not simulated: " + string(e) }

// verify is what NetworkManager demands of a profile as a whole.
func (p profile) verify() error {
	switch {
	case p.get("ipv4.method") == "manual" && p.get("ipv4.addresses") == "":
		return fmt.Errorf("ipv4.addresses: this property cannot be empty for 'method=manual'")
	case p.get("ipv4.gateway") != "" && p.get("ipv4.addresses") == "":
		return fmt.Errorf("ipv4.gateway: gateway cannot be set if there are no addresses configured")
	case p.get("ipv4.gateway") != "" && p.get("ipv4.never-default") == "yes":
		return fmt.Errorf("ipv4.gateway: a gateway is incompatible with 'never-default'")
	case p.get("ipv4.method") == "disabled" && p.get("ipv4.addresses")+p.get("ipv4.dns") != "":
		return fmt.Errorf("ipv4.dns: this property is not allowed for 'method=disabled'")
	case p.get("connection.type") == "vlan" && (p.get("vlan.id") == "" || p.get("vlan.parent") == ""):
		return fmt.Errorf("vlan.parent: property is not specified")
	}
	return nil
}

// keyfile is the profile as NetworkManager writes it.
func (p profile) keyfile() []byte {
	var b strings.Builder
	section := ""
	for _, d := range properties {
		v, ok := p.props[d.name]
		if !ok {
			continue
		}
		if d.section != section {
			if section != "" {
				b.WriteByte('\n')
			}
			section = d.section
			fmt.Fprintf(&b, "[%s]\n", section)
		}
		switch {
		case d.name == "connection.type" && v == "802-3-ethernet":
			v = "ethernet"
		case v == "yes":
			v = "true"
		case v == "no":
			v = "false"
		case d.key == "addresses":
			for i, a := range strings.Split(v, ",") {
				fmt.Fprintf(&b, "address%d=%s\n", i+1, a)
			}
			continue
		case d.key == "dns":
			v = strings.ReplaceAll(v, ",", ";") + ";"
		}
		fmt.Fprintf(&b, "%s=%s\n", d.key, v)
	}
	return []byte(b.String())
}

// parseKeyfile reads a profile; properties that the simulation does not know make it fail, as
// what the machine would do is unknown.
func parseKeyfile(data []byte) (profile, error) {
	p := profile{props: map[string]string{}, onDisk: true}
	var addresses []string
	section := ""
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if s, ok := strings.CutPrefix(line, "["); ok {
			section = strings.TrimSuffix(s, "]")
			continue
		}
		k, v, _ := strings.Cut(line, "=")
		k, v = strings.TrimSpace(k), strings.TrimSpace(v)
		if section == "ipv4" && strings.HasPrefix(k, "address") {
			a, gateway, ok := strings.Cut(v, ",")
			addresses = append(addresses, a)
			if ok {
				p.props["ipv4.gateway"] = gateway
			}
			continue
		}
		i := slices.IndexFunc(properties, func(d property) bool { return d.section == section && d.key == k })
		if i < 0 {
			return p, errNotSimulated(section + "." + k)
		}
		switch {
		case properties[i].name == "connection.type" && v == "ethernet":
			v = "802-3-ethernet"
		case v == "true":
			v = "yes"
		case v == "false":
			v = "no"
		case k == "dns":
			v = strings.ReplaceAll(strings.TrimSuffix(v, ";"), ";", ",")
		}
		if err := p.set(properties[i].name, v); err != nil {
			return p, err
		}
	}
	if len(addresses) > 0 {
		p.props["ipv4.addresses"] = strings.Join(addresses, ",")
	}
	return p, p.verify()
}

func newUUID(seed string) string {
	s := sha1.Sum([]byte(seed))
	return fmt.Sprintf("%x-%x-%x-%x-%x", s[:4], s[4:6], s[6:8], s[8:10], s[10:16])
}

// profiles returns all profiles: those on the disk, in the order of their file names, then
// NetworkManager's own.
func (g *Guest) profiles() []profile {
	var all []profile
	entries, _ := g.disk.ReadDir(profileDir)
	for _, e := range entries {
		data, err := g.disk.ReadFile(path.Join(profileDir, e.Name()))
		if err != nil || !strings.HasSuffix(e.Name(), ".nmconnection") {
			continue
		}
		info, err := e.Info()
		if err != nil || info.Mode().Perm()&0o077 != 0 {
			continue // NetworkManager ignores what others can read
		}
		if p, err := parseKeyfile(data); err == nil {
			all = append(all, p)
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return append(all, g.wired...)
}

func (g *Guest) profileNamed(name string) (profile, bool) {
	for _, p := range g.profiles() {
		if p.id() == name || p.get("connection.uuid") == name {
			return p, true
		}
	}
	return profile{}, false
}

// save writes a profile to the disk. NetworkManager's own becomes a persistent one.
func (g *Guest) save(p profile) error {
	g.mu.Lock()
	g.wired = slices.DeleteFunc(g.wired, func(w profile) bool { return w.get("connection.uuid") == p.get("connection.uuid") })
	g.mu.Unlock()
	if err := g.disk.MkdirAll(profileDir, 0o755); err != nil {
		return err
	}
	file := profileDir + p.id() + ".nmconnection"
	if old, err := g.disk.ReadFile(file); err == nil && string(old) == string(p.keyfile()) {
		return nil
	}
	return g.disk.WriteFile(file, p.keyfile(), 0o600)
}
