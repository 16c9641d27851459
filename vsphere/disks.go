package vsphere

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// disks are the files behind a VM's virtual disks, all links of their chains.
type disks struct {
	own, foreign []string // in the VM's own directories; in another VM's
}

// disksOf tells apart the files of the VM itself and those of others that it depends on, by their
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
// datastores of this one; VMs that are asked about at the same time share it. A VM there whose disks
// cannot be read now counts as a clone, since it may be one, and so does one that is being made of
// this VM, which may have no path yet.
func (p *Provider) Clones(ctx context.Context, id string) ([]string, error) {
	c, err := p.clonesOf(ctx, vmRef(id))
	if err != nil {
		return nil, p.errorf(err, "clones of %s", p.label(id))
	}
	paths, err := p.vmPaths(ctx, append(c.sure, c.unsure...))
	return append(paths, c.making...), err
}

// errUnreadable is the error of a VM whose configuration vCenter does not know now.
var errUnreadable = errors.New("its own disks cannot be read now; try again later")

// dependants are the VMs whose disks depend on those of a VM.
type dependants struct {
	sure   []mo.VirtualMachine
	unsure []mo.VirtualMachine // of which that cannot be told now
	making []string            // descriptions of clones that are being made
	on     bool                // the VM itself runs
}

// clonesOf returns what depends on the disks of vm.
func (p *Provider) clonesOf(ctx context.Context, vm types.ManagedObjectReference) (c dependants, err error) {
	objects, err := p.chains.read(ctx, vm, p.readChains)
	if err != nil {
		return c, err
	}
	var all []mo.VirtualMachine
	var self mo.VirtualMachine // of which there are two readings
	var tasks []types.ObjectContent
	for _, o := range objects {
		if o.Obj.Type == "Task" {
			tasks = append(tasks, o)
			continue
		}
		if err := missing(o); err != nil && o.Obj == vm {
			return c, err
		}
		m, err := asVM(o)
		if err != nil {
			return c, err
		}
		switch {
		case o.Obj != vm && m.Name != "":
			all = append(all, m)
		case o.Obj == vm && m.Config != nil:
			self.Config = m.Config
		case o.Obj == vm && m.LayoutEx != nil:
			self.LayoutEx, self.RecentTask = m.LayoutEx, m.RecentTask
			c.on = m.Runtime.PowerState == types.VirtualMachinePowerStatePoweredOn
		case o.Obj == vm && m.RecentTask != nil:
			self.RecentTask = m.RecentTask
		}
	}
	own := ownFiles(self)
	if self.Config == nil {
		return c, errUnreadable
	}
	for _, o := range tasks {
		if slices.Contains(self.RecentTask, o.Obj) && isCloning(o) {
			c.making = append(c.making, fmt.Sprintf("a clone that is being made (%s)", o.Obj.Value))
		}
	}

	for _, m := range all {
		switch {
		case m.Config == nil:
			c.unsure = append(c.unsure, m)
		case slices.ContainsFunc(disksOf(m).foreign, func(f string) bool { return own[f] }):
			c.sure = append(c.sure, m)
		}
	}
	return c, nil
}

// readChains reads the disks of all VMs on the datastores of those named, and of those all files and
// tasks.
func (p *Provider) readChains(ctx context.Context, refs []types.ManagedObjectReference) ([]types.ObjectContent, error) {
	around := types.PropertyFilterSpec{
		PropSet: []types.PropertySpec{
			{Type: "VirtualMachine", PathSet: []string{"name", "parent", "config.files", "config.hardware.device"}},
			{Type: "Task", PathSet: []string{"info.state", "info.descriptionId"}},
		},
		ReportMissingObjectsInResults: types.NewBool(true),
	}
	self := types.PropertyFilterSpec{ // the files of all its snapshots too, whichever it is at now
		PropSet:                       []types.PropertySpec{{Type: "VirtualMachine", PathSet: []string{"layoutEx.file", "recentTask", "runtime.powerState"}}},
		ReportMissingObjectsInResults: types.NewBool(true),
	}
	for _, ref := range refs {
		around.ObjectSet = append(around.ObjectSet, types.ObjectSpec{
			Obj: ref,
			SelectSet: []types.BaseSelectionSpec{
				&types.TraversalSpec{
					Type: "VirtualMachine", Path: "datastore", Skip: types.NewBool(true),
					SelectSet: []types.BaseSelectionSpec{&types.TraversalSpec{Type: "Datastore", Path: "vm"}},
				},
				&types.TraversalSpec{Type: "VirtualMachine", Path: "recentTask"},
			},
		})
		self.ObjectSet = append(self.ObjectSet, types.ObjectSpec{Obj: ref})
	}
	return p.s.retrieve(ctx, around, self)
}

// missing returns the fault of an object that does not exist, or nil.
func missing(o types.ObjectContent) error {
	for _, m := range o.MissingSet {
		if _, ok := m.Fault.Fault.(*types.ManagedObjectNotFound); ok {
			return soap.WrapVimFault(&types.ManagedObjectNotFound{Obj: o.Obj})
		}
	}
	return nil
}

// ownFiles returns the disk files of the VM itself, those of its snapshots included.
func ownFiles(vm mo.VirtualMachine) map[string]bool {
	own, home := map[string]bool{}, map[string]bool{}
	for _, f := range disksOf(vm).own {
		own[f], home[dir(f)] = true, true
	}
	if vm.LayoutEx != nil {
		for _, f := range vm.LayoutEx.File {
			if home[dir(f.Name)] {
				own[f.Name] = true
			}
		}
	}
	return own
}

// isCloning reports whether a task makes a clone now.
func isCloning(task types.ObjectContent) bool {
	props := newPlace(task).props
	state, _ := props["info.state"].(types.TaskInfoState)
	return props["info.descriptionId"] == "VirtualMachine.clone" &&
		(state == types.TaskInfoStateQueued || state == types.TaskInfoStateRunning)
}

// unreadable follows the path of a VM whose configuration was not read.
const unreadable = " (its disks cannot be read now)"

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
				path += unreadable
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
