package vsphere

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/poolready/poolready/pool"
)

// Privileges that building and using pools takes, by the object they are needed on.
var (
	folderPrivileges = []string{
		"VirtualMachine.Inventory.Create", "VirtualMachine.Inventory.CreateFromExisting", "VirtualMachine.Inventory.Delete",
		"VirtualMachine.Provisioning.Clone",
		"VirtualMachine.Config.AdvancedConfig", "VirtualMachine.Config.Annotation", "VirtualMachine.Config.AddRemoveDevice",
		"VirtualMachine.Config.EditDevice", "VirtualMachine.Config.CPUCount", "VirtualMachine.Config.Memory",
		"VirtualMachine.Config.Settings", "VirtualMachine.Config.Rename",
		"VirtualMachine.Interact.PowerOn", "VirtualMachine.Interact.PowerOff", "VirtualMachine.Interact.DeviceConnection",
		"VirtualMachine.State.CreateSnapshot", "VirtualMachine.State.RevertToSnapshot",
	}
	templatePrivileges  = []string{"VirtualMachine.Provisioning.DeployTemplate"}
	sourcePrivileges    = []string{"VirtualMachine.Provisioning.Clone"} // of a source that is a VM
	growPrivileges      = []string{"VirtualMachine.Config.DiskExtend"}
	newFolderPrivileges = []string{"Folder.Create"}
	poolPrivileges      = []string{"Resource.AssignVMToPool"}
	datastorePrivileges = []string{"Datastore.AllocateSpace"}
	networkPrivileges   = []string{"Network.Assign"}
)

// needs gathers what a preflight has to ask vCenter for.
type needs struct {
	privileges map[types.ManagedObjectReference][]string
	order      []types.ManagedObjectReference
}

func (n *needs) on(ref types.ManagedObjectReference, privileges ...string) {
	if ref.Value == "" {
		return
	}
	if _, ok := n.privileges[ref]; !ok {
		n.order = append(n.order, ref)
	}
	for _, p := range privileges {
		if !slices.Contains(n.privileges[ref], p) {
			n.privileges[ref] = append(n.privileges[ref], p)
		}
	}
}

// Preflight implements pool.Provider. Privileges are those of the session as vCenter reports them
// on each object; a name counts as taken if something in the folder where the VM is to go has it
// and CloneSpec.Owner is not its owner.
func (p *Provider) Preflight(ctx context.Context, clones []pool.CloneSpec) error {
	var errs []error
	seen := map[string]bool{}
	report := func(err error) {
		if err != nil && !seen[err.Error()] {
			seen[err.Error()] = true
			errs = append(errs, err)
		}
	}
	p.placeLedgers(clones)
	need := &needs{privileges: map[types.ManagedObjectReference][]string{}}
	if err := p.preflightPlaces(ctx, clones, need, report); err != nil {
		return p.errorf(err, "preflight")
	}
	if err := p.preflightSources(ctx, clones, need, report); err != nil {
		return p.errorf(err, "preflight")
	}
	if err := p.preflightNames(ctx, clones, need, report); err != nil {
		return p.errorf(err, "preflight")
	}
	if err := p.preflightNeighbours(ctx, clones, report); err != nil {
		return p.errorf(err, "preflight")
	}
	if err := p.preflightPrivileges(ctx, need, report); err != nil {
		return p.errorf(err, "preflight")
	}
	return p.errorf(errors.Join(errs...), "preflight")
}

// placeLedgers notes where the sets' VMs are to go: their ledgers go there, too.
func (p *Provider) placeLedgers(clones []pool.CloneSpec) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range clones {
		if _, ok := p.ledgers[c.Set]; !ok {
			p.ledgers[c.Set] = pool.VM{Datastore: c.VM.Datastore, ResourcePool: c.VM.ResourcePool}
		}
	}
}

// preflightPlaces finds everything that the clones name. An error returned, here and below, is
// one that ends the preflight.
func (p *Provider) preflightPlaces(ctx context.Context, clones []pool.CloneSpec, need *needs, report func(error)) error {
	var last []error
	err := p.lookUp(ctx, func(t *tree) error {
		last = nil
		for _, c := range clones {
			at, err := t.locate(p.cfg, c.VM)
			if err != nil {
				last = append(last, fmt.Errorf("VM %q: %w", c.VM.Name, err))
			} else if hosts, why := t.reach(at); len(hosts) == 0 && why != "" {
				last = append(last, fmt.Errorf("VM %q: %w", c.VM.Name, t.unreachable(at, why)))
			}
			need.on(at.datastore.ref, datastorePrivileges...)
			need.on(at.pool.ref, poolPrivileges...)
			for _, nic := range c.VM.NICs {
				if net, err := t.find(networkKind, first(nic.Network, p.cfg.Network)); err == nil {
					need.on(net.ref, networkPrivileges...)
				}
			}
		}
		return errors.Join(last...)
	})
	if err != nil && len(last) == 0 {
		return err
	}
	for _, err := range last {
		report(err)
	}
	return nil
}

