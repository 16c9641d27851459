package vspheretest

import (
	"fmt"
	"path"
	"reflect"
	"slices"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// CreateVMTask makes a VM from nothing.
func (v *verbs) CreateVMTask(ctx *simulator.Context, req *types.CreateVM_Task) soap.HasFault {
	spec := deepCopy(*req)
	ref, fault := v.s.submit(ctx, job{
		method: "CreateVM_Task", id: "Folder.createVm", entity: req.This,
		work: func(o *op) (types.AnyType, types.BaseMethodFault) { return v.s.create(o, &spec) },
	})
	if fault != nil {
		return &methods.CreateVM_TaskBody{Fault_: fault}
	}
	return &methods.CreateVM_TaskBody{Res: &types.CreateVM_TaskResponse{Returnval: ref}}
}

func (s *Server) create(o *op, req *types.CreateVM_Task) (types.AnyType, types.BaseMethodFault) {
	name, fault := checkName(req.Config.Name)
	if fault != nil {
		return nil, fault
	}
	b := &builder{s: s, ctx: o.ctx, name: name, pool: req.Pool}
	if b.folder, fault = vmFolder(o.ctx, req.This); fault != nil {
		return nil, fault
	}
	if req.Config.Files == nil {
		return nil, &types.InvalidVmConfig{Property: "configSpec.files.vmPathName"}
	}
	var p object.DatastorePath
	if !p.FromString(req.Config.Files.VmPathName) {
		return nil, &types.InvalidDatastorePath{DatastorePath: req.Config.Files.VmPathName}
	}
	if b.ds = datastoreIn(o.ctx, datacenterOf(o.ctx, req.This), p.Datastore); b.ds == nil {
		return nil, &types.InvalidDatastorePath{DatastorePath: req.Config.Files.VmPathName}
	}
	if f := spread(o.ctx, b.ds, p.Path); f != nil {
		return nil, f
	}
	if _, ok := asPool(o.ctx.Map.Get(req.Pool)); !ok {
		return nil, &types.ManagedObjectNotFound{Obj: req.Pool}
	}
	b.host = s.nextHost(o.ctx, &req.Pool)
	if req.Host != nil {
		ok := false
		if b.host, ok = o.ctx.Map.Get(*req.Host).(*simulator.HostSystem); !ok {
			return nil, &types.ManagedObjectNotFound{Obj: *req.Host}
		}
	}
	release, fault := s.claim(o.ctx, b.folder, b.name)
	if fault != nil {
		return nil, fault
	}
	defer release()
	cfg, fault := b.blankAt(p, req.Config.Files)
	if fault != nil {
		return nil, fault
	}
	if f := b.apply(&cfg, &req.Config); f != nil {
		s.leaveDir(b.dir)
		return nil, f
	}
	if b.host, fault = chooseHost(o.ctx, req.Pool, req.Host, b.host, "host", b.ds, &cfg); fault != nil {
		s.leaveDir(b.dir)
		return nil, fault
	}
	m := b.reserve(&o.task.Self)
	defer s.vacate(o.task.Self, job{own: []*vm{m}})
	if f := o.take(s.lat.Create); f != nil {
		s.discard(o.ctx, m, b)
		return nil, f
	}
	b.complete(m, cfg)
	e := s.vmEvent(o.ctx, m)
	s.post(o.ctx, &types.VmBeingCreatedEvent{VmEvent: e, ConfigSpec: deepCopy(&req.Config)}, &types.VmCreatedEvent{VmEvent: e})
	s.warnMACs(o.ctx, m)
	return m.ref, nil
}

// spread refuses to put a file on a vSAN datastore of fewer hosts than its default policy asks for.
func spread(ctx *simulator.Context, ds *simulator.Datastore, file string) types.BaseMethodFault {
	hosts, vsan := 0, false
	ctx.WithLock(ds.Self, func() {
		hosts, vsan = len(ds.Host), ds.Summary.Type == string(types.HostFileSystemVolumeFileSystemTypeVsan)
	})
	if !vsan || hosts >= 3 {
		return nil
	}
	f := &types.CannotCreateFile{FileFault: types.FileFault{File: file}}
	f.FaultMessage = []types.LocalizableMessage{
		{Key: "vob.vsanprovider.object.creation.failed", Message: "Failed to create object."},
		{
			Key: "vob.vsan.clomd.needMoreFaultDomains2",
			Message: fmt.Sprintf("There are currently %d usable fault domains. The operation requires %d more usable fault domains.",
				hosts, 3-hosts),
		},
	}
	return f
}

// blankAt is blank in the directory, and with the .vmx, that a request names, if it does.
func (b *builder) blankAt(p object.DatastorePath, files *types.VirtualMachineFileInfo) (types.VirtualMachineConfigInfo, types.BaseMethodFault) {
	switch {
	case p.Path == "":
		return b.blank(), nil
	case path.Ext(p.Path) != ".vmx":
		return b.blankIn(b.s.takeDir(b.ds.Name, path.Clean(p.Path))), nil
	}
	dc := datacenterOf(b.ctx, b.folder.Self)
	if b.s.hasFile(b.ctx, dc, p.String()) {
		return types.VirtualMachineConfigInfo{}, &types.FileAlreadyExists{FileFault: types.FileFault{File: p.String()}}
	}
	dir := object.DatastorePath{Datastore: p.Datastore, Path: path.Dir(p.Path)}
	cfg := b.blankIn(dir.String())
	cfg.Files.VmPathName = files.VmPathName
	return cfg, nil
}

// ReconfigVMTask changes a VM's configuration: all of it or, with a fault, nothing.
func (v *verbs) ReconfigVMTask(ctx *simulator.Context, req *types.ReconfigVM_Task) soap.HasFault {
	m, fault := v.target(req.This)
	if fault != nil {
		return &methods.ReconfigVM_TaskBody{Fault_: fault}
	}
	spec := deepCopy(req.Spec)
	ref, fault := v.s.submit(ctx, job{
		method: "ReconfigVM_Task", id: "VirtualMachine.reconfigure", entity: m.ref, own: []*vm{m},
		work: func(o *op) (types.AnyType, types.BaseMethodFault) { return nil, v.s.reconfigure(o, m, &spec) },
	})
	if fault != nil {
		return &methods.ReconfigVM_TaskBody{Fault_: fault}
	}
	return &methods.ReconfigVM_TaskBody{Res: &types.ReconfigVM_TaskResponse{Returnval: ref}}
}

func (s *Server) reconfigure(o *op, m *vm, spec *types.VirtualMachineConfigSpec) types.BaseMethodFault {
	if f := o.take(s.lat.Reconfigure); f != nil {
		return f
	}
	var cfg *types.VirtualMachineConfigInfo
	var folder *types.ManagedObjectReference
	var name string
	var asleep types.BaseMethodFault
	r := &rig{s: s, ctx: o.ctx, dc: datacenterOf(o.ctx, m.home.host.Self), dir: m.home.dir}
	m.look(o.ctx, func(p *mo.VirtualMachine) {
		cfg, folder, name = deepCopy(p.Config), p.Parent, p.Name
		r.on, r.frozen = p.Runtime.PowerState == poweredOn, p.Snapshot != nil
		asleep = awake(p, spec)
	})
	// The VM is the task's own, so nothing changes between this look and the change below.
	if spec.ChangeVersion != "" && spec.ChangeVersion != cfg.ChangeVersion {
		return &types.ConcurrentAccess{}
	}
	if asleep != nil {
		return asleep
	}
	if cfg.Template {
		keep := &types.VirtualMachineConfigSpec{Name: spec.Name, Annotation: spec.Annotation, ChangeVersion: spec.ChangeVersion}
		if !reflect.DeepEqual(keep, spec) {
			return &types.NotSupported{} // a template takes a name and an annotation
		}
	}
	if spec.Name != "" && spec.Name != name {
		fresh, fault := checkName(spec.Name)
		if fault != nil {
			return fault
		}
		f, ok := o.ctx.Map.Get(*folder).(*simulator.Folder)
		if !ok {
			return &types.NotSupported{}
		}
		release, fault := s.claim(o.ctx, f, fresh)
		if fault != nil {
			return fault
		}
		defer release()
		name = fresh
	}
	r.config = cfg
	if f := r.apply(spec); f != nil {
		return f
	}
	s.index.identify(m, cfg)
	cfg.ChangeVersion, cfg.Modified = s.changeVersion()
	change(o.ctx, m.obj, func() {
		m.obj.Name = name
		s.setConfig(m, cfg)
	})
	s.post(o.ctx, &types.VmReconfiguredEvent{VmEvent: s.vmEvent(o.ctx, m), ConfigSpec: deepCopy(*spec)})
	if len(spec.DeviceChange) > 0 {
		s.layFiles(o.ctx, m)
		s.rewire(o.ctx, m, false)
		s.replug(o.ctx, m)
		s.warnMACs(o.ctx, m)
	}
	return nil
}

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
		if m.obj.Config != nil {
			cfg := deepCopy(m.obj.Config)
			cfg.ChangeVersion, cfg.Modified = version, modified
			s.setConfig(m, cfg)
		}
	})
	s.post(o.ctx, &types.VmRenamedEvent{VmEvent: s.vmEvent(o.ctx, m), OldName: old, NewName: name})
	return nil
}

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
	s.index.set(m, nil)
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
	change(ctx, e, func() { e.Entity().Parent = &to.Self })
	change(ctx, to, func() { to.ChildEntity = append(slices.Clip(to.ChildEntity), ref) })
	return nil
}

