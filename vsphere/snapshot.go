package vsphere

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/poolready/poolready/pool"
)

// Snapshot implements pool.Provider. Two snapshots of one VM with the same name and record are the
// same one: the second call may return the first's ID if vCenter's answer was lost.
func (p *Provider) Snapshot(ctx context.Context, id, name, record string) (string, error) {
	s, err := p.snapshot(ctx, id, name, record, false)
	return s.ID, err
}

// SnapshotRunning implements pool.Provider. vCenter takes a snapshot with memory of a VM that is
// off without a word, and without memory; so it is looked at before and after.
func (p *Provider) SnapshotRunning(ctx context.Context, id, name, record string) (string, error) {
	vm := vmRef(id)
	fail := func(err error) (string, error) {
		return "", p.errorf(err, "snapshot %q of %s, with memory", name, p.label(id))
	}
	power, err := p.readPower(ctx, vm)
	if err == nil && power != types.VirtualMachinePowerStatePoweredOn {
		err = refuse("the VM does not run (%s)", power)
	}
	if err != nil {
		return fail(err)
	}
	snapshot, err := p.snapshot(ctx, id, name, record, true)
	if err != nil {
		return "", err
	}
	if !snapshot.Running {
		return fail(refuse("it has no memory; did the VM stop meanwhile?"))
	}
	return snapshot.ID, nil
}

// snapshot takes a snapshot and returns it as vCenter has stored it.
func (p *Provider) snapshot(ctx context.Context, id, name, record string, memory bool) (pool.Snapshot, error) {
	vm := vmRef(id)
	none := pool.Snapshot{}
	op := operation{name: "snapshot", object: quoted(name) + " of " + p.label(id), entity: vm, once: true}
	if memory {
		op.kind = "snapshot with memory"
	}
	op.submit = func(ctx context.Context, c *conn) (types.ManagedObjectReference, error) {
		// CreateSnapshotEx_Task would add only how to quiesce, and old servers lack it.
		res, err := methods.CreateSnapshot_Task(ctx, c, &types.CreateSnapshot_Task{
			This: vm, Name: escaped(name), Description: record, Memory: memory, Quiesce: false,
		})
		if err != nil {
			return types.ManagedObjectReference{}, err
		}
		return res.Returnval, nil
	}
	// A record that vCenter cut is this call's all the same.
	op.look = func(ctx context.Context) (bool, types.AnyType, error) {
		all, err := p.readSnapshots(ctx, vm)
		for _, s := range all {
			if s.Name == name && strings.HasPrefix(record, s.Record) && (s.Record != "" || record == "") {
				return true, snapshotRef(s.ID), nil
			}
		}
		return false, nil, err
	}
	result, err := p.perform(ctx, op)
	if refusesRecord(err) {
		return none, p.fail(op, refuse("vCenter does not take a description of %d bytes: %w; %w", len(record), pool.ErrRecord, err))
	}
	if err != nil {
		return none, err
	}
	ref, known := result.(types.ManagedObjectReference)
	all, err := p.readSnapshots(ctx, vm)
	if err != nil {
		return none, p.fail(op, fmt.Errorf("read it back: %w", err))
	}
	for _, s := range slices.Backward(all) {
		if known && s.ID != ref.Value || !known && s.Name != name {
			continue
		}
		if s.Record != record {
			return none, p.fail(op, refuse("%w: vCenter kept %d bytes of %d; remove snapshot %s by hand",
				pool.ErrRecord, len(s.Record), len(record), s.ID))
		}
		return s, nil
	}
	return none, p.fail(op, refuse("vCenter says that it is taken, but there is none of that name"))
}

// refusesRecord reports whether err is a fault about the description of a snapshot.
func refusesRecord(err error) bool {
	f, ok := fault[*types.InvalidArgument](err)
	return ok && strings.Contains(strings.ToLower(f.InvalidProperty), "description")
}

func snapshotRef(id string) types.ManagedObjectReference {
	return types.ManagedObjectReference{Type: "VirtualMachineSnapshot", Value: id}
}

// readSnapshots reads the VM's snapshots, parents first.
func (p *Provider) readSnapshots(ctx context.Context, vm types.ManagedObjectReference) ([]pool.Snapshot, error) {
	vms, err := p.snaps.read(ctx, vm, p.reads("snapshot"))
	if err != nil {
		return nil, err
	}
	read := vms[vm]
	if read.Snapshot == nil { // or no VM
		if read, err = p.readVM(ctx, vm, "snapshot"); err != nil || read.Snapshot == nil {
			return nil, err
		}
	}
	return snapshots(nil, read.Snapshot.RootSnapshotList), nil
}

// Revert implements pool.Provider. Reverting twice is reverting, so a lost answer is simply
// repeated.
func (p *Provider) Revert(ctx context.Context, id, snapshot string) error {
	vm := vmRef(id)
	defer func() { // power, tools and addresses are others now
		p.watcher.state(vm, (*vmState).reverted)
		p.watcher.mistrust(vm)
	}()
	_, err := p.perform(ctx, operation{
		name: "revert", object: p.label(id) + " to " + snapshot, entity: vm,
		submit: func(ctx context.Context, c *conn) (types.ManagedObjectReference, error) {
			res, err := methods.RevertToSnapshot_Task(ctx, c, &types.RevertToSnapshot_Task{This: snapshotRef(snapshot)})
			if err != nil {
				return types.ManagedObjectReference{}, err
			}
			return res.Returnval, nil
		},
		look: func(context.Context) (bool, types.AnyType, error) { return false, nil, nil },
	})
	return err
}
