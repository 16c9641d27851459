package pooltest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/poolready/poolready/pool"
	"github.com/poolready/poolready/sshx/sshtest"
)

// A vm is one VM of a Provider.
type vm struct {
	id, uuid          string
	set, folder, name string
	owner, note       string
	problem           string
	cpus, memoryMiB   int
	diskGiB           int
	datastore, pool   string
	nics              []nic
	disk              *sshtest.Disk
	parent            string // the ID of the VM that its disk's parent belongs to, or ""
	snapshots         []snapshot
	on                bool
	bootedAt          time.Time
	guest             *guest
	reverts           int

	reported map[string][]netip.Addr // what tools last said, by MAC
	fresh    bool                    // they said so since the VM was powered on

	turn chan struct{} // holds a token while an operation is under way
}

// A nic is a network interface as its VM has it; state.Connected counts while the VM is on.
type nic struct {
	mac, network string
	state        pool.NICState
}

var plugged = pool.NICState{Connected: true, AtPowerOn: true, GuestControl: true}

type snapshot struct {
	pool.Snapshot
	disk     *sshtest.Disk
	nics     []nic
	note     string
	memory   []byte
	reverts  int // of the VM when the guest that memory is of got its addresses
	bootedAt time.Time
}

// maxSnapshots is how deep a chain of snapshots may be, as in vSphere.
const maxSnapshots = 32

// templateGiB is the size of the templates' disks.
const templateGiB = 10

func (v *vm) path() string { return "/" + path.Join(v.set, v.folder, v.name) }

func (v *vm) info() pool.VMInfo {
	i := pool.VMInfo{
		ID: v.id, Name: v.name, Folder: v.folder, Owner: v.owner, UUID: v.uuid, On: v.on, Problem: v.problem,
		Linked: v.parent != "", NICs: map[string]pool.NICState{}, Addrs: map[string][]netip.Addr{},
		Placement: pool.Placement{Datastores: []string{v.datastore}, ResourcePool: v.pool},
	}
	for _, n := range v.nics {
		i.MACs = append(i.MACs, n.mac)
		i.Placement.Networks = append(i.Placement.Networks, n.network)
		i.NICs[n.mac] = v.state(n)
	}
	for _, s := range v.snapshots {
		i.Snapshots = append(i.Snapshots, s.Snapshot)
	}
	for mac, addrs := range v.reported {
		i.Addrs[mac] = slices.Clone(addrs)
	}
	return i
}

func (v *vm) state(n nic) pool.NICState {
	n.state.Connected = n.state.Connected && v.on
	return n.state
}

// Inventory implements [pool.Provider].
func (p *Provider) Inventory(ctx context.Context, set string, templates ...string) (*pool.Inventory, error) {
	inv := &pool.Inventory{Templates: map[string]string{}}
	if ctx.Err() != nil {
		return nil, p.record("Inventory", set, context.Cause(ctx))
	}
	p.mu.Lock()
	for _, v := range p.vms {
		if v.set == set {
			inv.VMs = append(inv.VMs, v.info())
		}
	}
	p.mu.Unlock()
	for _, name := range templates {
		if slices.Contains(p.templates, name) {
			inv.Templates[name] = "template " + name
		}
	}
	return inv, p.record("Inventory", set, nil)
}

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

