package vsphere

import (
	"context"
	"errors"
	"fmt"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"
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

// Destroy implements pool.Provider.
func (p *Provider) Destroy(ctx context.Context, id string) error {
	vm := vmRef(id)
	for cut := false; ; cut = true {
		_, err := p.perform(ctx, operation{
			name: "destroy", object: p.label(id), entity: vm,
			submit: func(ctx context.Context, c *conn) (types.ManagedObjectReference, error) {
				res, err := methods.Destroy_Task(ctx, c, &types.Destroy_Task{This: vm})
				if err != nil {
					return types.ManagedObjectReference{}, err
				}
				return res.Returnval, nil
			},
			look: func(ctx context.Context) (bool, types.AnyType, error) {
				_, err := p.s.retrieve(ctx, types.PropertyFilterSpec{
					PropSet:   []types.PropertySpec{{Type: "VirtualMachine", PathSet: []string{"name"}}},
					ObjectSet: []types.ObjectSpec{{Obj: vm}},
				})
				if isGone(err, vm) {
					return true, nil, nil
				}
				return false, nil, err
			},
			accept: func(_ context.Context, err error, _ bool) (bool, types.AnyType, error) {
				return isGone(err, vm), nil, nil
			},
		})
		if err == nil {
			p.pump.forget(vm)
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

// isGone tells whether err says that this very object does not exist.
func isGone(err error, ref types.ManagedObjectReference) bool {
	f, ok := fault[*types.ManagedObjectNotFound](err)
	return ok && (f.Obj == ref || f.Obj.Value == "") && !errors.Is(err, errVanished)
}
