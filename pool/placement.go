package pool

import (
	"fmt"
	"slices"
	"strings"
)

// A Placement is where a VM lies, or is to lie, in the hypervisor's own words: inventory paths for
// a vCenter. Two Placements from one Provider name the same places with the same words.
type Placement struct {
	// Datastores hold the VM's disks, sorted. A VM that is to be made has exactly one.
	Datastores []string
	// ResourcePool is "" for a template, which is in none.
	ResourcePool string
	// Networks are those of the NICs, in device order.
	Networks []string
	// Hosts are the hosts of the hypervisor that can run a VM that is to be made there; nil is not
	// known, and of a VM that exists.
	Hosts []string
}

// Differs returns every way in which p is not where want says, or "". What either of them does not
// know (no datastore, no resource pool, no NIC) is not compared.
func (p Placement) Differs(want Placement) string {
	var all []string
	differ := func(what, got, want string) {
		if got != want {
			all = append(all, fmt.Sprintf("%s is %s, want %s", what, got, want))
		}
	}
	if len(p.Datastores) > 0 && len(want.Datastores) > 0 && !slices.Equal(p.Datastores, want.Datastores) {
		differ("datastore", strings.Join(p.Datastores, " and "), strings.Join(want.Datastores, " and "))
	}
	if p.ResourcePool != "" && want.ResourcePool != "" {
		differ("resource pool", p.ResourcePool, want.ResourcePool)
	}
	for i := range min(len(p.Networks), len(want.Networks)) {
		differ(fmt.Sprintf("network of NIC %d", i), p.Networks[i], want.Networks[i])
	}
	return strings.Join(all, "; ")
}
