package e2e

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
)

// A topologyFault is something wrong with a topology, and the key to change.
type topologyFault struct {
	key string
	err error
}

// Validate reports everything that is wrong with the topology as a whole.
func (t Topology) Validate() error {
	var errs []error
	for _, f := range t.faults() {
		errs = append(errs, fmt.Errorf("%s: %w", f.key, f.err))
	}
	return errors.Join(errs...)
}

var (
	hostName   = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`)
	domainName = regexp.MustCompile(`^[a-z0-9-]+(\.[a-z0-9-]+)*$`)
)

func (t Topology) faults() []topologyFault {
	var all []topologyFault
	fault := func(key, format string, args ...any) {
		all = append(all, topologyFault{key, fmt.Errorf(format, args...)})
	}
	if t.Pools < 1 || t.Pools > mostPools {
		fault("pools", "is %d, must be from 1 to %d", t.Pools, mostPools)
		return all
	}
	for _, n := range t.Only {
		if n < 1 || n > t.Pools {
			fault("only", "there is no pool %d: there are %d", n, t.Pools)
			return all
		}
	}
	if !hostName.MatchString(t.Set) || len(t.Set) > 40 {
		fault("set", "%q must be 1 to 40 characters of a-z, 0-9 and \"-\"", t.Set)
	}
	if !hostName.MatchString(t.GoldenName) || len(t.GoldenName) > 40 {
		fault("golden", "%q must be 1 to 40 characters of a-z, 0-9 and \"-\"", t.GoldenName)
	}
	if !domainName.MatchString(t.Domain) {
		fault("domain", "%q is no domain name in small letters", t.Domain)
	}
	if longest := len("api.standard-vlan99.p99.") + len(t.Domain); longest > 253 {
		fault("domain", "is too long: names in it would have %d characters, at most 253 are allowed", longest)
	}
	for _, p := range t.Product.Ports {
		if !portName.MatchString(p) {
			fault("product", "Product.Ports: %q must be a port or a range and a protocol, such as 7070/tcp", p)
		}
	}
	if t.VLAN < 1 || t.VLAN > 4094 {
		fault("vlan", "is %d, must be from 1 to 4094", t.VLAN)
	}
	if t.MTU < 1280 || t.MTU > 9000 {
		fault("mtu", "is %d, must be from 1280 to 9000", t.MTU)
	}
	if ifs := []string{t.LabIF, t.TrunkIF, t.ExtIF}; len(slices.Compact(slices.Sorted(slices.Values(ifs)))) != 3 {
		fault("lab-if", "the three NICs %q must have three names", ifs)
	}
	if mac, err := net.ParseMAC(t.macPrefix() + ":00:00"); err != nil || len(mac) != 6 || mac[0]&1 != 0 {
		fault("mac-prefix", "%q is not four bytes of a unicast MAC, such as 00:50:56:2c", t.MACPrefix)
	}
	if t.LabPrefix.Overlaps(t.VLANPrefix) {
		fault("vlan-prefix", "%s overlaps lab-prefix %s", t.VLANPrefix, t.LabPrefix)
	}
	if t.OutsideNames != "allowed" && t.OutsideNames != "refused" {
		fault("outside-names", "is %q, must be allowed or refused", t.OutsideNames)
	}
	return slices.Concat(all, t.osFaults(), t.overrideFaults(), t.addressFaults())
}

// mostPools is how many pools there can be: what is derived from the number has no room for more.
const mostPools = 99

// addressFaults finds addresses that two have, or that lie outside of their network.
func (t Topology) addressFaults() (all []topologyFault) {
	if !t.PoolBase.Is4() || !t.VLANPrefix.IsValid() || !t.LabPrefix.IsValid() {
		return []topologyFault{{"pool-base", errors.New("addresses must be IPv4")}}
	}
	owner, keys := map[netip.Addr]string{t.NameServer: "name-server"}, map[netip.Addr]string{}
	claim := func(key, who string, a netip.Addr, in netip.Prefix) {
		if !in.Contains(a) {
			all = append(all, topologyFault{key, fmt.Errorf("%s would have %s, which is not in %s", who, a, in)})
			return
		}
		if other, ok := owner[a]; ok {
			if isOverride(keys[a]) && !isOverride(key) {
				key = keys[a]
			}
			all = append(all, topologyFault{key, fmt.Errorf("%s would have %s, which is that of %s", who, a, other)})
			return
		}
		owner[a], keys[a] = who, key
	}
	for n := 1; n <= t.Pools; n++ {
		for _, role := range []string{Con, Dis} {
			h := t.Host(role, n)
			claim(t.keyOf(n, role+"-lab", "pool-base"), h.Name, h.Lab, t.LabPrefix)
			claim(t.keyOf(n, role+"-vlan", "vlan-prefix"), h.Name+"'s VLAN interface", h.VLAN, t.VLANPrefix)
		}
		for i, what := range []string{"node", "API", "apps"} {
			who := fmt.Sprintf("the cluster %s of pool %d", what, n)
			claim("pool-base", who, offset(t.PoolBase, 10*n+2+i), t.LabPrefix)
			claim("vlan-prefix", who, offset(t.VLANPrefix.Masked().Addr(), 200+10*i+n), t.VLANPrefix)
		}
	}
	return all
}

const keptMAC = "one that VMware keeps for itself: a host does not power on a VM that has it by hand; " +
	"take 00:50:56:00 to 00:50:56:3f, or a prefix that is not VMware's"

// warnKept warns of a MAC that hosts do not let anybody choose.
func warnKept(key, addr string) []string {
	mac, err := net.ParseMAC(addr)
	if err != nil || len(mac) != 6 {
		return nil
	}
	switch hex.EncodeToString(mac[:3]) {
	case "005056":
		if mac[3] <= 0x3f {
			return nil
		}
	case "000c29":
	default:
		return nil
	}
	return []string{key + ": " + addr + " is " + keptMAC}
}

// Warnings are what may be meant, but should be known.
func (t Topology) Warnings() []string {
	return append(warnKept("mac-prefix", t.macPrefix()+":00:00"), t.overrideWarnings()...)
}
