package e2e

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/poolready/poolready/pool"
)

// A setting is one key of a topology file. The same key is the environment variable
// E2E_<KEY>, in capitals with "_" for "-", and can be set by a flag.
type setting[T any] struct {
	key, about string
	get        func(t *T) string
	set        func(t *T, value string) error
}

// settings are all keys, in the order in which they are printed.
var settings = []setting[Topology]{
	text("set", "names the set and its folder", func(t *Topology) *string { return &t.Set }),
	number("pools", "how many pools there are", func(t *Topology) *int { return &t.Pools }),
	numbers("only", "the pools to use; empty is all", func(t *Topology) *[]int { return &t.Only }),
	text("os", "system of the template, such as rhel9 or debian12", func(t *Topology) *string { return &t.OS }),
	text("dis-os", "system of dis, if it is another than con's", func(t *Topology) *string { return &t.DisOS }),
	text("template", "name or inventory path of the template", func(t *Topology) *string { return &t.Template }),
	text("golden", "name of the golden VM", func(t *Topology) *string { return &t.GoldenName }),
	text("dis-template", "that of dis, if dis-os is set", func(t *Topology) *string { return &t.DisTemplate }),
	text("dis-golden", "that of dis, if dis-os is set", func(t *Topology) *string { return &t.DisGolden }),
	text("datastore", "of all VMs; empty is the provider's default", func(t *Topology) *string { return &t.Datastore }),
	number("disk-gib", "golden's disk; 0 keeps the template's", func(t *Topology) *int { return &t.DiskGiB }),
	text("lab-network", "port group", func(t *Topology) *string { return &t.LabNetwork }),
	text("private-network", "port group, a trunk", func(t *Topology) *string { return &t.PrivateNetwork }),
	text("external-network", "port group", func(t *Topology) *string { return &t.ExternalNetwork }),
	text("lab-if", "first NIC, as the guest calls it", func(t *Topology) *string { return &t.LabIF }),
	text("trunk-if", "second NIC", func(t *Topology) *string { return &t.TrunkIF }),
	text("ext-if", "third NIC", func(t *Topology) *string { return &t.ExtIF }),
	number("vlan", "802.1Q id", func(t *Topology) *int { return &t.VLAN }),
	prefix("vlan-prefix", "con of pool N has address 2N-1 in it, dis 2N", func(t *Topology) *netip.Prefix { return &t.VLANPrefix }),
	prefix("lab-prefix", "the lab's network", func(t *Topology) *netip.Prefix { return &t.LabPrefix }),
	addr("pool-base", "pool N has ten lab addresses from 10N after it", func(t *Topology) *netip.Addr { return &t.PoolBase }),
	text("mac-prefix", "four bytes; the fifth is the pool, the sixth the NIC; empty is derived from set", func(t *Topology) *string { return &t.MACPrefix }),
	number("mtu", "of all NICs", func(t *Topology) *int { return &t.MTU }),
	text("domain", "pool N is pN in it", func(t *Topology) *string { return &t.Domain }),
	addr("name-server", "the lab's", func(t *Topology) *netip.Addr { return &t.NameServer }),
	text("outside-names", "what con's dnsmasq does with names of the outside: allowed or refused", func(t *Topology) *string { return &t.OutsideNames }),
	addr("ntp-server", "the lab's", func(t *Topology) *netip.Addr { return &t.NTPServer }),
	text("timezone", "of all hosts", func(t *Topology) *string { return &t.Timezone }),
	text("admin-user", "the default user", func(t *Topology) *string { return &t.AdminUser }),
	text("test-user", "the test user", func(t *Topology) *string { return &t.TestUser }),
	words("packages", "on all hosts", func(t *Topology) *[]string { return &t.Packages }),
	words("packages-removed", "from dis", func(t *Topology) *[]string { return &t.PackagesRemoved }),
	words("watch-paths", "files below are facts, of which a test that is watched may change none", func(t *Topology) *[]string { return &t.WatchPaths }),
	text("product-dir", "where the product is", func(t *Topology) *string { return &t.ProductDir }),
	text("proxy", "of the proxy scripts", func(t *Topology) *string { return &t.Proxy }),
	addr("outside-addr", "an address that answers to every probe", func(t *Topology) *netip.Addr { return &t.OutsideAddr }),
	addr("outside-addr6", "likewise, IPv6", func(t *Topology) *netip.Addr { return &t.OutsideAddr6 }),
	text("outside-name", "a name of the outside", func(t *Topology) *string { return &t.OutsideName }),
	text("internet-url", "a page of the outside", func(t *Topology) *string { return &t.InternetURL }),
	number("retry-pause", "seconds between tries of a mirror; two hosts of a process use it at once", func(t *Topology) *int { return &t.RetryPause }),
	number("wait-con", "seconds that dis waits for con", func(t *Topology) *int { return &t.WaitCon }),
}

