package vspheretest

import (
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

func (v *verbs) DestroyTask(ctx *simulator.Context, req *types.Destroy_Task) soap.HasFault {
	j := job{method: "Destroy_Task", id: req.This.Type + ".destroy", entity: req.This}
	if m := v.s.vm(req.This); m != nil {
		j.own = []*vm{m}
		j.work = func(o *op) (types.AnyType, types.BaseMethodFault) { return nil, v.s.destroy(o, m) }
	} else {
		j.work = func(o *op) (types.AnyType, types.BaseMethodFault) { return nil, v.s.destroyFolder(o, req.This) }
	}
	ref, fault := v.s.submit(ctx, j)
	if fault != nil {
		return &methods.Destroy_TaskBody{Fault_: fault}
	}
	return &methods.Destroy_TaskBody{Res: &types.Destroy_TaskResponse{Returnval: ref}}
}

// destroy removes a VM that the caller has to itself, with its files.
func (s *Server) destroy(o *op, m *vm) types.BaseMethodFault {
	if p := m.power(o.ctx); p != poweredOff {
		return &types.InvalidPowerState{RequestedState: poweredOff, ExistingState: p}
	}
	if users := s.usersOf(m, s.filesOf(o.ctx, m)); len(users) > 0 {
		return &types.ResourceInUse{Type: "VirtualDisk", Name: users[0]}
	}
	if f := o.take(s.lat.Destroy); f != nil {
		return f
	}
	s.remove(o.ctx, m)
	return nil
}

// filesOf lists the disk files that belong to m itself, those of its snapshots included.
func (s *Server) filesOf(ctx *simulator.Context, m *vm) map[string]bool {
	files := make(map[string]bool)
	configs := []*types.VirtualMachineConfigInfo{}
	if c := m.config(ctx); c != nil {
		configs = append(configs, c)
	}
	s.mu.Lock()
	var refs []types.ManagedObjectReference
	for ref := range m.snaps {
		refs = append(refs, ref)
	}
	s.mu.Unlock()
	for _, ref := range refs {
		if snap, ok := snapshotOf(ctx, &ref); ok {
			ctx.WithLock(ref, func() { configs = append(configs, deepCopy(&snap.Config)) })
		}
	}
	each(configs, func(b *types.VirtualDiskFlatVer2BackingInfo, _ bool) {
		if len(b.FileName) > len(m.home.dir) && b.FileName[:len(m.home.dir)+1] == m.home.dir+"/" {
			files[b.FileName] = true
		}
	})
	return files
}

// remove takes a powered-off VM out of the inventory.
func (s *Server) remove(ctx *simulator.Context, m *vm) {
	files := s.filesOf(ctx, m)
	s.unlist(ctx, m)
	s.dropFiles(ctx, m, files)
	s.leaveDir(m.home.dir)
}

// unlist takes a VM out of the inventory, and leaves its files.
func (s *Server) unlist(ctx *simulator.Context, m *vm) {
	event := s.vmEvent(ctx, m)
	var folder *types.ManagedObjectReference
	m.look(ctx, func(p *mo.VirtualMachine) { folder = p.Parent })
	s.rewire(ctx, m, true)
	s.index.drop(m)
	s.mu.Lock()
	m.gone = true
	delete(s.vms, m.ref)
	var snaps []types.ManagedObjectReference
	for ref := range m.snaps {
		snaps = append(snaps, ref)
	}
	s.mu.Unlock()
	s.removeFromLists(ctx, m)
	if f, ok := ctx.Map.Get(*folder).(*simulator.Folder); ok {
		change(ctx, f, func() { f.ChildEntity = without(f.ChildEntity, m.ref) })
	}
	for _, ref := range snaps {
		ctx.Map.Remove(ctx, ref)
	}
	s.post(ctx, &types.VmRemovedEvent{VmEvent: event})
	ctx.Map.Remove(ctx, m.ref)
}

// destroyFolder destroys all that is in a folder, and then the folder. It stops at the first
// thing that cannot be destroyed, as a VM that runs.
func (s *Server) destroyFolder(o *op, ref types.ManagedObjectReference) types.BaseMethodFault {
	f, ok := o.ctx.Map.Get(ref).(*simulator.Folder)
	if !ok {
		return &types.NotSupported{}
	}
	for _, child := range children(o.ctx, ref) {
		var fault types.BaseMethodFault
		if m := s.vm(child); m != nil {
			j := job{own: []*vm{m}}
			if fault, _ = s.occupy(o.task.Self, j); fault == nil {
				fault = s.destroy(o, m)
				s.vacate(o.task.Self, j)
			}
		} else {
			fault = s.destroyFolder(o, child)
		}
		if fault != nil {
			return fault
		}
	}
	var parent *types.ManagedObjectReference
	o.ctx.WithLock(ref, func() { parent = f.Parent })
	p, ok := o.ctx.Map.Get(*parent).(*simulator.Folder)
	if !ok {
		return &types.NotSupported{} // a datacenter's own folder
	}
	change(o.ctx, p, func() { p.ChildEntity = without(p.ChildEntity, ref) })
	o.ctx.Map.Remove(o.ctx, ref)
	return nil
}