func (v *vm) snapshot(id string) int {
	return slices.IndexFunc(v.snapshots, func(s snapshot) bool { return s.ID == id })
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

// onVM makes a change to a VM, under p.mu.
func (p *Provider) onVM(ctx context.Context, method, id string, change func(v *vm) error) error {
	name := p.nameOf(id)
	v, done, err := p.vm(ctx, id)
	if err != nil {
		return p.record(method, name, err)
	}
	defer done()
	if err := p.begin(ctx); err != nil {
		return p.record(method, name, err)
	}
	p.mu.Lock()
	err = change(v)
	p.broadcast()
	p.mu.Unlock()
	return p.record(method, name, err)
}

// Rename implements [pool.Provider].
func (p *Provider) Rename(ctx context.Context, id, name string) error {
	return p.onVM(ctx, "Rename", id, func(v *vm) error {
		if other := p.named(v.set, v.folder, name); other != nil && other != v {
			return pool.ErrExists
		}
		v.name = name
		return nil
	})
}

// Annotate implements [pool.Provider].
func (p *Provider) Annotate(ctx context.Context, id, note string) error {
	return p.onVM(ctx, "Annotate", id, func(v *vm) error {
		v.note = note
		return nil
	})
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

// children returns the paths of the VMs whose disks hang on those of a VM; with p.mu held.
func (p *Provider) children(id string) (all []string) {
	for _, v := range p.vms {
		if v.parent == id {
			all = append(all, v.path())
		}
	}
	slices.Sort(all)
	return all
}

// Destroy implements [pool.Provider]; it removes shards of ledgers, too.
func (p *Provider) Destroy(ctx context.Context, id string) error {
	name := p.nameOf(id)
	if ctx.Err() != nil {
		return p.record("Destroy", name, context.Cause(ctx))
	}
	v, done, err := p.vm(ctx, id)
	if errors.Is(err, errGone) {
		p.mu.Lock()
		for _, shards := range p.ledgers {
			maps.DeleteFunc(shards, func(_ string, s pool.Shard) bool { return s.ID == id })
		}
		p.mu.Unlock()
		return p.record("Destroy", name, nil)
	}
	if err != nil {
		return p.record("Destroy", name, err)
	}
	defer done()
	err = p.begin(ctx)
	p.mu.Lock()
	children := p.children(id)
	p.mu.Unlock()
	switch {
	case err != nil:
	case len(children) > 0:
		err = fmt.Errorf("%w: %s", pool.ErrHasClones, strings.Join(children, ", "))
	default:
		p.cutPower(v)
		p.mu.Lock()
		delete(p.vms, id)
		p.broadcast()
		p.mu.Unlock()
	}
	return p.record("Destroy", name, err)
}

// Snapshot implements [pool.Provider].
func (p *Provider) Snapshot(ctx context.Context, id, name, record string) (string, error) {
	return p.take(ctx, "Snapshot", id, pool.Snapshot{Name: name, Record: record})
}

// SnapshotRunning implements [pool.Provider].
func (p *Provider) SnapshotRunning(ctx context.Context, id, name, record string) (string, error) {
	return p.take(ctx, "SnapshotRunning", id, pool.Snapshot{Name: name, Record: record, Running: true})
}

func (p *Provider) take(ctx context.Context, method, id string, s pool.Snapshot) (string, error) {
	err := p.onVM(ctx, method, id, func(v *vm) error {
		if len(v.snapshots) == maxSnapshots {
			return fmt.Errorf("the VM has %d snapshots, and more are not possible", maxSnapshots)
		}
		shot := snapshot{nics: slices.Clone(v.nics), note: v.note, bootedAt: v.bootedAt}
		if s.Running {
			if v.guest == nil || !v.guest.up {
				return errors.New("the VM does not run, so it has no memory")
			}
			g := v.guest
			p.mu.Unlock() // it may wait for programs that are ending
			disk, memory, err := g.host.Freeze()
			p.mu.Lock()
			if err != nil {
				return err
			}
			shot.disk, shot.memory, shot.reverts = disk, memory, g.reverts
		} else {
			shot.disk = v.disk.Clone()
		}
		s.ID, s.Created = fmt.Sprint("snapshot-", p.next()), time.Now()
		shot.Snapshot = s
		v.snapshots = append(v.snapshots, shot)
		return nil
	})
	if err != nil {
		return "", err
	}
	return s.ID, nil
}

// Revert implements [pool.Provider].
func (p *Provider) Revert(ctx context.Context, id, snapshot string) error {
	return p.onVM(ctx, "Revert", id, func(v *vm) error {
		i := v.snapshot(snapshot)
		if i < 0 {
			return fmt.Errorf("the VM has no snapshot %s", snapshot)
		}
		s := v.snapshots[i]
		p.mu.Unlock()
		p.cutPower(v)
		p.mu.Lock()
		v.disk, v.nics, v.note = s.disk.Clone(), slices.Clone(s.nics), s.note
		v.reverts++
		if !s.Running {
			return nil
		}
		v.on, v.fresh, v.bootedAt = true, true, s.bootedAt
		return p.resume(v, s)
	})
}

// ConnectNIC implements [pool.NICConnector].
func (p *Provider) ConnectNIC(ctx context.Context, id, mac string, connected bool) error {
	return p.onVM(ctx, "ConnectNIC", id, func(v *vm) error {
		i := v.nic(mac)
		if i < 0 {
			return fmt.Errorf("the VM has no NIC %s", mac)
		}
		v.nics[i].state = pool.NICState{}
		if connected {
			v.nics[i].state = plugged
		}
		if v.guest != nil {
			p.net.cut(v.guest, v.nics[i].mac)
			p.report(v)
		}
		return nil
	})
}

// NICState implements [pool.NICConnector].
func (p *Provider) NICState(ctx context.Context, id, mac string) (pool.NICState, error) {
	name := p.nameOf(id)
	if ctx.Err() != nil {
		return pool.NICState{}, p.record("NICState", name, context.Cause(ctx))
	}
	var state pool.NICState
	err := errGone
	p.mu.Lock()
	if v := p.vms[id]; v != nil {
		err = fmt.Errorf("the VM has no NIC %s", mac)
		if i := v.nic(mac); i >= 0 {
			state, err = v.state(v.nics[i]), nil
		}
	}
	p.mu.Unlock()
	return state, p.record("NICState", name, err)
}

// nic returns the index of the NIC of that MAC, "" being the first one, or -1.
func (v *vm) nic(mac string) int {
	return slices.IndexFunc(v.nics, func(n nic) bool { return mac == "" || n.mac == strings.ToLower(mac) })
}

// Diagnose implements [pool.Provider].
func (p *Provider) Diagnose(ctx context.Context, id string) (pool.Diagnosis, error) {
	name := p.nameOf(id)
	if ctx.Err() != nil {
		return pool.Diagnosis{}, p.record("Diagnose", name, context.Cause(ctx))
	}
	p.mu.Lock()
	d := pool.Diagnosis{Gone: true}
	if v := p.vms[id]; v != nil {
		d = pool.Diagnosis{On: v.on, Tools: v.on && v.guest != nil && v.fresh, Problem: v.problem}
	}
	p.mu.Unlock()
	return d, p.record("Diagnose", name, nil)
}