// preflightSources reads the sources that exist.
func (p *Provider) preflightSources(ctx context.Context, clones []pool.CloneSpec, need *needs, report func(error)) error {
	done := map[string]bool{}
	for _, c := range clones {
		key := fmt.Sprint(c.Source, c.Template, c.Snapshot, c.VM.DiskGiB, c.VM.CPUs, c.VM.MemoryMiB, len(c.VM.NICs))
		if c.Source == "" || done[key] {
			continue
		}
		done[key] = true
		src, err := p.source(ctx, c)
		if err != nil {
			if cl := classify(err); cl != permanent && cl != gone || ctx.Err() != nil {
				return err
			}
			report(fmt.Errorf("VM %q: %w", c.VM.Name, explain(err, p.nameOf)))
			continue
		}
		if src.template {
			need.on(src.vm, templatePrivileges...)
		} else {
			need.on(src.vm, sourcePrivileges...)
		}
		if err := src.fits(c.VM); err != nil {
			report(fmt.Errorf("VM %q: %w", c.VM.Name, err))
		}
		if len(c.VM.NICs) == 0 { // it gets those of the source, whose networks else are not its own
			t, err := p.inventory(ctx, time.Time{})
			if err != nil {
				return err
			}
			for _, dev := range src.devices {
				if card, ok := dev.(types.BaseVirtualEthernetCard); ok {
					need.on(t.networkRef(card.GetVirtualEthernetCard().Backing), networkPrivileges...)
				}
			}
		}
	}
	return nil
}

// preflightNames looks for VMs of others, and things that are no VMs, where the clones are to go.
func (p *Provider) preflightNames(ctx context.Context, clones []pool.CloneSpec, need *needs, report func(error)) error {
	sets := map[string]bool{}
	for _, c := range clones {
		if sets[c.Set] {
			continue
		}
		sets[c.Set] = true
		all := folderPrivileges
		if slices.ContainsFunc(clones, func(o pool.CloneSpec) bool { return o.Set == c.Set && o.VM.DiskGiB > 0 }) {
			all = slices.Concat(all, growPrivileges)
		}
		objects, folder, err := p.readSet(ctx, c.Set, append([]string{"name", "parent"}, identityProps...))
		var no *refusal
		switch {
		case errors.As(err, &no):
			report(err)
			continue
		case err != nil:
			return err
		case folder.Value == "":
			base, err := p.baseFolder(ctx)
			if errors.As(err, &no) {
				report(err)
				continue
			} else if err != nil {
				return err
			}
			need.on(base, all...)
			need.on(base, newFolderPrivileges...)
			continue
		}
		need.on(folder, all...)
		p.takenNames(c.Set, clones, objects, folder, need, report)
	}
	return nil
}

func (p *Provider) takenNames(set string, clones []pool.CloneSpec, objects []types.ObjectContent, folder types.ManagedObjectReference, need *needs, report func(error)) {
	folders := map[types.ManagedObjectReference]place{}
	for _, o := range objects {
		if o.Obj.Type == "Folder" && o.Obj != folder {
			folders[o.Obj] = newPlace(o)
		}
	}
	taken := map[string]types.ObjectContent{}
	for _, o := range objects {
		if o.Obj != folder {
			pl := newPlace(o)
			taken[pathIn(folders, pl.parent)+"/"+pl.name] = o
		}
	}
	for _, c := range clones {
		if c.Set != set {
			continue
		}
		at := ""
		if c.VM.Folder != "" {
			at = "/" + c.VM.Folder
			o, ok := taken[at]
			if !ok {
				need.on(folder, newFolderPrivileges...)
			} else if o.Obj.Type != "Folder" {
				report(fmt.Errorf("VM %q: the folder name %q is taken by %s; rename one of them", c.VM.Name, c.VM.Folder, p.nameOf(o.Obj)))
			}
		}
		o, ok := taken[at+"/"+c.VM.Name]
		if !ok {
			continue
		}
		if o.Obj.Type == "VirtualMachine" {
			vm, err := asVM(o)
			if err == nil && vm.Config != nil {
				owner, copyOf := ownerOf(vm)
				if owner == c.Owner {
					continue
				}
				if copyOf == c.Owner {
					report(fmt.Errorf("the name %q is taken by %s, a copy of the VM that was made for it; rename or remove the copy",
						c.VM.Name, p.nameOf(o.Obj)))
					continue
				}
			}
		}
		report(fmt.Errorf("the name %q is taken by %s, which was not made for this set; rename or remove it", c.VM.Name, p.nameOf(o.Obj)))
	}
}

// preflightPrivileges asks which of the privileges needed the user lacks.
func (p *Provider) preflightPrivileges(ctx context.Context, need *needs, report func(error)) error {
	var all []string
	for _, ref := range need.order {
		for _, priv := range need.privileges[ref] {
			if !slices.Contains(all, priv) {
				all = append(all, priv)
			}
		}
	}
	if len(all) == 0 {
		return nil
	}
	var answer []types.EntityPrivilege
	err := p.s.read(ctx, func(c *conn) error {
		res, err := methods.HasPrivilegeOnEntities(ctx, c, &types.HasPrivilegeOnEntities{
			This: *c.ServiceContent.AuthorizationManager, Entity: need.order, SessionId: c.key, PrivId: all,
		})
		if err == nil {
			answer = res.Returnval
		}
		return err
	})
	if _, ok := fault[types.BaseNoPermission](err); ok {
		// A user who may not read an object cannot ask for their privileges on it.
		report(explain(err, p.nameOf))
		return nil
	}
	if err != nil {
		return err
	}
	for _, a := range answer {
		var lacking []string
		for _, priv := range a.PrivAvailability {
			if !priv.IsGranted && slices.Contains(need.privileges[a.Entity], priv.PrivId) {
				lacking = append(lacking, priv.PrivId)
			}
		}
		if len(lacking) > 0 {
			report(refuse("the user lacks the privileges %s on %s; give them in a role there", strings.Join(lacking, ", "), p.nameOf(a.Entity)))
		}
	}
	return nil
}
