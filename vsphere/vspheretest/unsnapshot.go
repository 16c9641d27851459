package vspheretest

import (
	"fmt"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

func (v *verbs) RemoveSnapshotTask(ctx *simulator.Context, req *types.RemoveSnapshot_Task) soap.HasFault {
	_, m, fault := v.snapshot(ctx, req.This)
	if fault != nil {
		return &methods.RemoveSnapshot_TaskBody{Fault_: fault}
	}
	ref, fault := v.s.submit(ctx, job{
		method: "RemoveSnapshot_Task", id: "vm.Snapshot.remove", entity: m.ref, own: []*vm{m},
		work: func(o *op) (types.AnyType, types.BaseMethodFault) {
			return nil, v.s.removeSnapshots(o, m, func(list []snapTree) []types.ManagedObjectReference {
				n := findNode(list, &req.This)
				if n == nil {
					return nil
				}
				if !req.RemoveChildren {
					return []types.ManagedObjectReference{n.Snapshot}
				}
				return subtree(*n)
			})
		},
	})
	if fault != nil {
		return &methods.RemoveSnapshot_TaskBody{Fault_: fault}
	}
	return &methods.RemoveSnapshot_TaskBody{Res: &types.RemoveSnapshot_TaskResponse{Returnval: ref}}
}

func (v *verbs) RemoveAllSnapshotsTask(ctx *simulator.Context, req *types.RemoveAllSnapshots_Task) soap.HasFault {
	m, fault := v.target(req.This)
	if fault != nil {
		return &methods.RemoveAllSnapshots_TaskBody{Fault_: fault}
	}
	ref, fault := v.s.submit(ctx, job{
		method: "RemoveAllSnapshots_Task", id: "VirtualMachine.removeAllSnapshots", entity: m.ref, own: []*vm{m},
		work: func(o *op) (types.AnyType, types.BaseMethodFault) {
			return nil, v.s.removeSnapshots(o, m, func(list []snapTree) (all []types.ManagedObjectReference) {
				for _, n := range list {
					all = append(all, subtree(n)...)
				}
				return all
			})
		},
	})
	if fault != nil {
		return &methods.RemoveAllSnapshots_TaskBody{Fault_: fault}
	}
	return &methods.RemoveAllSnapshots_TaskBody{Res: &types.RemoveAllSnapshots_TaskResponse{Returnval: ref}}
}

// subtree lists n and what hangs below it, leaves first.
func subtree(n snapTree) (refs []types.ManagedObjectReference) {
	for _, c := range n.ChildSnapshotList {
		refs = append(refs, subtree(c)...)
	}
	return append(refs, n.Snapshot)
}

// removeSnapshots removes those that pick chooses, and merges their disks into what remains.
func (s *Server) removeSnapshots(o *op, m *vm, pick func([]snapTree) []types.ManagedObjectReference) types.BaseMethodFault {
	var refs []types.ManagedObjectReference
	m.look(o.ctx, func(p *mo.VirtualMachine) {
		if p.Snapshot != nil {
			refs = pick(p.Snapshot.RootSnapshotList)
		}
	})
	if users := s.hangingOn(o.ctx, m, refs); len(users) > 0 {
		// What a real vCenter leaves of the clones is not known for sure; esxi tools have
		// destroyed them. Refusing shows who would have tried.
		return &types.ResourceInUse{Type: "VirtualDisk", Name: users[0]}
	}
	if f := o.take(s.lat.RemoveSnapshot); f != nil {
		return f
	}
	for _, ref := range refs {
		s.removeSnapshot(o.ctx, m, ref)
	}
	return nil
}

func (s *Server) removeSnapshot(ctx *simulator.Context, m *vm, ref types.ManagedObjectReference) {
	snap, ok := snapshotOf(ctx, &ref)
	if !ok {
		return
	}
	var files []string
	ctx.WithLock(ref, func() { files = diskFiles(&snap.Config) })
	var rest []types.ManagedObjectReference
	version, modified := s.changeVersion()
	var parent *types.ManagedObjectReference
	change(ctx, m.obj, func() {
		info := deepCopy(m.obj.Snapshot)
		parent = parentOf(info.RootSnapshotList, ref)
		if info.CurrentSnapshot != nil && *info.CurrentSnapshot == ref {
			info.CurrentSnapshot = parent
		}
		info.RootSnapshotList = prune(info.RootSnapshotList, ref)
		for _, n := range info.RootSnapshotList {
			rest = append(rest, subtree(n)...)
		}
		cfg := deepCopy(m.obj.Config)
		cfg.ChangeVersion, cfg.Modified = version, modified
		s.setConfig(m, cfg)
		setSnapshots(m.obj, info)
	})
	if ps, ok := snapshotOf(ctx, parent); ok {
		change(ctx, ps, func() {
			ps.ChildSnapshot = append(without(ps.ChildSnapshot, ref), snap.ChildSnapshot...)
		})
	}
	s.merge(ctx, m, rest, files)
	s.mu.Lock()
	delete(m.snaps, ref)
	s.mu.Unlock()
	ctx.Map.Remove(ctx, ref)
}

// merge folds into the removed snapshot's files the one delta that depends on each of them. A file
// with several deltas stays as their parent.
func (s *Server) merge(ctx *simulator.Context, m *vm, rest []types.ManagedObjectReference, files []string) {
	var configs []*types.VirtualMachineConfigInfo
	cur := m.config(ctx)
	configs = append(configs, cur)
	snaps := make(map[types.ManagedObjectReference]*types.VirtualMachineConfigInfo)
	for _, ref := range rest {
		if snap, ok := snapshotOf(ctx, &ref); ok {
			ctx.WithLock(ref, func() { snaps[ref] = deepCopy(&snap.Config) })
			configs = append(configs, snaps[ref])
		}
	}
	for _, file := range files {
		kids := make(map[string]bool)
		used := false
		each(configs, func(b *types.VirtualDiskFlatVer2BackingInfo, top bool) {
			if b.Parent != nil && b.Parent.FileName == file {
				kids[b.FileName] = true
			}
			used = used || top && b.FileName == file
		})
		if used || len(kids) != 1 {
			continue
		}
		each(configs, func(b *types.VirtualDiskFlatVer2BackingInfo, _ bool) {
			if kids[b.FileName] && b.Parent != nil {
				b.FileName, b.Parent = file, b.Parent.Parent
			}
		})
	}
	change(ctx, m.obj, func() { s.setConfig(m, cur) })
	for ref, cfg := range snaps {
		if snap, ok := snapshotOf(ctx, &ref); ok {
			change(ctx, snap, func() { snap.Config = *cfg })
		}
	}
}

// each visits every file of every disk chain; top reports whether it is the one in use.
func each(configs []*types.VirtualMachineConfigInfo, f func(b *types.VirtualDiskFlatVer2BackingInfo, top bool)) {
	for _, c := range configs {
		for _, d := range disks(c) {
			for b, top := backingOf(d), true; b != nil; b, top = b.Parent, false {
				f(b, top)
			}
		}
	}
}

// hangingOn names the VMs, other than m, whose disks depend on the snapshots refs of m.
func (s *Server) hangingOn(ctx *simulator.Context, m *vm, refs []types.ManagedObjectReference) []string {
	files := make(map[string]bool)
	for _, ref := range refs {
		if snap, ok := snapshotOf(ctx, &ref); ok {
			ctx.WithLock(ref, func() {
				for _, f := range diskFiles(&snap.Config) {
					files[f] = true
				}
			})
		}
	}
	return s.usersOf(m, files)
}

// usersOf names the VMs, other than m, that have one of the files in a disk chain.
func (s *Server) usersOf(m *vm, files map[string]bool) (names []string) {
	var keys []key
	for f := range files {
		keys = append(keys, key{byFile, f})
	}
	for _, other := range s.index.with(keys...) {
		if other != m && s.vm(other.ref) != nil {
			names = append(names, s.nameOf(other.ref))
		}
	}
	return names
}

func parentOf(list []snapTree, ref types.ManagedObjectReference) *types.ManagedObjectReference {
	for i := range list {
		for _, c := range list[i].ChildSnapshotList {
			if c.Snapshot == ref {
				return &list[i].Snapshot
			}
		}
		if p := parentOf(list[i].ChildSnapshotList, ref); p != nil {
			return p
		}
	}
	return nil
}

// prune returns list without ref, whose children take its place.
func prune(list []snapTree, ref types.ManagedObjectReference) []snapTree {
	var out []snapTree
	for _, n := range list {
		if n.Snapshot == ref {
			out = append(out, n.ChildSnapshotList...)
			continue
		}
		n.ChildSnapshotList = prune(n.ChildSnapshotList, ref)
		out = append(out, n)
	}
	return out
}

// deltaName is the name of the n-th delta of a disk file.
func deltaName(file string, n int) string {
	base := baseName(file)
	if i := len(base) - 7; i > 0 && base[i] == '-' {
		base = base[:i]
	}
	return fmt.Sprintf("%s-%06d.vmdk", base, n)
}