// MarkAsTemplate makes a powered-off VM a template, at once.
func (v *verbs) MarkAsTemplate(ctx *simulator.Context, req *types.MarkAsTemplate) soap.HasFault {
	m, fault := v.target(req.This)
	if fault != nil {
		return &methods.MarkAsTemplateBody{Fault_: fault}
	}
	if f := v.s.markable(ctx, m, false); f != nil {
		return &methods.MarkAsTemplateBody{Fault_: soapFault(f)}
	}
	v.s.markTemplate(ctx, m)
	return &methods.MarkAsTemplateBody{Res: &types.MarkAsTemplateResponse{}}
}

func (s *Server) markable(ctx *simulator.Context, m *vm, template bool) (f types.BaseMethodFault) {
	s.mu.Lock()
	owner := m.owner
	s.mu.Unlock()
	if owner != nil {
		return &types.TaskInProgress{Task: *owner}
	}
	m.look(ctx, func(o *mo.VirtualMachine) {
		switch {
		case o.Config == nil:
			f = &types.InvalidState{}
		case o.Config.Template != template:
			f = &types.NotSupported{}
		case o.Runtime.PowerState != poweredOff:
			f = &types.InvalidPowerState{RequestedState: poweredOff, ExistingState: o.Runtime.PowerState}
		}
	})
	return f
}

