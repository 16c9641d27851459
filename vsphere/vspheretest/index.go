package vspheretest

import (
	"slices"
	"strings"
	"sync"

	"github.com/vmware/govmomi/vim25/types"
)

// An index finds VMs by the MACs and by the disk files that their configurations name.
type index struct {
	mu    sync.Mutex
	of    map[*vm]entry
	macs  map[string]map[*vm]bool
	files map[string]map[*vm]bool
}

// An entry is what one VM is found by, sorted.
type entry struct{ macs, files []string }

// set makes v found by what its configuration names now; nil is nothing.
func (x *index) set(v *vm, cfg *types.VirtualMachineConfigInfo) {
	var e entry
	if cfg != nil {
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
		x.of, x.macs, x.files = make(map[*vm]entry), make(map[string]map[*vm]bool), make(map[string]map[*vm]bool)
	}
	was := x.of[v]
	if slices.Equal(was.macs, e.macs) && slices.Equal(was.files, e.files) {
		return
	}
	remove(x.macs, was.macs, v)
	remove(x.files, was.files, v)
	if cfg == nil {
		delete(x.of, v)
		return
	}
	x.of[v] = e
	add(x.macs, e.macs, v)
	add(x.files, e.files, v)
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
