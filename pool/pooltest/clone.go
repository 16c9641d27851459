package pooltest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/poolready/poolready/pool"
)

// templateGiB is the size of the templates' disks.
const templateGiB = 10

// Place implements [pool.Provider].
func (p *Provider) Place(ctx context.Context, vms ...pool.VM) ([]pool.Placement, error) {
	var all []pool.Placement
	errs := []error{context.Cause(ctx)}
	for _, vm := range vms {
		at, err := p.place(vm)
		all, errs = append(all, at), append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, p.record("Place", "", err)
	}
	return all, p.record("Place", "", nil)
}

// place resolves where a VM is to lie.
func (p *Provider) place(vm pool.VM) (pool.Placement, error) {
	var errs []error
	find := func(kind, name string, in []string) string {
		if name == "" {
			return in[0]
		}
		if !slices.Contains(in, name) {
			errs = append(errs, fmt.Errorf("%s: unknown %s %q; want one of %q", vm.Name, kind, name, in))
		}
		return name
	}
	at := pool.Placement{
		Datastores:   []string{find("datastore", vm.Datastore, p.Datastores)},
		ResourcePool: find("resource pool", vm.ResourcePool, p.ResourcePools),
	}
	for _, n := range vm.NICs {
		at.Networks = append(at.Networks, find("network", n.Network, p.Networks))
	}
	return at, errors.Join(errs...)
}

// Preflight implements [pool.Provider].
func (p *Provider) Preflight(ctx context.Context, clones []pool.CloneSpec) error {
	errs := []error{context.Cause(ctx)}
	for _, c := range clones {
		at, err := p.place(c.VM)
		errs = append(errs, err)
		p.mu.Lock()
		if other := p.named(c.Set, c.VM.Folder, c.VM.Name); other != nil && other.owner != c.Owner {
			errs = append(errs, fmt.Errorf("%s: a VM of that name exists that is not ours", other.path()))
		}
		errs = append(errs, p.macsTaken(c, at, clones))
		if c.Source != "" {
			_, err := p.source(c, at)
			errs = append(errs, err)
		}
		p.mu.Unlock()
	}
	return p.record("Preflight", "", errors.Join(errs...))
}

// macsTaken returns an error if a VM on the same network has a static MAC that a clone is to have, unless
// one of the clones replaces it, or it is one of the set's that is off; with p.mu held.
func (p *Provider) macsTaken(c pool.CloneSpec, at pool.Placement, clones []pool.CloneSpec) error {
	for i, want := range c.VM.NICs {
		if want.MAC == "" || i >= len(at.Networks) {
			continue
		}
		for _, v := range p.vms {
			ours := slices.ContainsFunc(clones, func(c pool.CloneSpec) bool {
				return v.set == c.Set && (!v.on || v.owner == c.Owner && v.name == c.VM.Name)
			})
			has := slices.ContainsFunc(v.nics, func(n nic) bool {
				return strings.EqualFold(n.mac, want.MAC) && n.network == at.Networks[i]
			})
			if has && !ours {
				return fmt.Errorf("%s: its MAC %s is that of VM %s; give it another MAC, or remove that VM", c.VM.Name, want.MAC, v.path())
			}
		}
	}
	return nil
}

// named returns the VM of that name, or nil; with p.mu held.
func (p *Provider) named(set, folder, name string) *vm {
	for _, v := range p.vms {
		if v.set == set && v.folder == folder && v.name == name {
			return v
		}
	}
	return nil
}

