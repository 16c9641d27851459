package vsphere

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/poolready/poolready/pool"
)

// Place implements pool.Provider. It reads the inventory at most once.
func (p *Provider) Place(ctx context.Context, vms ...pool.VM) ([]pool.Placement, error) {
	var all []pool.Placement
	err := p.lookUp(ctx, func(t *tree) error {
		all = nil
		var errs []error
		for _, vm := range vms {
			at, err := t.locate(p.cfg, vm)
			if err != nil {
				errs = append(errs, fmt.Errorf("VM %q: %w", vm.Name, err))
				continue
			}
			to := pool.Placement{Datastores: []string{t.path(at.datastore.ref)}, ResourcePool: t.path(at.pool.ref)}
			for _, net := range at.networks {
				to.Networks = append(to.Networks, t.path(net.ref))
			}
			hosts, _ := t.reach(at)
			for _, h := range hosts {
				to.Hosts = append(to.Hosts, h.ref.Value)
			}
			all = append(all, to)
		}
		return errors.Join(errs...)
	})
	return all, p.errorf(err, "place VMs")
}

// placement is where a VM lies.
func (t *tree) placement(vm mo.VirtualMachine) pool.Placement {
	var at pool.Placement
	if vm.ResourcePool != nil {
		at.ResourcePool = t.named(*vm.ResourcePool)
	}
	if vm.Config == nil {
		return at
	}
	for _, dev := range vm.Config.Hardware.Device {
		switch d := dev.(type) {
		case *types.VirtualDisk:
			if ds := datastoreOf(d); ds != nil && !slices.Contains(at.Datastores, t.named(*ds)) {
				at.Datastores = append(at.Datastores, t.named(*ds))
			}
		case types.BaseVirtualEthernetCard:
			at.Networks = append(at.Networks, t.network(d.GetVirtualEthernetCard().Backing))
		}
	}
	slices.Sort(at.Datastores)
	return at
}

// named is the path of a place, or its reference if the reading does not have it.
func (t *tree) named(ref types.ManagedObjectReference) string {
	if _, ok := t.all[ref]; !ok {
		return refName(ref)
	}
	return t.path(ref)
}

// network is the path of the network that a NIC is on, or what its backing says.
func (t *tree) network(backing types.BaseVirtualDeviceBackingInfo) string {
	if ref := t.networkRef(backing); ref.Value != "" {
		return t.named(ref)
	}
	switch b := backing.(type) {
	case *types.VirtualEthernetCardNetworkBackingInfo:
		return b.DeviceName
	case *types.VirtualEthernetCardOpaqueNetworkBackingInfo:
		return b.OpaqueNetworkId
	}
	return fmt.Sprintf("%T", backing)
}

// networkRef is the network that a NIC is on; its Value is "" if that cannot be told.
func (t *tree) networkRef(backing types.BaseVirtualDeviceBackingInfo) (none types.ManagedObjectReference) {
	switch b := backing.(type) {
	case *types.VirtualEthernetCardNetworkBackingInfo:
		if b.Network != nil {
			return *b.Network
		}
	case *types.VirtualEthernetCardDistributedVirtualPortBackingInfo:
		return types.ManagedObjectReference{Type: "DistributedVirtualPortgroup", Value: b.Port.PortgroupKey}
	case *types.VirtualEthernetCardOpaqueNetworkBackingInfo:
		for ref, pl := range t.all {
			if sum, ok := pl.props["summary"].(types.OpaqueNetworkSummary); ok && sum.OpaqueNetworkId == b.OpaqueNetworkId {
				return ref
			}
		}
	}
	return none
}
