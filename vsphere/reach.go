package vsphere

import (
	"fmt"
	"slices"
	"strings"

	"github.com/vmware/govmomi/vim25/types"
)

// hostsOf returns the hosts that the VMs of a resource pool can run on, by name, and whether DRS
// chooses among them.
func (t *tree) hostsOf(pool place) (hosts []place, drs bool) {
	owner, _ := pool.props["owner"].(types.ManagedObjectReference)
	cluster := t.all[owner]
	refs, _ := cluster.props["host"].(types.ArrayOfManagedObjectReference)
	for _, ref := range refs.ManagedObjectReference {
		if host, ok := t.all[ref]; ok {
			hosts = append(hosts, host)
		}
	}
	slices.SortFunc(hosts, func(a, b place) int { return strings.Compare(a.name, b.name) })
	if owner.Type != "ClusterComputeResource" {
		return hosts, true // there is one host, which need not be named
	}
	var config *types.ClusterDrsConfigInfo
	switch c := cluster.props["configurationEx"].(type) {
	case types.ClusterConfigInfoEx:
		config = &c.DrsConfig
	case *types.ClusterConfigInfoEx:
		config = &c.DrsConfig
	default:
		return hosts, true // unknown: let vCenter choose
	}
	return hosts, config.Enabled != nil && *config.Enabled
}

// unusable says why no VM can be placed on a host now, or "".
func unusable(host place) string {
	state, _ := host.props["runtime.connectionState"].(types.HostSystemConnectionState)
	switch {
	case state != "" && state != types.HostSystemConnectionStateConnected:
		return "is " + string(state)
	case host.props["runtime.inMaintenanceMode"] == true:
		return "is in maintenance mode"
	}
	return ""
}

// revive says what makes an unusable host usable.
func revive(host place) string {
	if host.props["runtime.inMaintenanceMode"] == true {
		return "end that in vCenter, or: govc host.maintenance.exit " + host.name
	}
	return "check and reconnect it in vCenter, or: govc host.reconnect " + host.name
}

// reach returns the hosts on which a VM at that location can run: in its resource pool, usable,
// with its datastore and all its networks. If there is none, why says what each host lacks.
// Without any reading of hosts, as the user may not see them, both are empty.
func (t *tree) reach(at location) (hosts []place, why string) {
	all, _ := t.hostsOf(at.pool)
	var lacks []string
	for _, host := range all {
		lack := []string{}
		if s := unusable(host); s != "" {
			lack = append(lack, s)
		}
		sees := func(kind string, of place) {
			refs, ok := host.props[kind].(types.ArrayOfManagedObjectReference)
			if ok && of.ref.Value != "" && !slices.Contains(refs.ManagedObjectReference, of.ref) {
				lack = append(lack, fmt.Sprintf("has no %s %q", kind, of.plain()))
			}
		}
		sees("datastore", at.datastore)
		for _, net := range at.networks {
			sees("network", net)
		}
		if len(lack) == 0 {
			hosts = append(hosts, host)
			continue
		}
		lacks = append(lacks, fmt.Sprintf("%s %s", host.name, strings.Join(slices.Compact(lack), " and ")))
	}
	if len(hosts) > 0 || len(all) == 0 {
		return hosts, ""
	}
	const most = 5
	if n := len(lacks); n > most {
		lacks = append(lacks[:most], fmt.Sprintf("and %d hosts more", n-most))
	}
	return nil, strings.Join(lacks, ", ")
}

// unreachable is the error of a location that no host reaches.
func (t *tree) unreachable(at location, why string) error {
	return refuse("no host of resource pool %q can run it: %s; choose another resource pool, datastore or network, "+
		"or give a host what it lacks", t.path(at.pool.ref), why)
}

// hostLeft reports whether a host that was named no longer takes VMs: it is in maintenance mode, or
// not connected.
func hostLeft(err error) bool {
	return has[*types.InvalidHostState](err) || has[*types.HostNotConnected](err)
}

// host returns the host that a new VM must name, or nil where vCenter chooses one: in a cluster
// without DRS it does not. VMs are spread over the hosts.
func (p *Provider) host(t *tree, at location) (*types.ManagedObjectReference, error) {
	all, drs := t.hostsOf(at.pool)
	if drs || len(all) == 0 {
		return nil, nil
	}
	hosts, why := t.reach(at)
	if len(hosts) == 0 {
		return nil, t.unreachable(at, why)
	}
	return &hosts[int(p.places.turn.Add(1))%len(hosts)].ref, nil
}
