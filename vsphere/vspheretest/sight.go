package vspheretest

import (
	"slices"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// Which hosts see which datastore and port group changes by what is called on a host; vcsim knows
// one list for all of them.

// usedOn reports whether a VM of the host needs a datastore or network.
func (s *Server) usedOn(ctx *simulator.Context, h *simulator.HostSystem, ref types.ManagedObjectReference) (used bool) {
	for _, m := range s.vmsOn(h) {
		m.look(ctx, func(o *mo.VirtualMachine) {
			used = used || slices.Contains(o.Datastore, ref) ||
				slices.Contains(o.Network, ref) && o.Runtime.PowerState == poweredOn
		})
	}
	return used
}

// seenElsewhere reports whether another host of the datacenter has ref in its list.
func seenElsewhere(ctx *simulator.Context, h *simulator.HostSystem, list func(*simulator.HostSystem) []types.ManagedObjectReference, ref types.ManagedObjectReference) bool {
	for _, obj := range ctx.Map.All("HostSystem") {
		other, ok := obj.(*simulator.HostSystem)
		if !ok || other.Self == h.Self {
			continue
		}
		seen := false
		ctx.WithLock(other.Self, func() { seen = slices.Contains(list(other), ref) })
		if seen {
			return true
		}
	}
	return false
}

// RemoveDatastore takes a datastore from one host. The others keep it.
func (v *verbs) RemoveDatastore(ctx *simulator.Context, req *types.RemoveDatastore) soap.HasFault {
	fail := func(f types.BaseMethodFault) soap.HasFault { return &methods.RemoveDatastoreBody{Fault_: soapFault(f)} }
	dss, ok1 := ctx.Map.Get(req.This).(*simulator.HostDatastoreSystem)
	ds, ok2 := ctx.Map.Get(req.Datastore).(*simulator.Datastore)
	if !ok1 || !ok2 || dss.Host == nil {
		return fail(&types.ManagedObjectNotFound{Obj: req.Datastore})
	}
	h, ok := ctx.Map.Get(dss.Host.Self).(*simulator.HostSystem)
	if !ok {
		return fail(&types.ManagedObjectNotFound{Obj: dss.Host.Self})
	}
	has := false
	ctx.WithLock(h.Self, func() { has = slices.Contains(h.Datastore, ds.Self) })
	switch {
	case !has:
		return fail(&types.NotFound{})
	case v.s.usedOn(ctx, h, ds.Self):
		return fail(&types.ResourceInUse{Type: "Datastore", Name: v.s.nameOf(ds.Self)})
	case !seenElsewhere(ctx, h, func(h *simulator.HostSystem) []types.ManagedObjectReference { return h.Datastore }, ds.Self):
		return &methods.RemoveDatastoreBody{Fault_: refuse("RemoveDatastore from the last host that sees it; use Destroy_Task")}
	}
	ctx.WithLock(dss.Self, func() { dss.Datastore = without(dss.Datastore, ds.Self) })
	change(ctx, h, func() { h.Datastore = without(h.Datastore, ds.Self) })
	change(ctx, ds, func() {
		ds.Host = slices.DeleteFunc(slices.Clone(ds.Host), func(m types.DatastoreHostMount) bool { return m.Key == h.Self })
	})
	return &methods.RemoveDatastoreBody{Res: &types.RemoveDatastoreResponse{}}
}

// portGroupHost returns the host of a network system, and the network of that name in its
// datacenter, if there is one.
func (v *verbs) portGroupHost(ctx *simulator.Context, ref types.ManagedObjectReference, name string) (*simulator.HostNetworkSystem, *simulator.HostSystem, *mo.Network) {
	hns, ok := ctx.Map.Get(ref).(*simulator.HostNetworkSystem)
	if !ok || hns.Host == nil {
		return nil, nil, nil
	}
	h, ok := ctx.Map.Get(hns.Host.Self).(*simulator.HostSystem)
	if !ok {
		return nil, nil, nil
	}
	if net, ok := networkIn(ctx, datacenterOf(ctx, h.Self), name); ok {
		n, _ := ctx.Map.Get(net).(*mo.Network)
		return hns, h, n
	}
	return hns, h, nil
}

// AddPortGroup makes a port group on one host. Those of one name are one network of the datacenter.
func (v *verbs) AddPortGroup(ctx *simulator.Context, req *types.AddPortGroup) soap.HasFault {
	hns, h, n := v.portGroupHost(ctx, req.This, req.Portgrp.Name)
	if h == nil {
		return &methods.AddPortGroupBody{Fault_: soapFault(&types.ManagedObjectNotFound{Obj: req.This})}
	}
	has := false
	if n != nil {
		ctx.WithLock(h.Self, func() { has = slices.Contains(h.Network, n.Self) })
	}
	if has {
		return &methods.AddPortGroupBody{Fault_: soapFault(&types.AlreadyExists{Name: req.Portgrp.Name})}
	}
	if n == nil {
		var res soap.HasFault
		ctx.WithLock(hns.Self, func() { res = hns.AddPortGroup(ctx, req) })
		if res.Fault() != nil {
			return res
		}
		if _, _, n = v.portGroupHost(ctx, req.This, req.Portgrp.Name); n == nil {
			return res
		}
	}
	change(ctx, h, func() { h.Network = append(slices.Clip(h.Network), n.Self) })
	change(ctx, n, func() { n.Host = append(without(n.Host, h.Self), h.Self) })
	if c, ok := computeOf(ctx, h.Self); ok {
		ctx.WithLock(c.Self, func() { c.Network = append(without(c.Network, n.Self), n.Self) })
	}
	return &methods.AddPortGroupBody{Res: &types.AddPortGroupResponse{}}
}

// RemovePortGroup removes a port group from one host. The network goes with the last one.
func (v *verbs) RemovePortGroup(ctx *simulator.Context, req *types.RemovePortGroup) soap.HasFault {
	fail := func(f types.BaseMethodFault) soap.HasFault { return &methods.RemovePortGroupBody{Fault_: soapFault(f)} }
	hns, h, n := v.portGroupHost(ctx, req.This, req.PgName)
	switch {
	case h == nil:
		return fail(&types.ManagedObjectNotFound{Obj: req.This})
	case n == nil:
		return fail(&types.NotFound{})
	case v.s.usedOn(ctx, h, n.Self):
		return fail(&types.ResourceInUse{Type: "HostPortGroup", Name: req.PgName})
	}
	last := !seenElsewhere(ctx, h, func(h *simulator.HostSystem) []types.ManagedObjectReference { return h.Network }, n.Self)
	change(ctx, h, func() { h.Network = without(h.Network, n.Self) })
	change(ctx, n, func() { n.Host = without(n.Host, h.Self) })
	if !last {
		return &methods.RemovePortGroupBody{Res: &types.RemovePortGroupResponse{}}
	}
	if c, ok := computeOf(ctx, h.Self); ok {
		ctx.WithLock(c.Self, func() { c.Network = without(c.Network, n.Self) })
	}
	var res soap.HasFault
	ctx.WithLock(hns.Self, func() { res = hns.RemovePortGroup(ctx, req) })
	return res
}
