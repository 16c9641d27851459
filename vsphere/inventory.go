package vsphere

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/poolready/poolready/pool"
)

// Keys of a VM's ExtraConfig, written in the call that makes it.
const (
	ownerKey    = "poolready.owner"    // pool.CloneSpec.Owner
	instanceKey = "poolready.instance" // the instance UUID of the VM that the owner's mark is for
	claimsKey   = "poolready.claims"   // pool.NIC.Claims, as JSON, in the order of the NICs
	nonceKey    = "poolready.clone"    // tells this call's clone from another's
)

// vmProps is what an inventory asks of each VM.
var vmProps = []string{
	"name", "parent", "runtime.powerState", "runtime.connectionState",
	"config.extraConfig", "config.instanceUuid", "config.uuid", "config.hardware.device", "config.files",
	"resourcePool", "snapshot", "guest.net",
}

// Inventory implements pool.Provider. It costs one call for the VMs, however many there are, one to
// find each template, and one for all templates' identities; the first one also logs in and reads
// the datacenter. A template is an inventory path, absolute or below the datacenter's VM folder,
// or the name of a VM anywhere in the datacenter, if only one has it.
func (p *Provider) Inventory(ctx context.Context, set string, templates ...string) (*pool.Inventory, error) {
	inv := &pool.Inventory{Templates: map[string]string{}}
	if err := p.identify(ctx, templates, inv.Templates); err != nil {
		return nil, p.errorf(err, "inventory of set %q", set)
	}
	objects, folder, err := p.readSet(ctx, set, vmProps)
	if err != nil {
		return nil, p.errorf(err, "inventory of set %q", set)
	}
	folders := map[types.ManagedObjectReference]place{}
	for _, o := range objects {
		if o.Obj.Type == "Folder" && o.Obj != folder {
			folders[o.Obj] = newPlace(o)
		}
	}
	t, err := p.inventory(ctx, time.Time{})
	if err != nil {
		return nil, p.errorf(err, "inventory of set %q", set)
	}
	for _, o := range objects {
		if o.Obj.Type != "VirtualMachine" {
			continue
		}
		if why := lacking(o); why != "" && inv.Incomplete == "" {
			inv.Incomplete = why
		}
		vm, err := asVM(o)
		if err != nil {
			return nil, p.errorf(err, "inventory of set %q: %s", set, p.nameOf(o.Obj))
		}
		if _, ledger := ledgerShard(set, vm); ledger {
			continue
		}
		info := vmInfo(vm)
		info.Placement = t.placement(vm)
		if vm.Parent != nil {
			info.Folder = strings.TrimPrefix(pathIn(folders, *vm.Parent), "/")
		}
		p.learn(vm.Self, vm.Name)
		inv.VMs = append(inv.VMs, info)
	}
	return inv, nil
}

// readSet reads the VMs and folders of a set, the set's own folder among them. A set without a
// folder has nothing.
func (p *Provider) readSet(ctx context.Context, set string, props []string) ([]types.ObjectContent, types.ManagedObjectReference, error) {
	for try := 1; ; try++ {
		folder, err := p.setFolder(ctx, set)
		if err != nil || folder == nil {
			return nil, types.ManagedObjectReference{}, err
		}
		objects, err := p.s.retrieve(ctx, types.PropertyFilterSpec{
			PropSet: []types.PropertySpec{
				{Type: "VirtualMachine", PathSet: props},
				{Type: "Folder", PathSet: []string{"name", "parent"}},
			},
			ObjectSet: []types.ObjectSpec{{
				Obj:       *folder,
				SelectSet: []types.BaseSelectionSpec{step("children", "Folder", "childEntity", "children")},
			}},
		})
		if f, ok := fault[*types.ManagedObjectNotFound](err); ok && f.Obj == *folder && try == 1 {
			p.forgetFolders(set) // removed since, and perhaps made again
			continue
		}
		return objects, *folder, err
	}
}

// lacking says which property of a VM the user may not see, or "". Properties that are not set
// are no lack.
func lacking(o types.ObjectContent) string {
	for _, m := range o.MissingSet {
		if no, ok := m.Fault.Fault.(types.BaseNoPermission); ok {
			return fmt.Sprintf("the user may not read %s of %s (privilege %s)", m.Path, refName(o.Obj), no.GetNoPermission().PrivilegeId)
		}
	}
	return ""
}

// asVM decodes what was read of a VM.
func asVM(o types.ObjectContent) (mo.VirtualMachine, error) {
	o.MissingSet = nil
	v, err := mo.ObjectContentToType(o)
	if err != nil {
		return mo.VirtualMachine{}, err
	}
	vm, ok := v.(mo.VirtualMachine)
	if !ok {
		return vm, fmt.Errorf("%s is no VM", refName(o.Obj))
	}
	vm.Self = o.Obj
	return vm, nil
}

func vmInfo(vm mo.VirtualMachine) pool.VMInfo {
	info := pool.VMInfo{
		ID:      vm.Self.Value,
		Name:    vm.Name,
		MACs:    macsOf(vm),
		On:      vm.Runtime.PowerState != "" && vm.Runtime.PowerState != types.VirtualMachinePowerStatePoweredOff,
		Problem: problem(vm),
		Addrs:   map[string][]netip.Addr{},
	}
	if vm.Config != nil {
		info.Owner, info.CopyOf = ownerOf(vm)
		info.UUID = strings.ToLower(vm.Config.Uuid)
	}
	if vm.Snapshot != nil {
		info.Snapshots = snapshots(nil, vm.Snapshot.RootSnapshotList)
	}
	disks := disksOf(vm)
	info.Linked = len(disks.foreign) > 0
	info.NICs = nicStates(vm)
	if vm.Guest != nil {
		info.Addrs = plainAddrs(vm.Guest.Net)
	}
	return info
}

