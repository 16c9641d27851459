package vspheretest

import (
	"slices"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

func (v *verbs) RenameTask(ctx *simulator.Context, req *types.Rename_Task) soap.HasFault {
	j := job{method: "Rename_Task", id: req.This.Type + ".rename", entity: req.This}
	if m := v.s.vm(req.This); m != nil {
		j.own = []*vm{m}
	}
	j.work = func(o *op) (types.AnyType, types.BaseMethodFault) { return nil, v.s.rename(o, req.This, req.NewName) }
	ref, fault := v.s.submit(ctx, j)
	if fault != nil {
		return &methods.Rename_TaskBody{Fault_: fault}
	}
	return &methods.Rename_TaskBody{Res: &types.Rename_TaskResponse{Returnval: ref}}
}

func (s *Server) rename(o *op, ref types.ManagedObjectReference, to string) types.BaseMethodFault {
	name, fault := checkName(to)
	if fault != nil {
		return fault
	}
	e, ok := o.ctx.Map.Get(ref).(mo.Entity)
	if !ok {
		return &types.ManagedObjectNotFound{Obj: ref}
	}
	var parent *types.ManagedObjectReference
	var old string
	o.ctx.WithLock(ref, func() { parent, old = e.Entity().Parent, e.Entity().Name })
	if old == name {
		return nil
	}
	if parent != nil {
		if f, ok := o.ctx.Map.Get(*parent).(*simulator.Folder); ok {
			release, fault := s.claim(o.ctx, f, name)
			if fault != nil {
				return fault
			}
			defer release()
		}
	}
	if f := o.take(s.lat.Other); f != nil {
		return f
	}
	m := s.vm(ref)
	if m == nil {
		change(o.ctx, e, func() { e.Entity().Name = name })
		return nil
	}
	version, modified := s.changeVersion()
	change(o.ctx, m.obj, func() {
		m.obj.Name = name
		cfg := deepCopy(m.obj.Config) // there is one, as the VM is the task's own
		cfg.ChangeVersion, cfg.Modified = version, modified
		s.setConfig(m, cfg)
	})
	s.post(o.ctx, &types.VmRenamedEvent{VmEvent: s.vmEvent(o.ctx, m), OldName: old, NewName: name})
	return nil
}

// CreateFolder makes a folder below a folder, at once.
func (v *verbs) CreateFolder(ctx *simulator.Context, req *types.CreateFolder) soap.HasFault {
	fail := func(f types.BaseMethodFault) soap.HasFault {
		return &methods.CreateFolderBody{Fault_: soapFault(f)}
	}
	parent, ok := ctx.Map.Get(req.This).(*simulator.Folder)
	if !ok {
		return fail(&types.ManagedObjectNotFound{Obj: req.This})
	}
	name, fault := checkName(req.Name)
	if fault != nil {
		return fail(fault)
	}
	release, fault := v.s.claim(ctx, parent, name)
	if fault != nil {
		return fail(fault)
	}
	defer release()
	return &methods.CreateFolderBody{Res: &types.CreateFolderResponse{Returnval: v.s.addFolder(ctx, parent, name)}}
}

// addFolder makes a folder whose name, as it is stored, is free.
func (s *Server) addFolder(ctx *simulator.Context, parent *simulator.Folder, name string) types.ManagedObjectReference {
	f := &simulator.Folder{}
	f.Self = types.ManagedObjectReference{Type: "Folder", Value: s.newValue("group-v")}
	f.Name, f.Parent, f.ChildType = name, &parent.Self, slices.Clone(parent.ChildType)
	ctx.Map.Put(f)
	change(ctx, parent, func() { parent.ChildEntity = append(slices.Clip(parent.ChildEntity), f.Self) })
	return f.Self
}

// MoveIntoFolderTask moves VMs and folders; a name that is taken there stops it.
func (v *verbs) MoveIntoFolderTask(ctx *simulator.Context, req *types.MoveIntoFolder_Task) soap.HasFault {
	ref, fault := v.s.submit(ctx, job{
		method: "MoveIntoFolder_Task", id: "Folder.moveInto", entity: req.This,
		work: func(o *op) (types.AnyType, types.BaseMethodFault) {
			if f := o.take(v.s.lat.Other); f != nil {
				return nil, f
			}
			for _, ref := range req.List {
				if f := v.s.move(o.ctx, ref, req.This); f != nil {
					return nil, f
				}
			}
			return nil, nil
		},
	})
	if fault != nil {
		return &methods.MoveIntoFolder_TaskBody{Fault_: fault}
	}
	return &methods.MoveIntoFolder_TaskBody{Res: &types.MoveIntoFolder_TaskResponse{Returnval: ref}}
}

func (s *Server) move(ctx *simulator.Context, ref, into types.ManagedObjectReference) types.BaseMethodFault {
	to, ok := ctx.Map.Get(into).(*simulator.Folder)
	if !ok {
		return &types.ManagedObjectNotFound{Obj: into}
	}
	var allowed []string
	ctx.WithLock(into, func() { allowed = to.ChildType })
	if !slices.Contains(allowed, ref.Type) && !slices.ContainsFunc(allowed, func(k string) bool { return derives(ref.Type, k) }) {
		return &types.NotSupported{}
	}
	if ref == into || slices.Contains(ancestors(ctx, into), ref) {
		return &types.InvalidFolder{Target: into} // it would lie in itself
	}
	e, ok := ctx.Map.Get(ref).(mo.Entity)
	if !ok {
		return &types.ManagedObjectNotFound{Obj: ref}
	}
	var from *types.ManagedObjectReference
	ctx.WithLock(ref, func() { from = e.Entity().Parent })
	release, fault := s.claim(ctx, to, s.nameOf(ref))
	if fault != nil {
		return fault
	}
	defer release()
	if from == nil {
		return &types.NotSupported{} // the root
	}
	f, ok := ctx.Map.Get(*from).(*simulator.Folder)
	if !ok {
		return &types.NotSupported{} // a datacenter's own folder, a host of a cluster
	}
	change(ctx, f, func() { f.ChildEntity = without(f.ChildEntity, ref) })
	change(ctx, e, func() {
		e.Entity().Parent = &to.Self
		if m := s.vm(ref); m != nil {
			s.index.set(m, &m.obj.VirtualMachine)
		}
	})
	change(ctx, to, func() { to.ChildEntity = append(slices.Clip(to.ChildEntity), ref) })
	return nil
}
