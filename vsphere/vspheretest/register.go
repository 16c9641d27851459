package vspheretest

import (
	"path"
	"strings"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// A parked is what the files of an unregistered VM hold.
type parked struct {
	config *types.VirtualMachineConfigInfo
	tree   *types.VirtualMachineSnapshotInfo
	snaps  map[types.ManagedObjectReference]*simulator.VirtualMachineSnapshot
	m      *vm
}

// UnregisterVM takes a VM from the inventory and leaves its files, at once.
func (v *verbs) UnregisterVM(ctx *simulator.Context, req *types.UnregisterVM) soap.HasFault {
	fail := func(f *soap.Fault) soap.HasFault { return &methods.UnregisterVMBody{Fault_: f} }
	m, fault := v.target(req.This)
	if fault != nil {
		return fail(fault)
	}
	s := v.s
	own := types.ManagedObjectReference{Type: "Task", Value: s.newValue("task")}
	j := job{own: []*vm{m}}
	if busy, _ := s.occupy(own, j); busy != nil {
		return fail(soapFault(busy))
	}
	defer s.vacate(own, j)
	if p := m.power(ctx); p == poweredOn {
		return fail(soapFault(&types.InvalidPowerState{RequestedState: poweredOff, ExistingState: p}))
	}
	p := parked{config: m.config(ctx), snaps: make(map[types.ManagedObjectReference]*simulator.VirtualMachineSnapshot), m: m}
	if p.config == nil {
		return fail(soapFault(&types.InvalidState{}))
	}
	m.look(ctx, func(o *mo.VirtualMachine) { p.tree = deepCopy(o.Snapshot) })
	for ref := range m.snaps {
		if snap, ok := snapshotOf(ctx, &ref); ok {
			p.snaps[ref] = snap
		}
	}
	file := p.config.Files.VmPathName
	s.unlist(ctx, m)
	s.mu.Lock()
	if s.parked == nil {
		s.parked = make(map[string]parked)
	}
	s.parked[file] = p
	s.mu.Unlock()
	return &methods.UnregisterVMBody{Res: &types.UnregisterVMResponse{}}
}

// RegisterVMTask makes a VM of the files of one that was unregistered, or else of a .vmx that
// somebody put there: that one has the name and nothing else.
func (v *verbs) RegisterVMTask(ctx *simulator.Context, req *types.RegisterVM_Task) soap.HasFault {
	spec := deepCopy(*req)
	ref, fault := v.s.submit(ctx, job{
		method: "RegisterVM_Task", id: "Folder.registerVm", entity: req.This,
		work: func(o *op) (types.AnyType, types.BaseMethodFault) { return v.s.register(o, &spec) },
	})
	if fault != nil {
		return &methods.RegisterVM_TaskBody{Fault_: fault}
	}
	return &methods.RegisterVM_TaskBody{Res: &types.RegisterVM_TaskResponse{Returnval: ref}}
}

func (s *Server) register(o *op, req *types.RegisterVM_Task) (types.AnyType, types.BaseMethodFault) {
	b := &builder{s: s, ctx: o.ctx}
	var fault types.BaseMethodFault
	if b.folder, fault = vmFolder(o.ctx, req.This); fault != nil {
		return nil, fault
	}
	var p object.DatastorePath
	if !p.FromString(req.Path) || path.Ext(p.Path) != ".vmx" {
		return nil, &types.InvalidDatastorePath{DatastorePath: req.Path}
	}
	dc := datacenterOf(o.ctx, req.This)
	if b.ds = datastoreIn(o.ctx, dc, p.Datastore); b.ds == nil {
		return nil, &types.InvalidDatastorePath{DatastorePath: req.Path}
	}
	switch {
	case req.AsTemplate && req.Pool != nil:
		return nil, &types.InvalidArgument{InvalidProperty: "pool"}
	case !req.AsTemplate && req.Pool == nil:
		return nil, &types.InvalidArgument{InvalidProperty: "pool"}
	case req.AsTemplate && req.Host == nil:
		return nil, &types.InvalidArgument{InvalidProperty: "host"}
	}
	if req.Pool != nil {
		if _, ok := asPool(o.ctx.Map.Get(*req.Pool)); !ok {
			return nil, &types.ManagedObjectNotFound{Obj: *req.Pool}
		}
		b.pool = *req.Pool
		b.host = s.nextHost(o.ctx, req.Pool)
	}
	if req.Host != nil {
		h, ok := o.ctx.Map.Get(*req.Host).(*simulator.HostSystem)
		if !ok {
			return nil, &types.ManagedObjectNotFound{Obj: *req.Host}
		}
		b.host = h
	}
	if b.host == nil {
		return nil, &types.InvalidArgument{InvalidProperty: "pool"}
	}
	for _, other := range s.allVMs() {
		file := ""
		other.look(o.ctx, func(p *mo.VirtualMachine) {
			if p.Config != nil {
				file = p.Config.Files.VmPathName
			}
		})
		if file == req.Path && datacenterOf(o.ctx, other.home.host.Self) == dc {
			return nil, &types.AlreadyExists{Name: other.ref.Value}
		}
	}
	s.mu.Lock()
	was, ok := s.parked[req.Path]
	s.mu.Unlock()
	if !s.hasFile(o.ctx, dc, req.Path) {
		return nil, &types.NotFound{}
	}
	b.dir = strings.TrimSuffix(req.Path, "/"+path.Base(req.Path))
	if b.name = req.Name; b.name == "" {
		b.name = strings.TrimSuffix(path.Base(p.Path), ".vmx")
		if ok {
			b.name = was.config.Name
		}
	}
	if b.name, fault = checkName(b.name); fault != nil {
		return nil, fault
	}
	release, fault := s.claim(o.ctx, b.folder, b.name)
	if fault != nil {
		return nil, fault
	}
	defer release()
	if f := o.take(s.lat.Other); f != nil {
		return nil, f
	}
	cfg := was.config
	if !ok {
		blank := b.blankIn(b.dir)
		blank.Files.VmPathName = req.Path
		cfg = &blank
	}
	cfg.Template = false
	m := b.put(*cfg)
	s.mu.Lock()
	delete(s.parked, req.Path)
	if ok {
		m.disk, m.snaps, m.reverts, m.asleep = was.m.disk, was.m.snaps, was.m.reverts, was.m.asleep
	}
	s.mu.Unlock()
	for _, snap := range was.snaps {
		snap.Vm = m.ref
		o.ctx.Map.Put(snap)
	}
	change(o.ctx, m.obj, func() { setSnapshots(m.obj, retree(was.tree, m.ref)) })
	if req.AsTemplate {
		s.markTemplate(o.ctx, m)
	}
	s.post(o.ctx, &types.VmRegisteredEvent{VmEvent: s.vmEvent(o.ctx, m)})
	return m.ref, nil
}

// retree makes the snapshots those of another VM.
func retree(info *types.VirtualMachineSnapshotInfo, ref types.ManagedObjectReference) *types.VirtualMachineSnapshotInfo {
	if info == nil {
		return nil
	}
	var walk func([]snapTree)
	walk = func(list []snapTree) {
		for i := range list {
			list[i].Vm = ref
			walk(list[i].ChildSnapshotList)
		}
	}
	walk(info.RootSnapshotList)
	return info
}
