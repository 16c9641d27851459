package e2e

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// An Override is what is otherwise in one pool than the rest of the topology says. Zero values
// change nothing. In a file it is a mapping of its own, under "pool-2" for pool 2; the variable for
// its con-name is E2E_POOL_2_CON_NAME, and the flag -set pool-2.con-name=NAME.
type Override struct {
	Datastore string // of its VMs; there is one golden on each datastore
	Folder    string // below the set's
	Domain    string
	Con, Dis  HostOverride
}

// A HostOverride is what is otherwise of one host.
type HostOverride struct {
	Name string
	MACs []string // three, in NIC order
	Lab  netip.Addr
	VLAN netip.Addr
}

// A poolSetting is a setting of one pool.
type poolSetting struct{ setting[Override] }

// poolSettings are all, in the order in which they are printed.
var poolSettings = func() []poolSetting {
	all := []poolSetting{
		{text("datastore", "of its VMs", func(o *Override) *string { return &o.Datastore })},
		{text("folder", "of its VMs, below the set's", func(o *Override) *string { return &o.Folder })},
		{text("domain", "of the pool", func(o *Override) *string { return &o.Domain })},
	}
	for role, host := range map[string]func(*Override) *HostOverride{
		Con: func(o *Override) *HostOverride { return &o.Con },
		Dis: func(o *Override) *HostOverride { return &o.Dis },
	} {
		all = append(
			all,
			poolSetting{text(role+"-name", "of the VM and the host", func(o *Override) *string { return &host(o).Name })},
			poolSetting{words(role+"-macs", "three, in the order of NICs", func(o *Override) *[]string { return &host(o).MACs })},
			poolSetting{addr(role+"-lab", "address in the lab", func(o *Override) *netip.Addr { return &host(o).Lab })},
			poolSetting{addr(role+"-vlan", "address in the VLAN", func(o *Override) *netip.Addr { return &host(o).VLAN })},
		)
	}
	slices.SortStableFunc(all[3:], func(a, b poolSetting) int { return cmp.Compare(a.key[:3], b.key[:3]) })
	return all
}()

// of is the setting for pool n, as one of the topology.
func (s poolSetting) of(n int) setting[Topology] {
	return setting[Topology]{
		key: fmt.Sprintf("pool-%d.%s", n, s.key), about: s.about,
		get: func(t *Topology) string {
			o := t.Override[n]
			if text := s.get(&o); text != (netip.Addr{}).String() {
				return text
			}
			return ""
		},
		set: func(t *Topology, value string) error {
			o := t.Override[n]
			if err := s.set(&o, value); err != nil {
				return err
			}
			t.Override = maps.Clone(t.Override)
			if t.Override == nil {
				t.Override = map[int]Override{}
			}
			t.Override[n] = o
			return nil
		},
	}
}

var poolKey = regexp.MustCompile(`^pool-([1-9][0-9]?)$`)

// settingOf finds a setting by its key.
func settingOf(key string) (setting[Topology], bool) {
	if i := slices.IndexFunc(settings, func(s setting[Topology]) bool { return s.key == key }); i >= 0 {
		return settings[i], true
	}
	pool, rest, _ := strings.Cut(key, ".")
	i := slices.IndexFunc(poolSettings, func(s poolSetting) bool { return s.key == rest })
	m := poolKey.FindStringSubmatch(pool)
	if i < 0 || m == nil {
		return setting[Topology]{}, false
	}
	n, err := strconv.Atoi(m[1])
	return poolSettings[i].of(n), err == nil
}

// isOverride reports whether a key is one of a single pool; "pool-base" is not.
func isOverride(key string) bool { return strings.Contains(key, ".") }

// host returns h with what is otherwise.
func (o Override) host(h Host) Host {
	with := o.Con
	if h.Role == Dis {
		with = o.Dis
	}
	h.Name = cmp.Or(with.Name, h.Name)
	h.Lab, h.VLAN = cmp.Or(with.Lab, h.Lab), cmp.Or(with.VLAN, h.VLAN)
	if len(with.MACs) > 0 {
		h.MACs = with.MACs
	}
	return h
}

// keyOf is the key that gave a value: the override's if that is set.
func (t Topology) keyOf(n int, key, standard string) string {
	if s, ok := settingOf(fmt.Sprintf("pool-%d.%s", n, key)); ok && s.get(&t) != "" {
		return s.key
	}
	return standard
}

// overrideFaults finds names and MACs that cannot be, or that two have.
func (t Topology) overrideFaults() (all []topologyFault) {
	names, macs := map[string]string{t.GoldenName: "golden"}, map[string]string{} // to keys
	fault := func(n int, key, standard, format string, args ...any) {
		all = append(all, topologyFault{t.keyOf(n, key, standard), fmt.Errorf(format, args...)})
	}
	for n := 1; n <= t.Pools; n++ {
		o := t.Override[n]
		if o.Domain != "" && !domainName.MatchString(o.Domain) {
			fault(n, "domain", "", "%q is no domain name in small letters", o.Domain)
		}
		if longest := len("api.standard-vlan99.") + len(o.Domain); longest > 253 {
			fault(n, "domain", "", "is too long: names in it would have %d characters, at most 253 are allowed", longest)
		}
		if strings.HasPrefix(o.Folder, "/") || strings.Contains("/"+o.Folder+"/", "/../") {
			fault(n, "folder", "", "%q must be below the set's folder", o.Folder)
		}
		for _, role := range []string{Con, Dis} {
			h := t.Host(role, n)
			if !hostName.MatchString(h.Name) || len(h.Name) > 63 {
				fault(n, role+"-name", "", "%q must be 1 to 63 characters of a-z, 0-9 and \"-\"", h.Name)
			}
			if other, ok := names[h.Name]; ok {
				fault(n, role+"-name", other, "%q is the name of another VM: see %s", h.Name, other)
			}
			names[h.Name] = t.keyOf(n, role+"-name", fmt.Sprintf("pool %d", n))
			if len(h.MACs) != 3 {
				fault(n, role+"-macs", "", "are %d, must be 3", len(h.MACs))
			}
			for _, m := range h.MACs {
				mac, err := net.ParseMAC(m)
				if err != nil || len(mac) != 6 || mac[0]&1 != 0 {
					if len(t.override(n, role).MACs) > 0 { // else it is mac-prefix that is wrong
						fault(n, role+"-macs", "", "%q is no unicast MAC such as 00:50:56:00:01:02", m)
					}
					continue
				}
				if other, ok := macs[mac.String()]; ok {
					fault(n, role+"-macs", other, "%s of %s is that of another NIC: see %s", m, h.Name, other)
				}
				macs[mac.String()] = t.keyOf(n, role+"-macs", "mac-prefix")
			}
		}
	}
	return all
}

func (t Topology) override(n int, role string) HostOverride {
	if role == Dis {
		return t.Override[n].Dis
	}
	return t.Override[n].Con
}

func (t Topology) overrideWarnings() (list []string) {
	for n := 1; n <= t.Pools; n++ {
		for _, role := range []string{Con, Dis} {
			for _, m := range t.override(n, role).MACs {
				list = append(list, warnKept(fmt.Sprintf("pool-%d.%s-macs", n, role), m)...)
			}
		}
	}
	return list
}
