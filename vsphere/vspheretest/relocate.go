package vspheretest

import (
	"slices"
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// RelocateVMTask moves a VM to another host, resource pool, folder or datastore, running or not.
func (v *verbs) RelocateVMTask(ctx *simulator.Context, req *types.RelocateVM_Task) soap.HasFault {
	ref, fault := v.relocate(ctx, "RelocateVM_Task", "VirtualMachine.relocate", req.This, deepCopy(req.Spec), "")
	if fault != nil {
		return &methods.RelocateVM_TaskBody{Fault_: fault}
	}
	return &methods.RelocateVM_TaskBody{Res: &types.RelocateVM_TaskResponse{Returnval: ref}}
}

// MigrateVMTask moves a VM to another host or resource pool.
func (v *verbs) MigrateVMTask(ctx *simulator.Context, req *types.MigrateVM_Task) soap.HasFault {
	spec := types.VirtualMachineRelocateSpec{Host: req.Host, Pool: req.Pool}
	ref, fault := v.relocate(ctx, "MigrateVM_Task", "VirtualMachine.migrate", req.This, spec, req.State)
	if fault != nil {
		return &methods.MigrateVM_TaskBody{Fault_: fault}
	}
	return &methods.MigrateVM_TaskBody{Res: &types.MigrateVM_TaskResponse{Returnval: ref}}
}

func (v *verbs) relocate(ctx *simulator.Context, method, id string, this types.ManagedObjectReference, spec types.VirtualMachineRelocateSpec, state types.VirtualMachinePowerState) (types.ManagedObjectReference, *soap.Fault) {
	m, fault := v.target(this)
	if fault != nil {
		return this, fault
	}
	return v.s.submit(ctx, job{
		method: method, id: id, entity: m.ref, own: []*vm{m},
		work: func(o *op) (types.AnyType, types.BaseMethodFault) {
			if p := m.power(o.ctx); state != "" && p != state {
				return nil, &types.InvalidPowerState{RequestedState: state, ExistingState: p}
			}
			return nil, v.s.relocate(o, m, &spec)
		},
	})
}

// A destination is where a VM is to go; what does not change is as it was.
type destination struct {
	host   *simulator.HostSystem
	ds     *simulator.Datastore
	pool   *types.ManagedObjectReference
	folder *simulator.Folder // nil if it does not change
}

func (s *Server) destination(ctx *simulator.Context, m *vm, spec *types.VirtualMachineRelocateSpec) (to destination, fault types.BaseMethodFault) {
	to = destination{host: m.home.host, ds: m.home.ds}
	template := false
	m.look(ctx, func(o *mo.VirtualMachine) { to.pool, template = o.ResourcePool, o.Config.Template })
	if ref := spec.Host; ref != nil {
		h, ok := ctx.Map.Get(*ref).(*simulator.HostSystem)
		if !ok {
			return to, &types.ManagedObjectNotFound{Obj: *ref}
		}
		to.host = h
		if spec.Pool == nil && !template && !slices.Contains(hostsOf(ctx, *to.pool), h) {
			// The API asks for the pool then; its clients count on the root pool of the host.
			if c, ok := computeOf(ctx, h.Self); ok {
				to.pool = c.ResourcePool
			}
		}
	}
	if ref := spec.Pool; ref != nil {
		if _, ok := asPool(ctx.Map.Get(*ref)); !ok {
			return to, &types.ManagedObjectNotFound{Obj: *ref}
		}
		to.pool = ref
		if hosts := hostsOf(ctx, *ref); !slices.Contains(hosts, to.host) {
			if spec.Host != nil || len(hosts) == 0 {
				return to, &types.InvalidArgument{InvalidProperty: "spec.pool"}
			}
			to.host = s.nextHost(ctx, ref)
		}
	}
	if ref := spec.Datastore; ref != nil {
		ds, ok := ctx.Map.Get(*ref).(*simulator.Datastore)
		if !ok {
			return to, &types.ManagedObjectNotFound{Obj: *ref}
		}
		to.ds = ds
	}
	if ref := spec.Folder; ref != nil {
		if to.folder, fault = vmFolder(ctx, *ref); fault != nil {
			return to, fault
		}
	}
	if f := offline(ctx, to.host); f != nil {
		return to, f
	}
	var mounted []types.ManagedObjectReference
	ctx.WithLock(to.host.Self, func() { mounted = slices.Clone(to.host.Datastore) })
	if !slices.Contains(mounted, to.ds.Self) {
		return to, &types.CannotAccessFile{FileFault: types.FileFault{File: m.home.dir}}
	}
	return to, nil
}

func (s *Server) relocate(o *op, m *vm, spec *types.VirtualMachineRelocateSpec) types.BaseMethodFault {
	to, fault := s.destination(o.ctx, m, spec)
	if fault != nil {
		return fault
	}
	d := s.lat.Other
	if to.ds != m.home.ds {
		d = s.lat.FullClone // all of it is copied
	}
	if f := o.take(d); f != nil {
		return f
	}
	cfg := m.config(o.ctx)
	r := &rig{s: s, ctx: o.ctx, dc: datacenterOf(o.ctx, to.host.Self), config: cfg, dir: m.home.dir}
	m.look(o.ctx, func(p *mo.VirtualMachine) { r.on, r.frozen = p.Runtime.PowerState == poweredOn, p.Snapshot != nil })
	if f := r.changeDevices(spec.DeviceChange); f != nil {
		return f
	}
	if to.host != m.home.host {
		at := deepCopy(cfg)
		if to.ds != m.home.ds { // its disks go there
			each([]*types.VirtualMachineConfigInfo{at}, func(b *types.VirtualDiskFlatVer2BackingInfo, _ bool) { b.Datastore = nil })
		}
		if f := fits(o.ctx, to.host, to.ds, at); f != nil {
			return f
		}
	}
	if to.folder != nil {
		if f := s.move(o.ctx, m.ref, to.folder.Self); f != nil {
			return f
		}
	}
	from, event := m.home, s.vmEvent(o.ctx, m)
	s.removeFromLists(o.ctx, m)
	if to.ds != from.ds {
		m.home.dir = s.takeDir(to.ds.Name, strings.TrimSpace(from.dir[strings.Index(from.dir, "]")+1:]))
		s.moveFiles(o.ctx, m, cfg, from.dir, to.ds)
	}
	s.mu.Lock()
	m.home.host, m.home.ds = to.host, to.ds
	s.mu.Unlock()
	cfg.ChangeVersion, cfg.Modified = s.changeVersion()
	change(o.ctx, m.obj, func() {
		m.obj.ResourcePool = to.pool
		m.obj.Runtime.Host = &to.host.Self
		m.obj.Datastore = []types.ManagedObjectReference{to.ds.Self}
		s.setConfig(m, cfg)
	})
	s.addToLists(o.ctx, m)
	if to.ds != from.ds {
		s.leaveDir(from.dir)
		s.layFiles(o.ctx, m)
	}
	e := s.vmEvent(o.ctx, m)
	source := types.DatacenterEventArgument{}
	if event.Datacenter != nil {
		source = *event.Datacenter
	}
	if to.host != from.host {
		s.post(o.ctx, &types.VmMigratedEvent{VmEvent: e, SourceHost: *event.Host, SourceDatacenter: &source, SourceDatastore: event.Ds})
	}
	if to.ds != from.ds || to.host == from.host {
		s.post(o.ctx, &types.VmRelocatedEvent{
			VmRelocateSpecEvent: types.VmRelocateSpecEvent{VmEvent: e}, SourceHost: *event.Host, SourceDatacenter: &source, SourceDatastore: event.Ds,
		})
	}
	if len(spec.DeviceChange) > 0 {
		s.rewire(o.ctx, m, false)
		s.replug(o.ctx, m)
	}
	return nil
}

// rehost makes a VM one of another host that sees its files. The caller has the VM to itself.
func (s *Server) rehost(ctx *simulator.Context, m *vm, to *simulator.HostSystem) {
	event := s.vmEvent(ctx, m)
	s.removeFromLists(ctx, m)
	s.mu.Lock()
	m.home.host = to
	s.mu.Unlock()
	change(ctx, m.obj, func() {
		m.obj.Runtime.Host = &to.Self
		m.obj.Summary.Runtime.Host = &to.Self
	})
	s.addToLists(ctx, m)
	s.post(ctx, &types.VmMigratedEvent{
		VmEvent: s.vmEvent(ctx, m), SourceHost: *event.Host, SourceDatacenter: event.Datacenter, SourceDatastore: event.Ds,
	})
}

// addToLists adds the VM to the lists of its host, datastore and pool; removeFromLists takes it
// from them.
func (s *Server) addToLists(ctx *simulator.Context, m *vm) {
	h, ds := m.home.host, m.home.ds
	change(ctx, h, func() { h.Vm = append(slices.Clip(h.Vm), m.ref) })
	change(ctx, ds, func() { ds.Vm = append(slices.Clip(ds.Vm), m.ref) })
	var pool *types.ManagedObjectReference
	m.look(ctx, func(o *mo.VirtualMachine) { pool = o.ResourcePool })
	if pool == nil {
		return
	}
	if rp, ok := asPool(ctx.Map.Get(*pool)); ok {
		change(ctx, rp, func() { rp.Vm = append(slices.Clip(rp.Vm), m.ref) })
	}
}

func (s *Server) removeFromLists(ctx *simulator.Context, m *vm) {
	h, ds := m.home.host, m.home.ds
	change(ctx, h, func() { h.Vm = without(h.Vm, m.ref) })
	change(ctx, ds, func() { ds.Vm = without(ds.Vm, m.ref) })
	var pool *types.ManagedObjectReference
	m.look(ctx, func(o *mo.VirtualMachine) { pool = o.ResourcePool })
	if pool != nil {
		s.leavePool(ctx, m, *pool)
	}
}

// moveFiles makes the VM's files, and those of others that its disks depend on, files of its new
// home.
func (s *Server) moveFiles(ctx *simulator.Context, m *vm, cfg *types.VirtualMachineConfigInfo, from string, ds *simulator.Datastore) {
	moved := func(file string) string {
		return m.home.dir + file[strings.LastIndex(file, "/"):]
	}
	all := func(c *types.VirtualMachineConfigInfo) {
		for _, f := range []*string{&c.Files.VmPathName, &c.Files.SnapshotDirectory, &c.Files.SuspendDirectory, &c.Files.LogDirectory} {
			if strings.HasPrefix(*f, from+"/") || *f == from {
				*f = m.home.dir + strings.TrimPrefix(*f, from)
			}
		}
		each([]*types.VirtualMachineConfigInfo{c}, func(b *types.VirtualDiskFlatVer2BackingInfo, _ bool) {
			b.FileName, b.Datastore = moved(b.FileName), &ds.Self
		})
	}
	all(cfg)
	s.mu.Lock()
	var snaps []types.ManagedObjectReference
	for ref := range m.snaps {
		snaps = append(snaps, ref)
	}
	s.mu.Unlock()
	for _, ref := range snaps {
		if snap, ok := snapshotOf(ctx, &ref); ok {
			change(ctx, snap, func() {
				c := deepCopy(&snap.Config)
				all(c)
				snap.Config = *c
			})
		}
	}
}

// PromoteDisksTask makes disks independent of the ones that they depend on.
func (v *verbs) PromoteDisksTask(ctx *simulator.Context, req *types.PromoteDisks_Task) soap.HasFault {
	m, fault := v.target(req.This)
	if fault != nil {
		return &methods.PromoteDisks_TaskBody{Fault_: fault}
	}
	ref, fault := v.s.submit(ctx, job{
		method: "PromoteDisks_Task", id: "VirtualMachine.promoteDisks", entity: m.ref, own: []*vm{m},
		work: func(o *op) (types.AnyType, types.BaseMethodFault) { return nil, v.s.promote(o, m, req) },
	})
	if fault != nil {
		return &methods.PromoteDisks_TaskBody{Fault_: fault}
	}
	return &methods.PromoteDisks_TaskBody{Res: &types.PromoteDisks_TaskResponse{Returnval: ref}}
}

func (s *Server) promote(o *op, m *vm, req *types.PromoteDisks_Task) types.BaseMethodFault {
	cfg := m.config(o.ctx)
	var frozen bool
	m.look(o.ctx, func(p *mo.VirtualMachine) { frozen = p.Snapshot != nil })
	chosen := make(map[int32]bool)
	for _, d := range req.Disks {
		if !slices.ContainsFunc(disks(cfg), func(have *types.VirtualDisk) bool { return have.Key == d.Key }) {
			return &types.InvalidArgument{InvalidProperty: "disks"}
		}
		chosen[d.Key] = true
	}
	if frozen && req.Unlink {
		return &types.NotSupported{} // its snapshots depend on the disks as well
	}
	d := s.lat.Other
	for _, disk := range disks(cfg) {
		if (len(chosen) == 0 || chosen[disk.Key]) && hasParent(disk) {
			d = s.lat.FullClone
			if req.Unlink {
				backingOf(disk).Parent = nil
			}
		}
	}
	if f := o.take(d); f != nil {
		return f
	}
	cfg.ChangeVersion, cfg.Modified = s.changeVersion()
	change(o.ctx, m.obj, func() { s.setConfig(m, cfg) })
	return nil
}
