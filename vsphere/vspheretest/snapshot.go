package vspheretest

import (
	"slices"
	"strings"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

type snapTree = types.VirtualMachineSnapshotTree

// maxSnapshotDepth is how many snapshots may stand in one chain.
const maxSnapshotDepth = 32

func (v *verbs) CreateSnapshotTask(ctx *simulator.Context, req *types.CreateSnapshot_Task) soap.HasFault {
	ref, fault := v.createSnapshot(ctx, "CreateSnapshot_Task", "VirtualMachine.createSnapshot", &types.CreateSnapshotEx_Task{
		This: req.This, Name: req.Name, Description: req.Description, Memory: req.Memory,
	}, req.Quiesce)
	if fault != nil {
		return &methods.CreateSnapshot_TaskBody{Fault_: fault}
	}
	return &methods.CreateSnapshot_TaskBody{Res: &types.CreateSnapshot_TaskResponse{Returnval: ref}}
}

func (v *verbs) CreateSnapshotExTask(ctx *simulator.Context, req *types.CreateSnapshotEx_Task) soap.HasFault {
	ref, fault := v.createSnapshot(ctx, "CreateSnapshotEx_Task", "VirtualMachine.createSnapshotEx", req, req.QuiesceSpec != nil)
	if fault != nil {
		return &methods.CreateSnapshotEx_TaskBody{Fault_: fault}
	}
	return &methods.CreateSnapshotEx_TaskBody{Res: &types.CreateSnapshotEx_TaskResponse{Returnval: ref}}
}

func (v *verbs) createSnapshot(ctx *simulator.Context, method, id string, req *types.CreateSnapshotEx_Task, quiesce bool) (types.ManagedObjectReference, *soap.Fault) {
	m, fault := v.target(req.This)
	if fault != nil {
		return req.This, fault
	}
	return v.s.submit(ctx, job{
		method: method, id: id, entity: m.ref, own: []*vm{m},
		work: func(o *op) (types.AnyType, types.BaseMethodFault) { return v.s.snapshot(o, m, req, quiesce) },
	})
}

func (s *Server) snapshot(o *op, m *vm, req *types.CreateSnapshotEx_Task, quiesce bool) (types.AnyType, types.BaseMethodFault) {
	var fault types.BaseMethodFault
	var on bool
	m.look(o.ctx, func(p *mo.VirtualMachine) {
		on = p.Runtime.PowerState == poweredOn
		switch {
		case p.Config.Template:
			fault = &types.NotSupported{} // a template cannot have a new one
		case p.Snapshot != nil && depth(p.Snapshot.RootSnapshotList, p.Snapshot.CurrentSnapshot) >= maxSnapshotDepth:
			fault = &types.TooManySnapshotLevels{}
		case req.Name == "":
			fault = &types.InvalidName{}
		}
	})
	if fault != nil {
		return nil, fault
	}
	d := s.lat.Snapshot
	if req.Memory && on {
		if f := s.unfreezable(o.ctx, m); f != nil {
			return nil, f
		}
		d += perGiB(s.lat.Memory, m.config(o.ctx))
	}
	if f := o.take(d); f != nil {
		return nil, f
	}
	var now kept
	if req.Memory {
		if now, fault = s.freeze(o.ctx, m); fault != nil {
			return nil, fault
		}
		s.mu.Lock()
		if m.asleep != nil { // suspended: what it was suspended with
			now.memory = m.asleep
		}
		s.mu.Unlock()
	}

	snap := &simulator.VirtualMachineSnapshot{}
	snap.Self = types.ManagedObjectReference{Type: "VirtualMachineSnapshot", Value: s.newValue("snapshot")}
	snap.Vm = m.ref
	s.mu.Lock()
	disk := m.disk
	if now.disk != nil {
		disk = nil
	}
	s.nsnap++
	item := snapTree{
		Snapshot: snap.Self, Vm: m.ref, Name: escape(req.Name), Description: s.described(req.Description), Id: int32(s.nsnap),
		CreateTime: time.Now(), State: poweredOff, Quiesced: quiesce, ReplaySupported: types.NewBool(false),
	}
	s.mu.Unlock()
	if disk != nil {
		now.disk = disk.Clone()
	}
	version, modified := s.changeVersion()
	var parent *types.ManagedObjectReference
	change(o.ctx, m.obj, func() {
		p := m.obj
		if req.Memory {
			item.State = p.Runtime.PowerState
		}
		snap.Config = *deepCopy(p.Config)
		cfg := deepCopy(p.Config)
		cfg.ChangeVersion, cfg.Modified = version, modified
		s.branch(m, cfg)
		info := &types.VirtualMachineSnapshotInfo{CurrentSnapshot: &snap.Self}
		if p.Snapshot != nil {
			info.RootSnapshotList = deepCopy(p.Snapshot.RootSnapshotList)
			parent = p.Snapshot.CurrentSnapshot
		}
		if node := findNode(info.RootSnapshotList, parent); node != nil {
			node.ChildSnapshotList = append(node.ChildSnapshotList, item)
		} else {
			parent = nil
			info.RootSnapshotList = append(info.RootSnapshotList, item)
		}
		s.setConfig(m, cfg)
		setSnapshots(p, info)
	})
	if ps, ok := snapshotOf(o.ctx, parent); ok {
		change(o.ctx, ps, func() { ps.ChildSnapshot = append(slices.Clip(ps.ChildSnapshot), snap.Self) })
	}
	s.mu.Lock()
	m.snaps[snap.Self] = now
	s.mu.Unlock()
	o.ctx.Map.Put(snap)
	s.layFiles(o.ctx, m)
	return snap.Self, nil
}

// described returns a snapshot's description as it is stored.
func (s *Server) described(text string) string {
	if n := s.DescriptionLimit; n > 0 && len(text) > n {
		return strings.ToValidUTF8(text[:n], "")
	}
	return text
}

// branch puts the VM's disks on new deltas, whose parents are the files they were on.
func (s *Server) branch(m *vm, cfg *types.VirtualMachineConfigInfo) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range disks(cfg) {
		b := backingOf(d)
		if b == nil || b.DiskMode == string(types.VirtualDiskModeIndependent_persistent) || b.DiskMode == string(types.VirtualDiskModeIndependent_nonpersistent) {
			continue // independent disks are no part of snapshots
		}
		s.ndelta++
		child := *b
		child.Parent = b
		child.FileName = m.home.dir + "/" + deltaName(b.FileName, s.ndelta)
		d.Backing = &child
	}
}

