package vspheretest

import (
	"slices"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// A containerView is a ContainerView whose members are looked up when they are read, each
// object under its lock. vcsim's own reads the inventory without locks while it changes.
type containerView struct {
	mo.ContainerView
	s    *Server
	want map[string]bool // nil means everything
}

// CreateContainerView implements the method of ViewManager.
func (v *verbs) CreateContainerView(ctx *simulator.Context, req *types.CreateContainerView) soap.HasFault {
	if ctx.Map.Get(req.Container) == nil {
		return &methods.CreateContainerViewBody{Fault_: soapFault(&types.ManagedObjectNotFound{Obj: req.Container})}
	}
	cv := &containerView{s: v.s}
	cv.Container, cv.Type, cv.Recursive = req.Container, req.Type, req.Recursive
	for _, kind := range req.Type {
		kinds, ok := subtypes[kind]
		if !ok {
			return &methods.CreateContainerViewBody{Fault_: soapFault(&types.InvalidArgument{InvalidProperty: "type"})}
		}
		if cv.want == nil {
			cv.want = make(map[string]bool)
		}
		for _, k := range kinds {
			cv.want[k] = true
		}
	}
	cv.Self = sessionRef(ctx, "ContainerView")
	ctx.Session.Put(cv)
	return &methods.CreateContainerViewBody{Res: &types.CreateContainerViewResponse{Returnval: cv.Self}}
}

// subtypes maps the types that a view can be made for to the ones in the inventory.
var subtypes = map[string][]string{
	"ManagedEntity": {
		"Folder", "Datacenter", "ComputeResource", "ClusterComputeResource", "HostSystem", "ResourcePool",
		"VirtualApp", "VirtualMachine", "Datastore", "StoragePod", "Network", "DistributedVirtualPortgroup",
		"DistributedVirtualSwitch", "VmwareDistributedVirtualSwitch", "OpaqueNetwork",
	},
	"Folder":                         {"Folder", "StoragePod"},
	"StoragePod":                     {"StoragePod"},
	"Datacenter":                     {"Datacenter"},
	"ComputeResource":                {"ComputeResource", "ClusterComputeResource"},
	"ClusterComputeResource":         {"ClusterComputeResource"},
	"HostSystem":                     {"HostSystem"},
	"ResourcePool":                   {"ResourcePool", "VirtualApp"},
	"VirtualApp":                     {"VirtualApp"},
	"VirtualMachine":                 {"VirtualMachine"},
	"Datastore":                      {"Datastore"},
	"Network":                        {"Network", "DistributedVirtualPortgroup", "OpaqueNetwork"},
	"OpaqueNetwork":                  {"OpaqueNetwork"},
	"DistributedVirtualPortgroup":    {"DistributedVirtualPortgroup"},
	"DistributedVirtualSwitch":       {"DistributedVirtualSwitch", "VmwareDistributedVirtualSwitch"},
	"VmwareDistributedVirtualSwitch": {"VmwareDistributedVirtualSwitch"},
}

// derives reports whether objects of one type are of another, too.
func derives(kind, of string) bool {
	return kind == of || slices.Contains(subtypes[of], kind) ||
		slices.Contains([]string{"ManagedObjectView", "View"}, of) && slices.Contains([]string{"ContainerView", "ListView"}, kind)
}

// DestroyView implements the API method of that name.
func (v *containerView) DestroyView(ctx *simulator.Context, _ *types.DestroyView) soap.HasFault {
	ctx.Session.Remove(ctx, v.Self)
	return &methods.DestroyViewBody{Res: &types.DestroyViewResponse{}}
}

// Get is what vcsim reads the view's properties from.
func (v *containerView) Get() mo.Reference {
	c := &mo.ContainerView{ManagedObjectView: v.ManagedObjectView, Container: v.Container, Type: v.Type, Recursive: v.Recursive}
	c.View = v.members(v.s.context(nil))
	return c
}

// members returns what the view shows now.
func (v *containerView) members(ctx *simulator.Context) []types.ManagedObjectReference {
	var refs []types.ManagedObjectReference
	seen := map[types.ManagedObjectReference]bool{v.Container: true}
	var walk func(types.ManagedObjectReference)
	walk = func(ref types.ManagedObjectReference) {
		for _, child := range children(ctx, ref) {
			if seen[child] {
				continue
			}
			seen[child] = true
			if v.want == nil || v.want[child.Type] {
				refs = append(refs, child)
			}
			if v.Recursive {
				walk(child)
			}
		}
	}
	walk(v.Container)
	return refs
}

// children returns what lies directly below ref in the inventory.
func children(ctx *simulator.Context, ref types.ManagedObjectReference) (refs []types.ManagedObjectReference) {
	obj := ctx.Map.Get(ref)
	if obj == nil {
		return nil
	}
	ctx.WithLock(ref, func() {
		switch e := obj.(type) {
		case *simulator.Datacenter:
			refs = append(refs, e.VmFolder, e.HostFolder, e.DatastoreFolder, e.NetworkFolder)
		case *simulator.Folder:
			refs = append(refs, e.ChildEntity...)
		case *simulator.StoragePod:
			refs = append(refs, e.ChildEntity...)
		case *mo.ComputeResource:
			refs = append(append(refs, e.Host...), *e.ResourcePool)
		case *simulator.ClusterComputeResource:
			refs = append(append(refs, e.Host...), *e.ResourcePool)
		case *simulator.ResourcePool:
			refs = append(append(refs, e.ResourcePool.ResourcePool...), e.Vm...)
		case *simulator.VirtualApp:
			refs = append(append(refs, e.ResourcePool.ResourcePool...), e.Vm...)
		}
	})
	return refs
}