// source returns what a clone starts as; with p.mu held.
func (p *Provider) source(c pool.CloneSpec, at pool.Placement) (*vm, error) {
	if c.Template {
		if !slices.Contains(p.templates, c.Source) {
			return nil, fmt.Errorf("template %q does not exist", c.Source)
		}
		return &vm{
			disk: p.Disk.Clone(), diskGiB: templateGiB, cpus: 1, memoryMiB: 1024, nics: []nic{{network: p.Networks[0]}},
		}, nil
	}
	s := p.vms[c.Source]
	if s == nil {
		return nil, fmt.Errorf("source %s: %w", c.Source, errGone)
	}
	from := &vm{disk: s.disk, diskGiB: s.diskGiB, cpus: s.cpus, memoryMiB: s.memoryMiB, nics: s.nics}
	if c.Snapshot != "" {
		i := s.snapshot(c.Snapshot)
		if i < 0 {
			return nil, fmt.Errorf("source %s has no snapshot %s", s.name, c.Snapshot)
		}
		if c.VM.DiskGiB > s.diskGiB {
			return nil, fmt.Errorf("the disk of a linked clone cannot grow from %d to %d GiB", s.diskGiB, c.VM.DiskGiB)
		}
		if at.Datastores[0] != s.datastore {
			return nil, fmt.Errorf("a linked clone lies on the datastore of its source, %s, not on %s", s.datastore, at.Datastores[0])
		}
		from.disk, from.nics, from.parent = s.snapshots[i].disk, s.snapshots[i].nics, s.id
	}
	from.disk = from.disk.Clone()
	return from, nil
}

// Clone implements [pool.Provider].
func (p *Provider) Clone(ctx context.Context, c pool.CloneSpec) (string, error) {
	id, err := p.clone(ctx, c)
	return id, p.record("Clone", c.VM.Name, err)
}

func (p *Provider) clone(ctx context.Context, c pool.CloneSpec) (string, error) {
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	at, err := p.place(c.VM)
	if err != nil {
		return "", err
	}
	if err := pool.CheckLease(ctx); err != nil {
		return "", err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return "", errClosed
	}
	if p.named(c.Set, c.VM.Folder, c.VM.Name) != nil {
		return "", pool.ErrExists
	}
	from, err := p.source(c, at)
	if err != nil {
		return "", err
	}
	n := p.next()
	v := &vm{
		id: fmt.Sprint("vm-", n), uuid: fmt.Sprintf("420a0000-0000-4000-8000-%012x", n),
		set: c.Set, folder: c.VM.Folder, name: c.VM.Name, owner: c.Owner, note: c.Note, problem: pool.BeingCreated,
		cpus: cmp.Or(c.VM.CPUs, from.cpus), memoryMiB: cmp.Or(c.VM.MemoryMiB, from.memoryMiB), diskGiB: cmp.Or(c.VM.DiskGiB, from.diskGiB),
		datastore: at.Datastores[0], pool: at.ResourcePool, disk: from.disk, parent: from.parent,
		reported: map[string][]netip.Addr{}, turn: make(chan struct{}, 1),
	}
	v.disk.SetSize(int64(v.diskGiB) << 30)
	for i, n := range c.VM.NICs {
		v.nics = append(v.nics, nic{strings.ToLower(n.MAC), at.Networks[i], plugged})
	}
	if len(c.VM.NICs) == 0 {
		for _, n := range from.nics {
			v.nics = append(v.nics, nic{"", n.network, plugged})
		}
	}
	for i := range v.nics {
		if v.nics[i].mac == "" {
			m := p.next()
			v.nics[i].mac = fmt.Sprintf("00:50:56:%02x:%02x:%02x", 0x80|m>>16&0x3f, m>>8&0xff, m&0xff)
		}
	}
	p.vms[v.id] = v // seen while it is being made
	v.turn <- struct{}{}
	p.broadcast()
	p.mu.Unlock()
	err = p.begin(ctx)
	p.mu.Lock()
	<-v.turn
	if err != nil {
		delete(p.vms, v.id)
		return "", err
	}
	v.problem = ""
	p.broadcast()
	return v.id, nil
}

// Clones implements [pool.Provider].
func (p *Provider) Clones(ctx context.Context, id string) ([]string, error) {
	name := p.nameOf(id)
	if ctx.Err() != nil {
		return nil, p.record("Clones", name, context.Cause(ctx))
	}
	p.mu.Lock()
	var err error
	if p.vms[id] == nil {
		err = errGone
	}
	all := p.children(id)
	p.mu.Unlock()
	return all, p.record("Clones", name, err)
}

// children returns the paths of the VMs whose disks depend on those of a VM; with p.mu held.
func (p *Provider) children(id string) (all []string) {
	for _, v := range p.vms {
		if v.parent == id {
			all = append(all, v.path())
		}
	}
	slices.Sort(all)
	return all
}
