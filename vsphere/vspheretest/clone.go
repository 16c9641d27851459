package vspheretest

import (
	"fmt"
	"slices"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

const (
	moveChild       = string(types.VirtualMachineRelocateDiskMoveOptionsCreateNewChildDiskBacking)
	moveConsolidate = string(types.VirtualMachineRelocateDiskMoveOptionsMoveAllDiskBackingsAndConsolidate)
)

// CloneVMTask makes a VM of another, or of a snapshot of it.
func (v *verbs) CloneVMTask(ctx *simulator.Context, req *types.CloneVM_Task) soap.HasFault {
	src, fault := v.target(req.This)
	if fault != nil {
		return &methods.CloneVM_TaskBody{Fault_: fault}
	}
	spec := deepCopy(*req)
	if loc := &spec.Spec.Location; loc.Host == nil && loc.Pool == nil {
		src.look(ctx, func(o *mo.VirtualMachine) {
			if o.ResourcePool != nil {
				loc.Host = &src.home.host.Self // "the current host is used"
			}
		})
	}
	host := v.s.nextHost(ctx, v.s.poolOf(ctx, src, &spec.Spec.Location))
	if ref := spec.Spec.Location.Host; ref != nil {
		if h, ok := ctx.Map.Get(*ref).(*simulator.HostSystem); ok {
			host = h
		}
	}
	cost := costFull
	if spec.Spec.Location.DiskMoveType == moveChild && spec.Spec.Snapshot != nil {
		cost = costLinked
	}
	ref, fault := v.s.submit(ctx, job{
		method: "CloneVM_Task", id: "VirtualMachine.clone", entity: src.ref, read: []*vm{src}, cancelable: true,
		host: host, cost: cost,
		work: func(o *op) (types.AnyType, types.BaseMethodFault) { return v.s.clone(o, src, host, &spec) },
	})
	if fault != nil {
		return &methods.CloneVM_TaskBody{Fault_: fault}
	}
	return &methods.CloneVM_TaskBody{Res: &types.CloneVM_TaskResponse{Returnval: ref}}
}

// clone does it: what it is made of and where it goes, its name, its configuration, its disks.
func (s *Server) clone(o *op, src *vm, host *simulator.HostSystem, req *types.CloneVM_Task) (types.AnyType, types.BaseMethodFault) {
	from, fault := s.source(o.ctx, src, &req.Spec)
	if fault != nil {
		return nil, fault
	}
	b, fault := s.place(o.ctx, src, host, req)
	if fault != nil {
		return nil, fault
	}
	linked := false
	for _, d := range disks(from.config) {
		linked = linked || moveType(&req.Spec, d.Key) == moveChild
	}
	if linked && b.ds != src.home.ds {
		// The API allows a child on another datastore; vCloud Director and BOSH do not rely on
		// it, and neither should anybody who can put golden where its clones go.
		return nil, &types.InvalidArgument{InvalidProperty: "spec.location.datastore"}
	}
	release, fault := s.claim(o.ctx, b.folder, b.name)
	if fault != nil {
		return nil, fault
	}
	defer release()
	b.dir = s.takeDir(b.ds.Name, b.name)
	cfg, fault := s.cloneConfig(b, from, &req.Spec)
	if fault != nil {
		s.leaveDir(b.dir)
		return nil, fault
	}

	if b.host, fault = chooseHost(o.ctx, b.pool, req.Spec.Location.Host, b.host, "spec.location.host", b.ds, cfg); fault != nil {
		s.leaveDir(b.dir)
		return nil, fault
	}
	s.post(o.ctx, &types.VmBeingClonedEvent{
		VmCloneEvent: types.VmCloneEvent{VmEvent: s.vmEvent(o.ctx, src)},
		DestFolder:   folderArgument(b.folder), DestName: b.name, DestHost: *hostArgument(b.host),
	})
	var disk Disk
	if from.disk != nil {
		disk = from.disk.Clone()
	}
	m := b.reserve(&o.task.Self) // from here on it can be seen, without a config
	defer s.vacate(o.task.Self, job{own: []*vm{m}})
	d := s.lat.FullClone
	if linked {
		d = s.lat.LinkedClone
	}
	if f := o.take(d); f != nil {
		s.discard(o.ctx, m, b)
		return nil, f
	}
	s.mu.Lock()
	m.disk = disk
	s.mu.Unlock()
	b.complete(m, *cfg)
	if c := req.Spec.Customization; c != nil {
		if f := s.customizeLater(o.ctx, m, c); f != nil {
			s.remove(o.ctx, m)
			return nil, f
		}
	}
	if req.Spec.Template {
		s.markTemplate(o.ctx, m)
	}
	s.post(o.ctx, &types.VmClonedEvent{
		VmCloneEvent: types.VmCloneEvent{VmEvent: s.vmEvent(o.ctx, m)},
		SourceVm:     *s.eventFor(o.ctx, src.ref).Vm,
	})
	s.warnMACs(o.ctx, m)
	if req.Spec.PowerOn && !req.Spec.Template {
		if f := s.switchOn(o, m); f != nil {
			return nil, f
		}
	}
	return m.ref, nil
}

// A source is what a clone is made of.
type source struct {
	config *types.VirtualMachineConfigInfo
	disk   Disk
}

// source returns what spec names: the snapshot as it was taken, or the VM as it is now.
func (s *Server) source(ctx *simulator.Context, src *vm, spec *types.VirtualMachineCloneSpec) (*source, types.BaseMethodFault) {
	from := &source{config: src.config(ctx)}
	if from.config == nil {
		return nil, &types.InvalidState{}
	}
	if p := src.power(ctx); p == suspended && spec.Snapshot == nil {
		return nil, &types.InvalidPowerState{RequestedState: poweredOff, ExistingState: p}
	}
	s.mu.Lock()
	from.disk = src.disk
	s.mu.Unlock()
	if ref := spec.Snapshot; ref != nil {
		snap, ok := ctx.Map.Get(*ref).(*simulator.VirtualMachineSnapshot)
		if !ok {
			return nil, &types.ManagedObjectNotFound{Obj: *ref}
		}
		if snap.Vm != src.ref {
			return nil, &types.InvalidArgument{InvalidProperty: "spec.snapshot"}
		}
		ctx.WithLock(*ref, func() { from.config = deepCopy(&snap.Config) })
		s.mu.Lock()
		from.disk = src.snaps[*ref].disk
		s.mu.Unlock()
	}
	for _, d := range disks(from.config) {
		if moveType(spec, d.Key) == moveChild && spec.Snapshot == nil {
			return nil, &types.InvalidArgument{InvalidProperty: "spec.location.diskMoveType"}
		}
	}
	return from, nil
}

// moveType is what is to be done with the disk. A locator for the disk overrides what spec says
// for all, even when it says nothing: then the disk is copied.
func moveType(spec *types.VirtualMachineCloneSpec, disk int32) string {
	for _, l := range spec.Location.Disk {
		if l.DiskId == disk {
			return l.DiskMoveType
		}
	}
	return spec.Location.DiskMoveType
}

// place finds where the clone is to go.
func (s *Server) place(ctx *simulator.Context, src *vm, host *simulator.HostSystem, req *types.CloneVM_Task) (*builder, types.BaseMethodFault) {
	name, fault := checkName(req.Name)
	if fault != nil {
		return nil, fault
	}
	loc := &req.Spec.Location
	b := &builder{s: s, ctx: ctx, name: name, host: host, ds: src.home.ds}
	ref := req.Folder
	if loc.Folder != nil {
		ref = *loc.Folder // "takes precedence over the folder parameter"
	}
	if b.folder, fault = vmFolder(ctx, ref); fault != nil {
		return nil, fault
	}
	if ref := loc.Datastore; ref != nil {
		ds, ok := ctx.Map.Get(*ref).(*simulator.Datastore)
		if !ok {
			return nil, &types.ManagedObjectNotFound{Obj: *ref}
		}
		b.ds = ds
	}
	if ref := loc.Host; ref != nil && *ref != host.Self {
		return nil, &types.ManagedObjectNotFound{Obj: *ref}
	}
	pool := s.poolOf(ctx, src, loc)
	if pool == nil { // a template is in none
		return nil, &types.InvalidArgument{InvalidProperty: "spec.location.pool"}
	}
	if _, ok := asPool(ctx.Map.Get(*pool)); !ok {
		return nil, &types.ManagedObjectNotFound{Obj: *pool}
	}
	if host == nil {
		return nil, &types.InvalidArgument{InvalidProperty: "spec.location.pool"} // it has no hosts
	}
	b.pool = *pool
	return b, nil
}

// vmFolder returns the folder that ref names, if VMs can be in it.
func vmFolder(ctx *simulator.Context, ref types.ManagedObjectReference) (*simulator.Folder, types.BaseMethodFault) {
	f, ok := ctx.Map.Get(ref).(*simulator.Folder)
	if !ok {
		return nil, &types.ManagedObjectNotFound{Obj: ref}
	}
	if !slices.Contains(f.ChildType, "VirtualMachine") {
		return nil, &types.NotSupported{}
	}
	return f, nil
}

// poolOf returns the resource pool that a VM made of src goes to, or nil if the call does not say it.
func (s *Server) poolOf(ctx *simulator.Context, src *vm, loc *types.VirtualMachineRelocateSpec) *types.ManagedObjectReference {
	pool := loc.Pool
	if pool == nil {
		src.look(ctx, func(o *mo.VirtualMachine) { pool = o.ResourcePool })
	}
	return pool
}

// nextHost spreads VMs over the hosts of a resource pool. It returns nil if there is none.
func (s *Server) nextHost(ctx *simulator.Context, pool *types.ManagedObjectReference) *simulator.HostSystem {
	if pool == nil {
		return nil
	}
	hosts := hostsOf(ctx, *pool)
	if len(hosts) == 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nhost++
	return hosts[s.nhost%len(hosts)]
}

// cloneConfig is the clone's configuration: the source's, with an identity of its own, changed
// as spec says.
func (s *Server) cloneConfig(b *builder, from *source, spec *types.VirtualMachineCloneSpec) (*types.VirtualMachineConfigInfo, types.BaseMethodFault) {
	cfg := deepCopy(from.config)
	cfg.Name, cfg.Template = b.name, false
	cfg.Uuid, cfg.InstanceUuid = newUUID(), newUUID()
	cfg.CreateDate = now()
	cfg.ManagedBy = nil
	cfg.Files = types.VirtualMachineFileInfo{
		VmPathName: b.vmx(), SnapshotDirectory: b.dir, SuspendDirectory: b.dir, LogDirectory: b.dir,
	}
	for _, n := range nics(cfg) {
		n.MacAddress, n.AddressType = s.newMAC(), string(types.VirtualEthernetCardMacTypeAssigned)
	}
	for _, d := range disks(cfg) {
		old := backingOf(d)
		if old == nil {
			continue
		}
		ds := b.ds.Self
		fresh := *old
		fresh.Uuid, fresh.Datastore = newUUID(), &ds
		switch moveType(spec, d.Key) {
		case moveChild:
			fresh.Parent = old
			fresh.FileName = b.dir + "/" + baseFile(b.name, d)
		case moveConsolidate:
			fresh.Parent = nil
			fresh.FileName = b.dir + "/" + baseFile(b.name, d)
		default: // the whole chain is copied
			b.copyChain(&fresh)
		}
		d.Backing = &fresh
	}
	var changes types.VirtualMachineConfigSpec
	if spec.Config != nil {
		changes = *spec.Config
	}
	changes.DeviceChange = append(slices.Clone(spec.Location.DeviceChange), changes.DeviceChange...)
	if f := b.apply(cfg, &changes); f != nil {
		return nil, f
	}
	return cfg, nil
}

// copyChain makes the backing, and what it depends on, files of the new VM.
func (b *builder) copyChain(f *types.VirtualDiskFlatVer2BackingInfo) {
	f.FileName = b.dir + "/" + baseName(f.FileName) + ".vmdk"
	if f.Parent != nil {
		p := *f.Parent
		b.copyChain(&p)
		f.Parent = &p
	}
}

// baseFile is the file name of a disk of a fresh VM.
func baseFile(vm string, d *types.VirtualDisk) string {
	if n := d.Key - 2000; n > 0 {
		return fmt.Sprintf("%s_%d.vmdk", vm, n%10)
	}
	return vm + ".vmdk"
}

// discard takes back a VM that was reserved, but did not come to be.
func (s *Server) discard(ctx *simulator.Context, m *vm, b *builder) {
	s.mu.Lock()
	m.gone = true
	delete(s.vms, m.ref)
	s.mu.Unlock()
	s.index.drop(m)
	change(ctx, b.folder, func() { b.folder.ChildEntity = without(b.folder.ChildEntity, m.ref) })
	ctx.Map.Remove(ctx, m.ref)
	s.leaveDir(b.dir)
}

func (s *Server) leaveDir(dir string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.dirs, dir)
}

// warnMACs tells of MACs that another VM has too. A real vCenter allows it, with an alarm.
func (s *Server) warnMACs(ctx *simulator.Context, m *vm) {
	var own []string
	m.look(ctx, func(o *mo.VirtualMachine) {
		for _, n := range nics(o.Config) {
			own = append(own, n.MacAddress)
		}
	})
	for _, mac := range own {
		for _, other := range s.index.with(macKey(mac)) {
			if e := s.eventFor(ctx, other.ref); other != m && e.Vm != nil {
				s.post(ctx, &types.VmMacConflictEvent{VmEvent: s.vmEvent(ctx, m), ConflictedVm: *e.Vm, Mac: mac})
			}
		}
	}
}

func folderArgument(f *simulator.Folder) types.FolderEventArgument {
	return types.FolderEventArgument{EntityEventArgument: types.EntityEventArgument{Name: f.Name}, Folder: f.Self}
}
