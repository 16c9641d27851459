package vspheretest

import (
	"slices"
	"strings"
	"sync"

	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// An index finds VMs by their names in folders, and by the MACs, the disk files and the instance UUID
// that their configurations name.
type index struct {
	mu   sync.Mutex
	of   map[*vm][]key
	have map[key]map[*vm]bool
}

// A key is what VMs are found by.
type key struct {
	kind  keyKind
	value string
}

type keyKind int

const (
	byName keyKind = iota // "group-v3/con1"
	byMAC
	byFile
	byUUID
)

func nameKey(folder types.ManagedObjectReference, name string) key {
	return key{byName, folder.Value + "/" + name}
}

func macKey(mac string) key { return key{byMAC, strings.ToLower(mac)} }

// set makes v found by what its properties say now. The caller holds the object's lock.
func (x *index) set(v *vm, o *mo.VirtualMachine) {
	var keys []key
	if o.Parent != nil { // of a vApp
		keys = append(keys, nameKey(*o.Parent, o.Name))
	}
	if cfg := o.Config; cfg != nil {
		keys = append(keys, key{byUUID, cfg.InstanceUuid})
		for _, n := range nics(cfg) {
			keys = append(keys, macKey(n.MacAddress))
		}
		for _, d := range disks(cfg) {
			for b := backingOf(d); b != nil; b = b.Parent {
				keys = append(keys, key{byFile, b.FileName})
			}
		}
	}
	x.put(v, keys)
}

// drop makes v found by nothing.
func (x *index) drop(v *vm) { x.put(v, nil) }

func (x *index) put(v *vm, keys []key) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if slices.Equal(x.of[v], keys) {
		return
	}
	for _, k := range x.of[v] {
		if delete(x.have[k], v); len(x.have[k]) == 0 {
			delete(x.have, k)
		}
	}
	delete(x.of, v)
	if len(keys) > 0 {
		x.of[v] = keys
	}
	for _, k := range keys {
		if x.have[k] == nil {
			x.have[k] = make(map[*vm]bool)
		}
		x.have[k][v] = true
	}
}

// with lists the VMs that have one of the keys, in the order in which they were made.
func (x *index) with(keys ...key) []*vm {
	x.mu.Lock()
	defer x.mu.Unlock()
	all := make(map[*vm]bool)
	for _, k := range keys {
		for v := range x.have[k] {
			all[v] = true
		}
	}
	return inOrder(all)
}

// identify gives the configuration of v another instance UUID if another VM has its own, as vCenter
// does when it detects a conflict.
func (x *index) identify(v *vm, cfg *types.VirtualMachineConfigInfo) {
	if slices.ContainsFunc(x.with(key{byUUID, cfg.InstanceUuid}), func(other *vm) bool { return other != v }) {
		cfg.InstanceUuid = newUUID()
	}
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
