package vspheretest

import (
	"slices"
	"strings"
	"sync"

	"github.com/vmware/govmomi/vim25/types"
)

// An index finds VMs by the MACs, the disk files and the instance UUID that their configurations
// name.
type index struct {
	mu    sync.Mutex
	of    map[*vm]entry
	macs  map[string]map[*vm]bool
	files map[string]map[*vm]bool
	uuids map[string]map[*vm]bool
}

// An entry is what one VM is found by.
type entry struct{ macs, files, uuids []string }

// set makes v found by what its configuration names now; nil is nothing.
func (x *index) set(v *vm, cfg *types.VirtualMachineConfigInfo) {
	var e entry
	if cfg != nil {
		e.uuids = []string{cfg.InstanceUuid}
		for _, n := range nics(cfg) {
			e.macs = append(e.macs, strings.ToLower(n.MacAddress))
		}
		for _, d := range disks(cfg) {
			for b := backingOf(d); b != nil; b = b.Parent {
				e.files = append(e.files, b.FileName)
			}
		}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.of == nil {
		x.of = make(map[*vm]entry)
		x.macs, x.files, x.uuids = make(map[string]map[*vm]bool), make(map[string]map[*vm]bool), make(map[string]map[*vm]bool)
	}
	was := x.of[v]
	if slices.Equal(was.macs, e.macs) && slices.Equal(was.files, e.files) && slices.Equal(was.uuids, e.uuids) {
		return
	}
	remove(x.macs, was.macs, v)
	remove(x.files, was.files, v)
	remove(x.uuids, was.uuids, v)
	if cfg == nil {
		delete(x.of, v)
		return
	}
	x.of[v] = e
	add(x.macs, e.macs, v)
	add(x.files, e.files, v)
	add(x.uuids, e.uuids, v)
}

func remove(m map[string]map[*vm]bool, keys []string, v *vm) {
	for _, k := range keys {
		if delete(m[k], v); len(m[k]) == 0 {
			delete(m, k)
		}
	}
}

func add(m map[string]map[*vm]bool, keys []string, v *vm) {
	for _, k := range keys {
		if m[k] == nil {
			m[k] = make(map[*vm]bool)
		}
		m[k][v] = true
	}
}

// withMAC lists the VMs that have a MAC, in the order in which they were made.
func (x *index) withMAC(mac string) []*vm {
	x.mu.Lock()
	defer x.mu.Unlock()
	return inOrder(x.macs[strings.ToLower(mac)])
}

// identify gives the configuration of v another instance UUID if another VM has its own, as vCenter
// does when it detects a conflict.
func (x *index) identify(v *vm, cfg *types.VirtualMachineConfigInfo) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for other := range x.uuids[cfg.InstanceUuid] {
		if other != v {
			cfg.InstanceUuid = newUUID()
			return
		}
	}
}

// withFiles lists the VMs that have one of the files in a disk chain.
func (x *index) withFiles(files map[string]bool) []*vm {
	x.mu.Lock()
	defer x.mu.Unlock()
	all := make(map[*vm]bool)
	for f := range files {
		for v := range x.files[f] {
			all[v] = true
		}
	}
	return inOrder(all)
}

func inOrder(set map[*vm]bool) (vms []*vm) {
	for v := range set {
		vms = append(vms, v)
	}
	slices.SortFunc(vms, func(a, b *vm) int { return byAge(a.ref, b.ref) })
	return vms
}

// byAge orders references by when their objects were made.
func byAge(a, b types.ManagedObjectReference) int {
	if d := len(a.Value) - len(b.Value); d != 0 {
		return d
	}
	return strings.Compare(a.Value, b.Value)
}