// problem says why vCenter cannot use the VM now, or "".
func problem(vm mo.VirtualMachine) string {
	switch s := vm.Runtime.ConnectionState; {
	case vm.Config == nil && (s == types.VirtualMachineConnectionStateConnected || s == ""):
		return "being created"
	case s != types.VirtualMachineConnectionStateConnected && s != "":
		return string(s)
	case vm.Config == nil:
		return "without configuration"
	}
	return ""
}

// extra returns a value of the VM's ExtraConfig, or "".
func extra(vm mo.VirtualMachine, key string) string {
	if vm.Config == nil {
		return ""
	}
	for _, o := range vm.Config.ExtraConfig {
		if v := o.GetOptionValue(); v.Key == key {
			s, _ := v.Value.(string)
			return s
		}
	}
	return ""
}

// snapshots flattens a snapshot tree, parents first.
func snapshots(all []pool.Snapshot, tree []types.VirtualMachineSnapshotTree) []pool.Snapshot {
	for _, s := range tree {
		all = append(all, pool.Snapshot{
			ID: s.Snapshot.Value, Name: unescape.Replace(s.Name), Record: s.Description, Created: s.CreateTime,
			Running: s.State == types.VirtualMachinePowerStatePoweredOn,
		})
		all = snapshots(all, s.ChildSnapshotList)
	}
	return all
}

// identify fills in the identity of each template that exists.
func (p *Provider) identify(ctx context.Context, templates []string, ids map[string]string) error {
	refs := map[types.ManagedObjectReference][]string{}
	spec := types.PropertyFilterSpec{
		PropSet:                       []types.PropertySpec{{Type: "VirtualMachine", PathSet: templateProps}},
		ReportMissingObjectsInResults: types.NewBool(true),
	}
	for _, path := range templates {
		ref, err := p.findVM(ctx, path)
		if err != nil {
			return err
		}
		if ref == nil {
			continue
		}
		p.sources.found(path, &source{vm: *ref, read: time.Now()})
		if refs[*ref] == nil {
			spec.ObjectSet = append(spec.ObjectSet, types.ObjectSpec{Obj: *ref})
		}
		refs[*ref] = append(refs[*ref], path)
	}
	if len(refs) == 0 {
		return nil
	}
	objects, err := p.s.retrieve(ctx, spec)
	if err != nil {
		return fmt.Errorf("read templates: %w", err)
	}
	for _, o := range objects {
		vm, err := asVM(o)
		if err != nil {
			return err
		}
		if vm.Name == "" {
			continue // gone since it was found
		}
		if why := problem(vm); why != "" {
			return refuse("template %q cannot be used: it is %s", refs[o.Obj][0], why)
		}
		p.learn(vm.Self, vm.Name)
		for _, path := range refs[o.Obj] {
			ids[path] = templateIdentity(vm)
		}
	}
	return nil
}

// findVM returns the VM or template of that path or name, or nil.
func (p *Provider) findVM(ctx context.Context, want string) (*types.ManagedObjectReference, error) {
	t, err := p.inventory(ctx, time.Time{})
	if err != nil {
		return nil, err
	}
	path := strings.Trim(want, "/")
	if !strings.HasPrefix(want, "/") {
		path = strings.Trim(t.dcPath, "/") + "/" + folderKind.segment + "/" + path
	}
	var ref *types.ManagedObjectReference
	err = p.s.read(ctx, func(c *conn) error {
		res, err := methods.FindByInventoryPath(ctx, c, &types.FindByInventoryPath{
			This: *c.ServiceContent.SearchIndex, InventoryPath: path,
		})
		if err == nil {
			ref = res.Returnval
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("find %q: %w", want, err)
	}
	if ref != nil && ref.Type != "VirtualMachine" {
		return nil, refuse("%q is %s, not a VM or template", want, p.nameOf(*ref))
	}
	if ref == nil && !strings.Contains(want, "/") {
		return p.findVMByName(ctx, t, want)
	}
	return ref, nil
}

// findVMByName looks through the names of all VMs of the datacenter.
func (p *Provider) findVMByName(ctx context.Context, t *tree, name string) (*types.ManagedObjectReference, error) {
	root, _ := t.dc.props[folderKind.folder].(types.ManagedObjectReference)
	objects, err := p.s.retrieve(ctx, types.PropertyFilterSpec{
		PropSet: []types.PropertySpec{{Type: "VirtualMachine", PathSet: []string{"name", "parent"}}},
		ObjectSet: []types.ObjectSpec{{
			Obj: root, Skip: types.NewBool(true),
			SelectSet: []types.BaseSelectionSpec{step("children", "Folder", "childEntity", "children")},
		}},
	})
	if err != nil {
		return nil, fmt.Errorf("find %q: %w", name, err)
	}
	var found []place
	var paths []string
	for _, o := range objects {
		if pl := newPlace(o); pl.called(name) {
			found = append(found, pl)
			paths = append(paths, t.path(pl.parent)+"/"+pl.name)
		}
	}
	switch len(found) {
	case 0:
		return nil, nil
	case 1:
		return &found[0].ref, nil
	}
	return nil, refuse("template %q is ambiguous: it may be %s; give the path", name, list(paths))
}
