package vsphere

import (
	"context"
	"errors"
	"fmt"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/poolready/poolready/pool"
)

func quoted(s string) string { return fmt.Sprintf("%q", s) }

// Rename implements pool.Provider.
func (p *Provider) Rename(ctx context.Context, id, name string) error {
	vm := vmRef(id)
	_, err := p.perform(ctx, operation{
		name: "rename", object: p.label(id) + " to " + quoted(name), entity: vm,
		submit: func(ctx context.Context, c *conn) (types.ManagedObjectReference, error) {
			res, err := methods.Rename_Task(ctx, c, &types.Rename_Task{This: vm, NewName: name})
			if err != nil {
				return types.ManagedObjectReference{}, err
			}
			return res.Returnval, nil
		},
		look: func(ctx context.Context) (bool, types.AnyType, error) {
			objects, err := p.s.retrieve(ctx, types.PropertyFilterSpec{
				PropSet:   []types.PropertySpec{{Type: "VirtualMachine", PathSet: []string{"name"}}},
				ObjectSet: []types.ObjectSpec{{Obj: vm}},
			})
			return err == nil && len(objects) == 1 && newPlace(objects[0]).name == name, nil, err
		},
		accept: func(_ context.Context, err error, _ bool) (bool, types.AnyType, error) {
			if dup, ok := fault[*types.DuplicateName](err); ok {
				return dup.Object == vm, nil, exists(err)
			}
			return false, nil, nil
		},
	})
	if err == nil {
		p.learn(vm, name)
	}
	return err
}

// Annotate implements pool.Provider. The note "" becomes a space, since the API takes "" for no
// change.
func (p *Provider) Annotate(ctx context.Context, id, note string) error {
	vm := vmRef(id)
	if note == "" {
		note = " "
	}
	_, err := p.perform(ctx, operation{
		name: "annotate", object: p.label(id), entity: vm,
		submit: func(ctx context.Context, c *conn) (types.ManagedObjectReference, error) {
			res, err := methods.ReconfigVM_Task(ctx, c, &types.ReconfigVM_Task{
				This: vm, Spec: types.VirtualMachineConfigSpec{Annotation: note},
			})
			if err != nil {
				return types.ManagedObjectReference{}, err
			}
			return res.Returnval, nil
		},
		look: func(context.Context) (bool, types.AnyType, error) { return false, nil, nil }, // twice is as well
	})
	return err
}

// Destroy implements pool.Provider. What depends on the VM's disks is read first: it is not known what
// a vCenter leaves of a linked clone whose parent is removed, and cutting the power cannot be undone.
func (p *Provider) Destroy(ctx context.Context, id string) error {
	vm := vmRef(id)
	op := operation{name: "destroy", object: p.label(id), entity: vm}
	op.submit = func(ctx context.Context, c *conn) (types.ManagedObjectReference, error) {
		res, err := methods.Destroy_Task(ctx, c, &types.Destroy_Task{This: vm})
		if err != nil {
			return types.ManagedObjectReference{}, err
		}
		return res.Returnval, nil
	}
	op.look = func(ctx context.Context) (bool, types.AnyType, error) {
		_, err := p.s.retrieve(ctx, types.PropertyFilterSpec{
			PropSet:   []types.PropertySpec{{Type: "VirtualMachine", PathSet: []string{"name"}}},
			ObjectSet: []types.ObjectSpec{{Obj: vm}},
		})
		if isGone(err, vm) {
			return true, nil, nil
		}
		return false, nil, err
	}
	op.accept = func(ctx context.Context, err error, _ bool) (bool, types.AnyType, error) {
		if has[*types.ResourceInUse](err) { // as by a clone that was begun since
			_, err := p.childless(ctx, vm)
			return false, nil, err
		}
		return isGone(err, vm), nil, nil
	}
	on, err := p.childless(ctx, vm)
	if isGone(err, vm) {
		return nil
	} else if err != nil {
		return p.fail(op, err)
	}
	if on {
		if _, err := p.powerOff(ctx, id); isGone(err, vm) {
			return nil
		} else if err != nil {
			return err
		}
	}
	for cut := false; ; cut = true {
		_, err := p.perform(ctx, op)
		if err == nil || isGone(err, vm) {
			p.watcher.forget(vm)
			return nil
		}
		if cut || !has[*types.InvalidPowerState](err) {
			return err
		}
		if _, err := p.powerOff(ctx, id); isGone(err, vm) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// childless returns an error that names the VMs whose disks depend on those of vm, if there are any; on
// reports whether vm runs.
// One whose disks cannot be read counts for golden (see Clones), but here it would keep everything
// on its datastore from being destroyed.
func (p *Provider) childless(ctx context.Context, vm types.ManagedObjectReference) (on bool, err error) {
	c, err := p.clonesOf(ctx, vm)
	switch {
	case errors.Is(err, errUnreadable):
		return false, nil // it is being made, or vCenter will not remove it
	case err != nil:
		return false, err
	case len(c.sure)+len(c.making) == 0:
		return c.on, nil
	}
	paths, err := p.vmPaths(ctx, c.sure)
	if err != nil {
		return false, err
	}
	return false, refuse("%w: %s; destroy those first, or give them disks of their own (in the vSphere client: Consolidate or migrate)",
		pool.ErrHasClones, list(append(paths, c.making...)))
}

// isGone reports whether err says that this very object does not exist.
func isGone(err error, ref types.ManagedObjectReference) bool {
	f, ok := fault[*types.ManagedObjectNotFound](err)
	return ok && (f.Obj == ref || f.Obj.Value == "") && !errors.Is(err, errVanished)
}
