package vspheretest

import (
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// datacenterOf returns the datacenter that ref is or lies in, or nil.
func datacenterOf(ctx *simulator.Context, ref types.ManagedObjectReference) *simulator.Datacenter {
	for _, ref := range append([]types.ManagedObjectReference{ref}, ancestors(ctx, ref)...) {
		if dc, ok := ctx.Map.Get(ref).(*simulator.Datacenter); ok {
			return dc
		}
	}
	return nil
}

// datastoreIn returns the datastore of that name in a datacenter, or nil.
func datastoreIn(ctx *simulator.Context, dc *simulator.Datacenter, name string) *simulator.Datastore {
	if dc == nil {
		return nil
	}
	var refs []types.ManagedObjectReference
	ctx.WithLock(dc.Self, func() { refs = slices.Clone(dc.Datastore) })
	for _, ref := range refs {
		if ds, ok := ctx.Map.Get(ref).(*simulator.Datastore); ok {
			is := false
			ctx.WithLock(ref, func() { is = ds.Name == name })
			if is {
				return ds
			}
		}
	}
	return nil
}

// networkIn returns the network of a datacenter that a NIC's backing names: by the port group's own
// name, which the inventory has with its slashes escaped.
func networkIn(ctx *simulator.Context, dc *simulator.Datacenter, name string) (types.ManagedObjectReference, bool) {
	if dc == nil {
		return types.ManagedObjectReference{}, false
	}
	var refs []types.ManagedObjectReference
	ctx.WithLock(dc.Self, func() { refs = slices.Clone(dc.Network) })
	for _, ref := range refs {
		e, ok := ctx.Map.Get(ref).(mo.Entity)
		if !ok {
			continue
		}
		is := ""
		ctx.WithLock(ref, func() { is = entityName(e) })
		if is == name || is == escape(name) {
			return ref, true
		}
	}
	return types.ManagedObjectReference{}, false
}

// onNetwork lists the VMs that have a NIC on a network, templates among them. vcsim does not keep
// Network.vm up to date.
func (s *Server) onNetwork(ctx *simulator.Context, network types.ManagedObjectReference) []types.ManagedObjectReference {
	s.mu.Lock()
	all := slices.Collect(maps.Values(s.vms))
	s.mu.Unlock()
	var refs []types.ManagedObjectReference
	for _, v := range all {
		v.look(ctx, func(o *mo.VirtualMachine) {
			if slices.Contains(o.Network, network) {
				refs = append(refs, v.ref)
			}
		})
	}
	return refs
}

// asCompute returns the properties of a host by itself or of a cluster.
func asCompute(obj mo.Reference) (*mo.ComputeResource, bool) {
	switch c := obj.(type) {
	case *mo.ComputeResource:
		return c, true
	case *simulator.ClusterComputeResource:
		return &c.ComputeResource, true
	}
	return nil, false
}

// asPool returns the properties of a resource pool or vApp.
func asPool(obj mo.Reference) (*mo.ResourcePool, bool) {
	switch p := obj.(type) {
	case *simulator.ResourcePool:
		return &p.ResourcePool, true
	case *simulator.VirtualApp:
		return &p.ResourcePool, true
	}
	return nil, false
}

// computeOf returns the host by itself or the cluster that a host or resource pool lies in.
func computeOf(ctx *simulator.Context, ref types.ManagedObjectReference) (*mo.ComputeResource, bool) {
	for _, ref := range ancestors(ctx, ref) {
		if c, ok := asCompute(ctx.Map.Get(ref)); ok {
			return c, true
		}
	}
	return nil, false
}

// hostsOf lists the hosts of what a resource pool lies in.
func hostsOf(ctx *simulator.Context, pool types.ManagedObjectReference) (hosts []*simulator.HostSystem) {
	c, ok := computeOf(ctx, pool)
	if !ok {
		return nil
	}
	var refs []types.ManagedObjectReference
	ctx.WithLock(c.Self, func() { refs = slices.Clone(c.Host) })
	for _, ref := range refs {
		if h, ok := ctx.Map.Get(ref).(*simulator.HostSystem); ok {
			hosts = append(hosts, h)
		}
	}
	return hosts
}

// pathOf is the inventory path of ref: "/DC0/vm/con1".
func (s *Server) pathOf(ctx *simulator.Context, ref types.ManagedObjectReference) string {
	p := ""
	for _, r := range append([]types.ManagedObjectReference{ref}, ancestors(ctx, ref)...) {
		if r.Type == "Folder" && r == contentOf(ctx.Map).RootFolder {
			break
		}
		p = path.Join(s.nameOf(r), p)
	}
	return "/" + p
}

// atPath returns what has the inventory path, or nil.
func (s *Server) atPath(ctx *simulator.Context, p string) mo.Reference {
	at := contentOf(ctx.Map).RootFolder
	for name := range strings.SplitSeq(strings.Trim(p, "/"), "/") {
		all := children(ctx, at)
		i := slices.IndexFunc(all, func(r types.ManagedObjectReference) bool { return s.nameOf(r) == name })
		if i < 0 {
			return nil
		}
		at = all[i]
	}
	return ctx.Map.Get(at)
}
