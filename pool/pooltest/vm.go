package pooltest

import (
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
