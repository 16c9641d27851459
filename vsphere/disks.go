package vsphere

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// disks are the files behind a VM's virtual disks, all links of their chains.
type disks struct {
	own, foreign []string // in the VM's own directories; in another VM's
}

// disksOf tells apart the files of the VM itself and those of others that it hangs on, by their
// directories: a VM keeps its files beside its .vmx, in its snapshot directory, and where its
// topmost links are.
func disksOf(vm mo.VirtualMachine) disks {
	var d disks
	if vm.Config == nil {
		return d
	}
	dirs := []string{dir(vm.Config.Files.VmPathName), dir(vm.Config.Files.SnapshotDirectory)}
	var chains [][]string
	for _, dev := range vm.Config.Hardware.Device {
		if disk, ok := dev.(*types.VirtualDisk); ok {
			chain := chainOf(disk.Backing)
			if len(chain) > 0 {
				dirs = append(dirs, dir(chain[0]))
			}
			chains = append(chains, chain)
		}
	}
	for _, chain := range chains {
		for _, file := range chain {
			if slices.Contains(dirs, dir(file)) {
				d.own = append(d.own, file)
			} else {
				d.foreign = append(d.foreign, file)
			}
		}
	}
	return d
}

// dir is the directory of a file "[datastore] a/b.vmdk", with the datastore.
func dir(file string) string {
	i := strings.LastIndexByte(file, '/')
	if i < 0 {
		return strings.TrimSpace(file)
	}
	return file[:i]
}

// chainOf returns the files of a disk, topmost first.
func chainOf(backing types.BaseVirtualDeviceBackingInfo) (files []string) {
	for {
		switch b := backing.(type) {
		case *types.VirtualDiskFlatVer2BackingInfo:
			files = append(files, b.FileName)
			if b.Parent == nil {
				return files
			}
			backing = b.Parent
		case *types.VirtualDiskSeSparseBackingInfo:
			files = append(files, b.FileName)
			if b.Parent == nil {
				return files
			}
			backing = b.Parent
		case *types.VirtualDiskSparseVer2BackingInfo:
			files = append(files, b.FileName)
			if b.Parent == nil {
				return files
			}
			backing = b.Parent
		case *types.VirtualDiskRawDiskMappingVer1BackingInfo:
			files = append(files, b.FileName)
			if b.Parent == nil {
				return files
			}
			backing = b.Parent
		case types.BaseVirtualDeviceFileBackingInfo:
			return append(files, b.GetVirtualDeviceFileBackingInfo().FileName)
		default:
			return files
		}
	}
}

// diskMode says how a disk takes part in snapshots.
func diskMode(backing types.BaseVirtualDeviceBackingInfo) string {
	switch b := backing.(type) {
	case *types.VirtualDiskFlatVer2BackingInfo:
		return b.DiskMode
	case *types.VirtualDiskSeSparseBackingInfo:
		return b.DiskMode
	case *types.VirtualDiskSparseVer2BackingInfo:
		return b.DiskMode
	case *types.VirtualDiskRawDiskMappingVer1BackingInfo:
		return b.DiskMode
	}
	return ""
}

// Clones implements pool.Provider. It costs one call, which reads the disks of every VM on the
// datastores of this one. A VM there whose disks cannot be read now counts as a clone, since it may
// be one, and so does one that is being made of this VM, which may have no path yet.
func (p *Provider) Clones(ctx context.Context, id string) ([]string, error) {
	vm := vmRef(id)
	props := []string{"name", "parent", "config.files", "config.hardware.device"}
	objects, err := p.s.retrieve(ctx, types.PropertyFilterSpec{
		PropSet: []types.PropertySpec{
			{Type: "VirtualMachine", PathSet: props},
			{Type: "Task", PathSet: []string{"info.state", "info.descriptionId"}},
		},
		ObjectSet: []types.ObjectSpec{{
			Obj: vm,
			SelectSet: []types.BaseSelectionSpec{
				&types.TraversalSpec{
					Type: "VirtualMachine", Path: "datastore", Skip: types.NewBool(true),
					SelectSet: []types.BaseSelectionSpec{&types.TraversalSpec{Type: "Datastore", Path: "vm"}},
				},
				&types.TraversalSpec{Type: "VirtualMachine", Path: "recentTask"},
			},
		}},
	}, types.PropertyFilterSpec{ // the files of all its snapshots too, whichever it is at now
		PropSet:   []types.PropertySpec{{Type: "VirtualMachine", PathSet: []string{"layoutEx.file"}}},
		ObjectSet: []types.ObjectSpec{{Obj: vm}},
	})
	if err != nil {
		return nil, p.errorf(err, "clones of %s", p.label(id))
	}

	var all []mo.VirtualMachine
	var making []string
	own := map[string]bool{}
	for _, o := range objects {
		if o.Obj.Type == "Task" {
			if isCloning(o) {
				making = append(making, fmt.Sprintf("a clone that is being made (%s)", o.Obj.Value))
			}
			continue
		}
		m, err := asVM(o)
		if err != nil {
			return nil, p.errorf(err, "clones of %s", p.label(id))
		}
		if o.Obj != vm {
			all = append(all, m)
			continue
		}
		if m.Config != nil {
			for _, f := range disksOf(m).own {
				own[f] = true
			}
		}
		if m.LayoutEx != nil {
			home := map[string]bool{}
			for f := range own {
				home[dir(f)] = true
			}
			for _, f := range m.LayoutEx.File {
				if home[dir(f.Name)] {
					own[f.Name] = true
				}
			}
		}
	}
	if len(own) == 0 {
		return nil, p.errorf(refuse("its own disks cannot be read now; try again later"), "clones of %s", p.label(id))
	}

	var clones []mo.VirtualMachine
	for _, m := range all {
		if m.Config == nil || slices.ContainsFunc(disksOf(m).foreign, func(f string) bool { return own[f] }) {
			clones = append(clones, m)
		}
	}
	paths, err := p.vmPaths(ctx, clones)
	return append(paths, making...), err
}

// isCloning tells whether a task makes a clone now.
func isCloning(task types.ObjectContent) bool {
	props := newPlace(task).props
	state, _ := props["info.state"].(types.TaskInfoState)
	return props["info.descriptionId"] == "VirtualMachine.clone" &&
		(state == types.TaskInfoStateQueued || state == types.TaskInfoStateRunning)
}

// vmPaths returns the inventory paths of VMs, sorted.
func (p *Provider) vmPaths(ctx context.Context, vms []mo.VirtualMachine) ([]string, error) {
	if len(vms) == 0 {
		return nil, nil
	}
	var paths []string
	err := p.lookUp(ctx, func(t *tree) error {
		paths = nil
		for _, vm := range vms {
			path := "/" + vm.Name
			if vm.Parent != nil {
				if _, ok := t.all[*vm.Parent]; !ok {
					path = "/…" + path
				} else {
					path = t.path(*vm.Parent) + path
				}
			}
			if vm.Config == nil {
				path += " (its disks cannot be read now)"
			}
			paths = append(paths, path)
		}
		if slices.ContainsFunc(paths, func(s string) bool { return strings.HasPrefix(s, "/…") }) {
			return refuse("a folder is not in the inventory")
		}
		return nil
	})
	if err != nil && len(paths) == 0 {
		return nil, p.errorf(err, "paths of clones")
	}
	slices.Sort(paths)
	return paths, nil
}