// of makes a setting of a field by its form.
func of[T, V any](key, about string, field func(*T) *V, print func(V) string, parse func(string) (V, error)) setting[T] {
	return setting[T]{
		key: key, about: about,
		get: func(t *T) string { return print(*field(t)) },
		set: func(t *T, s string) error {
			v, err := parse(s)
			if err == nil {
				*field(t) = v
			}
			return err
		},
	}
}

func text[T any](key, about string, field func(*T) *string) setting[T] {
	return of(key, about, field, func(s string) string { return s }, func(s string) (string, error) { return s, nil })
}

func number(key, about string, field func(*Topology) *int) setting[Topology] {
	return of(key, about, field, strconv.Itoa, func(s string) (int, error) {
		n, err := strconv.Atoi(s)
		if err != nil || n < 0 {
			return 0, fmt.Errorf("%q is not a non-negative number", s)
		}
		return n, nil
	})
}

func addr[T any](key, about string, field func(*T) *netip.Addr) setting[T] {
	return of(key, about, field, netip.Addr.String, func(s string) (netip.Addr, error) {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return a, fmt.Errorf("%q is not an IP address", s)
		}
		return a, nil
	})
}

func prefix(key, about string, field func(*Topology) *netip.Prefix) setting[Topology] {
	return of(key, about, field, netip.Prefix.String, func(s string) (netip.Prefix, error) {
		p, err := netip.ParsePrefix(s)
		if err != nil || !p.Addr().Is4() {
			return p, fmt.Errorf("%q is no IPv4 prefix such as 10.10.20.0/24", s)
		}
		return p, nil
	})
}

func words[T any](key, about string, field func(*T) *[]string) setting[T] {
	return of(key, about, field, func(w []string) string { return strings.Join(w, " ") },
		func(s string) ([]string, error) { return strings.Fields(s), nil })
}

func numbers(key, about string, field func(*Topology) *[]int) setting[Topology] {
	return of(key, about, field, func(list []int) string {
		return strings.Trim(strings.ReplaceAll(fmt.Sprint(list), " ", ","), "[]")
	}, pool.ParsePools)
}

// A Source is what a topology is read from, in rising precedence.
type Source struct {
	File  string                                    // name of the YAML file, for messages
	YAML  []byte                                    // its content; nil is none
	Env   func(name string) (value string, ok bool) // such as os.LookupEnv; nil is none
	Flags map[string]string                         // by key: -set key=value, and -pools for "only"
}

// Origins tells, by key, where a value is from: "topology.yaml:12", "E2E_MTU", "-set mtu". What is
// not in it is a default.
type Origins map[string]string

