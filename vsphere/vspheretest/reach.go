package vspheretest

import (
	"fmt"
	"slices"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// offline is why nothing can be done with the VMs of a host, or nil: vCenter does not reach it.
func offline(ctx *simulator.Context, h *simulator.HostSystem) (f types.BaseMethodFault) {
	ctx.WithLock(h.Self, func() {
		if h.Runtime.ConnectionState != "" && h.Runtime.ConnectionState != types.HostSystemConnectionStateConnected {
			f = &types.HostNotConnected{}
		}
	})
	return f
}

// hostFault is why nothing can be placed on a host, or started there, or nil.
func hostFault(ctx *simulator.Context, h *simulator.HostSystem) (f types.BaseMethodFault) {
	if f := offline(ctx, h); f != nil {
		return f
	}
	ctx.WithLock(h.Self, func() {
		if h.Runtime.InMaintenanceMode {
			ref := h.Self
			f = &types.InvalidHostState{Host: &ref}
		}
	})
	return f
}

// fits is why a VM of that configuration on that datastore cannot run on a host, or nil.
func fits(ctx *simulator.Context, h *simulator.HostSystem, ds *simulator.Datastore, cfg *types.VirtualMachineConfigInfo) types.BaseMethodFault {
	if f := hostFault(ctx, h); f != nil {
		return f
	}
	var datastores, networks []types.ManagedObjectReference
	ctx.WithLock(h.Self, func() { datastores, networks = slices.Clone(h.Datastore), slices.Clone(h.Network) })
	needed := []types.ManagedObjectReference{ds.Self}
	each([]*types.VirtualMachineConfigInfo{cfg}, func(b *types.VirtualDiskFlatVer2BackingInfo, _ bool) {
		if b.Datastore != nil {
			needed = append(needed, *b.Datastore)
		}
	})
	for _, ref := range needed {
		if !slices.Contains(datastores, ref) {
			return &types.InaccessibleDatastore{InvalidDatastore: types.InvalidDatastore{Datastore: &ref, Name: serverOf(ctx).nameOf(ref)}}
		}
	}
	for _, d := range cfg.Hardware.Device {
		file, startConnected := isoOf(d)
		if file == "" || !startConnected {
			continue
		}
		var p object.DatastorePath
		iso := &simulator.Datastore{}
		if p.FromString(file) {
			if ds := datastoreIn(ctx, datacenterOf(ctx, h.Self), p.Datastore); ds != nil {
				iso = ds
			}
		}
		if !slices.Contains(datastores, iso.Self) {
			return &types.CannotAccessVmDevice{Device: labelOf(d.GetVirtualDevice()), Backing: file}
		}
	}
	for _, n := range nics(cfg) {
		if ref, ok := networkOf(n); ok && !slices.Contains(networks, ref) {
			return &types.CannotAccessNetwork{
				CannotAccessVmDevice: types.CannotAccessVmDevice{Device: labelOf(&n.VirtualDevice), Backing: serverOf(ctx).nameOf(ref)}, Network: &ref,
			}
		}
	}
	return nil
}

func labelOf(d *types.VirtualDevice) string {
	if d.DeviceInfo == nil {
		return fmt.Sprintf("device %d", d.Key)
	}
	return d.DeviceInfo.GetDescription().Label
}

// networkOf returns the network that a NIC is on.
func networkOf(n *types.VirtualEthernetCard) (ref types.ManagedObjectReference, ok bool) {
	switch b := n.Backing.(type) {
	case *types.VirtualEthernetCardNetworkBackingInfo:
		if b.Network != nil {
			return *b.Network, true
		}
	case *types.VirtualEthernetCardDistributedVirtualPortBackingInfo:
		return types.ManagedObjectReference{Type: "DistributedVirtualPortgroup", Value: b.Port.PortgroupKey}, true
	}
	return ref, false
}

// drs reports whether something chooses hosts for the VMs of a resource pool: the host by itself, or
// a cluster with DRS.
func drs(ctx *simulator.Context, pool types.ManagedObjectReference) (on bool) {
	on = true
	for _, ref := range ancestors(ctx, pool) {
		if c, ok := ctx.Map.Get(ref).(*simulator.ClusterComputeResource); ok {
			ctx.WithLock(ref, func() {
				if cfg, ok := c.ConfigurationEx.(*types.ClusterConfigInfoEx); ok {
					on = isTrue(cfg.DrsConfig.Enabled)
				}
			})
		}
	}
	return on
}

// chooseHost returns the host that a VM goes to: the one named, which must be one of the resource
// pool's, or with DRS any that fits, first the one that comes next. property is what the request
// names it by.
func chooseHost(
	ctx *simulator.Context, pool types.ManagedObjectReference, named *types.ManagedObjectReference, next *simulator.HostSystem,
	property string, ds *simulator.Datastore, cfg *types.VirtualMachineConfigInfo,
) (*simulator.HostSystem, types.BaseMethodFault) {
	all := hostsOf(ctx, pool)
	if named != nil {
		if !slices.Contains(all, next) {
			return nil, &types.InvalidArgument{InvalidProperty: property}
		}
		return next, fits(ctx, next, ds, cfg)
	}
	if !drs(ctx, pool) {
		return nil, &types.InvalidArgument{InvalidProperty: property}
	}
	none := &types.NoCompatibleHost{}
	i := max(slices.Index(all, next), 0)
	for _, h := range slices.Concat(all[i:], all[:i]) {
		f := fits(ctx, h, ds, cfg)
		if f == nil {
			return h, nil
		}
		none.Host = append(none.Host, h.Self)
		none.Error = append(none.Error, types.LocalizedMethodFault{Fault: f, LocalizedMessage: faultMessage(f)})
	}
	return nil, none
}

// startable returns the host on which a VM is to be powered on: its own or, with DRS, one that fits.
func (s *Server) startable(ctx *simulator.Context, m *vm) (*simulator.HostSystem, types.BaseMethodFault) {
	h, cfg := m.home.host, m.config(ctx)
	fault := fits(ctx, h, m.home.ds, cfg)
	var pool *types.ManagedObjectReference
	var state types.VirtualMachinePowerState
	m.look(ctx, func(o *mo.VirtualMachine) { pool, state = o.ResourcePool, o.Runtime.PowerState })
	if fault == nil || state != poweredOff || pool == nil || offline(ctx, h) != nil || !drs(ctx, *pool) {
		return h, fault
	}
	return chooseHost(ctx, *pool, nil, h, "host", m.home.ds, cfg)
}

// rewire makes the networks list the VM, or not, as its NICs are connected to them now.
func (s *Server) rewire(ctx *simulator.Context, m *vm, gone bool) {
	var now []types.ManagedObjectReference
	if !gone {
		m.look(ctx, func(o *mo.VirtualMachine) { now = slices.Clone(o.Network) })
	}
	s.mu.Lock()
	was := m.wired
	m.wired = now
	s.mu.Unlock()
	for _, ref := range was {
		if !slices.Contains(now, ref) {
			listOn(ctx, ref, func(vms []types.ManagedObjectReference) []types.ManagedObjectReference { return without(vms, m.ref) })
		}
	}
	for _, ref := range now {
		listOn(ctx, ref, func(vms []types.ManagedObjectReference) []types.ManagedObjectReference {
			if slices.Contains(vms, m.ref) {
				return vms
			}
			return append(slices.Clip(vms), m.ref)
		})
	}
}

// listOn changes which VMs a network lists.
func listOn(ctx *simulator.Context, ref types.ManagedObjectReference, f func([]types.ManagedObjectReference) []types.ManagedObjectReference) {
	switch n := ctx.Map.Get(ref).(type) {
	case *mo.Network:
		change(ctx, n, func() { n.Vm = f(n.Vm) })
	case *simulator.DistributedVirtualPortgroup:
		change(ctx, n, func() { n.Vm = f(n.Vm) })
	}
}