// setSnapshots makes info the VM's snapshots; the caller holds the object's lock.
func setSnapshots(p *simulator.VirtualMachine, info *types.VirtualMachineSnapshotInfo) {
	p.RootSnapshot = nil
	if info == nil || len(info.RootSnapshotList) == 0 {
		p.Snapshot = nil
		return
	}
	p.Snapshot = info
	for _, n := range info.RootSnapshotList {
		p.RootSnapshot = append(p.RootSnapshot, n.Snapshot)
	}
}

func (v *verbs) RevertToSnapshotTask(ctx *simulator.Context, req *types.RevertToSnapshot_Task) soap.HasFault {
	snap, m, fault := v.snapshot(ctx, req.This)
	if fault != nil {
		return &methods.RevertToSnapshot_TaskBody{Fault_: fault}
	}
	ref, fault := v.s.submit(ctx, job{
		method: "RevertToSnapshot_Task", id: "vm.Snapshot.revert", entity: m.ref, own: []*vm{m},
		work: func(o *op) (types.AnyType, types.BaseMethodFault) {
			return nil, v.s.revert(o, m, snap, isTrue(req.SuppressPowerOn))
		},
	})
	if fault != nil {
		return &methods.RevertToSnapshot_TaskBody{Fault_: fault}
	}
	return &methods.RevertToSnapshot_TaskBody{Res: &types.RevertToSnapshot_TaskResponse{Returnval: ref}}
}

func (v *verbs) RevertToCurrentSnapshotTask(ctx *simulator.Context, req *types.RevertToCurrentSnapshot_Task) soap.HasFault {
	m, fault := v.target(req.This)
	if fault != nil {
		return &methods.RevertToCurrentSnapshot_TaskBody{Fault_: fault}
	}
	ref, fault := v.s.submit(ctx, job{
		method: "RevertToCurrentSnapshot_Task", id: "VirtualMachine.revertToCurrentSnapshot", entity: m.ref, own: []*vm{m},
		work: func(o *op) (types.AnyType, types.BaseMethodFault) {
			var current *types.ManagedObjectReference
			m.look(o.ctx, func(p *mo.VirtualMachine) {
				if p.Snapshot != nil {
					current = p.Snapshot.CurrentSnapshot
				}
			})
			snap, ok := snapshotOf(o.ctx, current)
			if !ok {
				return nil, &types.NotFound{}
			}
			return nil, v.s.revert(o, m, snap, isTrue(req.SuppressPowerOn))
		},
	})
	if fault != nil {
		return &methods.RevertToCurrentSnapshot_TaskBody{Fault_: fault}
	}
	return &methods.RevertToCurrentSnapshot_TaskBody{Res: &types.RevertToCurrentSnapshot_TaskResponse{Returnval: ref}}
}