func (s *Server) markTemplate(ctx *simulator.Context, m *vm) {
	version, modified := s.changeVersion()
	var pool *types.ManagedObjectReference
	change(ctx, m.obj, func() {
		pool, m.obj.ResourcePool = m.obj.ResourcePool, nil
		cfg := deepCopy(m.obj.Config)
		cfg.Template, cfg.ChangeVersion, cfg.Modified = true, version, modified
		s.setConfig(m, cfg)
	})
	if pool != nil {
		s.leavePool(ctx, m, *pool)
	}
}

// MarkAsVirtualMachine makes a template a VM again, at once.
func (v *verbs) MarkAsVirtualMachine(ctx *simulator.Context, req *types.MarkAsVirtualMachine) soap.HasFault {
	m, fault := v.target(req.This)
	if fault != nil {
		return &methods.MarkAsVirtualMachineBody{Fault_: fault}
	}
	rp, ok := asPool(ctx.Map.Get(req.Pool))
	if !ok {
		return &methods.MarkAsVirtualMachineBody{Fault_: soapFault(&types.ManagedObjectNotFound{Obj: req.Pool})}
	}
	if f := v.s.markable(ctx, m, true); f != nil {
		return &methods.MarkAsVirtualMachineBody{Fault_: soapFault(f)}
	}
	version, modified := v.s.changeVersion()
	change(ctx, m.obj, func() {
		m.obj.ResourcePool = &rp.Self
		cfg := deepCopy(m.obj.Config)
		cfg.Template, cfg.ChangeVersion, cfg.Modified = false, version, modified
		v.s.setConfig(m, cfg)
	})
	change(ctx, rp, func() { rp.Vm = append(slices.Clip(rp.Vm), m.ref) })
	return &methods.MarkAsVirtualMachineBody{Res: &types.MarkAsVirtualMachineResponse{}}
}