// LoadTopology returns the default topology, with what src says. The error names every fault, with
// its line where it has one.
func LoadTopology(src Source) (Topology, Origins, error) {
	t, from := DefaultTopology(), Origins{}
	errs := t.readYAML(src, from)
	apply := func(s setting[Topology], value, origin string) {
		if err := s.set(&t, value); err != nil {
			errs = append(errs, fmt.Errorf("%s: %s: %w", origin, s.key, err))
			return
		}
		from[s.key] = origin
	}
	flags := maps.Clone(src.Flags)
	consider := func(s setting[Topology]) {
		name := variable(s.key)
		if src.Env != nil {
			if v, ok := src.Env(name); ok {
				apply(s, v, name)
			}
		}
		if v, ok := flags[s.key]; ok {
			apply(s, v, flagOf(s.key))
			delete(flags, s.key)
		}
	}
	for _, s := range settings {
		consider(s)
	}
	for n := 1; n <= min(t.Pools, mostPools); n++ {
		for _, s := range poolSettings {
			consider(s.of(n))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(flags)) {
		errs = append(errs, fmt.Errorf("%s: no such key; -print-topology lists them", flagOf(key)))
	}
	t.named(from)
	for _, f := range t.faults() {
		origin := from[f.key]
		if origin == "" {
			origin = "default"
		}
		errs = append(errs, fmt.Errorf("%s: %s: %w", origin, f.key, f.err))
	}
	if err := errors.Join(errs...); err != nil {
		return t, from, fmt.Errorf("topology:\n%w", err)
	}
	return t, from, nil
}

// flagOf returns the command-line flag of a key.
func flagOf(key string) string {
	if key == "only" {
		return "-pools"
	}
	return "-set " + key
}

// variable returns the environment variable of a key.
func variable(key string) string { return "E2E_" + strings.ToUpper(keyNames.Replace(key)) }

// keyNames turns a key into the end of a variable's name.
var keyNames = strings.NewReplacer("-", "_", ".", "_")

// readYAML takes over a file: one mapping of scalars and lists of scalars, and of such mappings for
// single pools.
func (t *Topology) readYAML(src Source, from Origins) (errs []error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(src.YAML, &doc); err != nil {
		return []error{fmt.Errorf("%s: %w", src.File, err)}
	}
	if len(doc.Content) == 0 {
		return nil
	}
	root := doc.Content[0]
	if root.Kind != yaml.MappingNode {
		return []error{fmt.Errorf("%s:%d: is no mapping of keys to values", src.File, root.Line)}
	}
	return t.readMapping(src, from, "", root)
}

func (t *Topology) readMapping(src Source, from Origins, under string, node *yaml.Node) (errs []error) {
	for i := 0; i+1 < len(node.Content); i += 2 {
		k, v := node.Content[i], node.Content[i+1]
		at, key := fmt.Sprintf("%s:%d", src.File, k.Line), under+k.Value
		if v.Kind == yaml.MappingNode && under == "" && poolKey.MatchString(key) {
			if from[key] != "" {
				errs = append(errs, fmt.Errorf("%s: %s: is set at %s already", at, key, from[key]))
				continue
			}
			from[key] = at
			errs = append(errs, t.readMapping(src, from, key+".", v)...)
			continue
		}
		s, found := settingOf(key)
		value, ok := scalar(v)
		switch {
		case !found:
			errs = append(errs, fmt.Errorf("%s: %s: no such key; -print-topology lists them", at, key))
		case from[key] != "":
			errs = append(errs, fmt.Errorf("%s: %s: is set at %s already", at, key, from[key]))
		case !ok:
			errs = append(errs, fmt.Errorf("%s: %s: is neither a value nor a list of values", at, key))
		default:
			if err := s.set(t, value); err != nil {
				errs = append(errs, fmt.Errorf("%s: %s: %w", at, key, err))
				continue
			}
			from[key] = at
		}
	}
	return errs
}

// scalar is a node's value; the values of a list are joined by blanks.
func scalar(n *yaml.Node) (string, bool) {
	switch n.Kind {
	case yaml.ScalarNode:
		return n.Value, true
	case yaml.SequenceNode:
		var list []string
		for _, c := range n.Content {
			if c.Kind != yaml.ScalarNode {
				return "", false
			}
			list = append(list, c.Value)
		}
		return strings.Join(list, " "), true
	}
	return "", false
}

// YAML prints the topology as a file that makes it, with what keys mean and where values are from.
// Of what is set for single pools only that is printed.
func (t Topology) YAML(from Origins) string {
	var b strings.Builder
	line := func(indent, key, value, about, origin string) {
		text, err := yaml.Marshal(value)
		if err != nil {
			return // strings can always be written
		}
		if origin == "" {
			origin = "default"
		}
		fmt.Fprintf(&b, "%s%s: %s # %s (%s)\n", indent, key, strings.TrimSpace(string(text)), about, origin)
	}
	for _, s := range settings {
		line("", s.key, s.get(&t), s.about, from[s.key])
	}
	for _, n := range slices.Sorted(maps.Keys(t.Override)) {
		fmt.Fprintf(&b, "pool-%d:\n", n)
		for _, s := range poolSettings {
			if value := s.of(n); value.get(&t) != "" {
				line("  ", s.key, value.get(&t), s.about, from[value.key])
			}
		}
	}
	return b.String()
}