func snapshotOf(ctx *simulator.Context, ref *types.ManagedObjectReference) (*simulator.VirtualMachineSnapshot, bool) {
	if ref == nil {
		return nil, false
	}
	snap, ok := ctx.Map.Get(*ref).(*simulator.VirtualMachineSnapshot)
	return snap, ok
}

// revert puts back all that is in the snapshot: configuration, disks, power state. What vCenter
// keeps beside the .vmx stays: name, folder, pool, custom values, tags, permissions.
func (s *Server) revert(o *op, m *vm, snap *simulator.VirtualMachineSnapshot, suppressPowerOn bool) types.BaseMethodFault {
	d := s.lat.Revert
	s.mu.Lock()
	if m.snaps[snap.Self].memory != nil && !suppressPowerOn {
		d += perGiB(s.lat.Resume, &snap.Config)
	}
	s.mu.Unlock()
	if f := o.take(d); f != nil {
		return f
	}
	if o.ctx.Map.Get(snap.Self) == nil {
		return &types.ManagedObjectNotFound{Obj: snap.Self}
	}
	if m.power(o.ctx) != poweredOff {
		s.cutPower(o.ctx, m)
	}
	var cfg *types.VirtualMachineConfigInfo
	o.ctx.WithLock(snap.Self, func() { cfg = deepCopy(&snap.Config) })
	s.mu.Lock()
	then := m.snaps[snap.Self]
	s.mu.Unlock()
	disk := then.disk
	if disk != nil {
		disk = disk.Clone()
	}
	s.mu.Lock()
	m.disk = disk
	m.reverts++
	s.mu.Unlock()
	cfg.ChangeVersion, cfg.Modified = s.changeVersion()
	s.branch(m, cfg)
	on, asleep := false, false
	change(o.ctx, m.obj, func() {
		info := deepCopy(m.obj.Snapshot)
		if node := findNode(info.RootSnapshotList, &snap.Self); node != nil {
			on, asleep = node.State == poweredOn && !suppressPowerOn, node.State == suspended
		}
		info.CurrentSnapshot = &snap.Self
		s.setConfig(m, cfg)
		setSnapshots(m.obj, info)
	})
	s.rewire(o.ctx, m, false)
	if asleep {
		s.mu.Lock()
		m.asleep = then.memory
		s.mu.Unlock()
		s.setPower(o.ctx, m, suspended)
		s.post(o.ctx, &types.VmSuspendedEvent{VmEvent: s.vmEvent(o.ctx, m)})
	}
	if !on {
		return nil
	}
	s.setPower(o.ctx, m, poweredOn)
	if then.boot != nil {
		change(o.ctx, m.obj, func() { m.obj.Runtime.BootTime = then.boot })
	}
	s.post(o.ctx, &types.VmPoweredOnEvent{VmEvent: s.vmEvent(o.ctx, m)})
	if then.memory == nil {
		s.startGuest(o.ctx, m)
		return nil
	}
	if err := s.resumeGuest(o.ctx, m, then.memory); err != nil {
		s.cutPower(o.ctx, m)
		return &types.NotSupported{RuntimeFault: because(err.Error())}
	}
	return nil
}

func (v *verbs) RenameSnapshot(ctx *simulator.Context, req *types.RenameSnapshot) soap.HasFault {
	_, m, fault := v.snapshot(ctx, req.This)
	if fault != nil {
		return &methods.RenameSnapshotBody{Fault_: fault}
	}
	change(ctx, m.obj, func() {
		info := deepCopy(m.obj.Snapshot)
		if n := findNode(info.RootSnapshotList, &req.This); n != nil {
			setString(&n.Name, escape(req.Name))
			setString(&n.Description, v.s.described(req.Description))
		}
		setSnapshots(m.obj, info)
	})
	return &methods.RenameSnapshotBody{Res: &types.RenameSnapshotResponse{}}
}

func findNode(list []snapTree, ref *types.ManagedObjectReference) *snapTree {
	if ref == nil {
		return nil
	}
	for i := range list {
		if list[i].Snapshot == *ref {
			return &list[i]
		}
		if n := findNode(list[i].ChildSnapshotList, ref); n != nil {
			return n
		}
	}
	return nil
}

// depth is the number of snapshots from a root down to ref.
func depth(list []snapTree, ref *types.ManagedObjectReference) int {
	for i := range list {
		if findNode(list[i:i+1], ref) != nil {
			if list[i].Snapshot == *ref {
				return 1
			}
			return 1 + depth(list[i].ChildSnapshotList, ref)
		}
	}
	return 0
}
