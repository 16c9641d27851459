package vsphere

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/poolready/poolready/pool"
)

// Clone implements pool.Provider. A linked clone lives on its source's datastore, and cannot grow
// its disk; a full one is made of the source's present state. What was made is read back: a clone
// that is not linked as requested, or has other MACs, is removed again and an error.
func (p *Provider) Clone(ctx context.Context, spec pool.CloneSpec) (string, error) {
	op := operation{name: "clone", object: fmt.Sprintf("%s to %q", p.sourceName(spec), spec.VM.Name)}
	if spec.Snapshot != "" {
		op.kind = "linked clone"
	}

	src, err := p.source(ctx, spec)
	if err != nil {
		return "", p.fail(op, err)
	}
	op.entity = src.vm
	if src.snapshot == nil {
		op.bound = p.cfg.cloneTimeout()
	}
	var vm types.ManagedObjectReference
	for try := 1; ; try++ {
		vm, err = p.cloneInto(ctx, op, src, spec)
		f, gone := fault[*types.ManagedObjectNotFound](err)
		gone = gone && f.Obj != src.vm && f.Obj.Type != "VirtualMachineSnapshot"
		if try > 1 || !gone && !hostLeft(err) {
			break
		}
		p.forgetPlaces(spec.Set) // removed since, and perhaps recreated; or the host no longer takes VMs
	}
	if err != nil {
		return "", err
	}
	p.learn(vm, spec.VM.Name)
	if err := p.inspect(ctx, vm, spec); err != nil {
		return "", p.fail(op, err)
	}
	return vm.Value, nil
}

func (p *Provider) sourceName(spec pool.CloneSpec) string {
	if spec.Template {
		return fmt.Sprintf("template %q", spec.Source)
	}
	return p.label(spec.Source)
}

// cloneInto makes the clone in its folder, which is made if need be.
func (p *Provider) cloneInto(ctx context.Context, op operation, src *source, spec pool.CloneSpec) (types.ManagedObjectReference, error) {
	none := types.ManagedObjectReference{}
	var at location
	var host *types.ManagedObjectReference
	if err := p.lookUp(ctx, func(t *tree) (err error) {
		if at, err = t.locate(p.cfg, spec.VM); err == nil {
			host, err = p.host(t, at)
		}
		return err
	}); err != nil {
		return none, p.fail(op, err)
	}
	nonce := rand.Text()
	clone, err := cloneSpec(src, at, spec, nonce)
	if err != nil {
		return none, p.fail(op, err)
	}
	folder, err := p.makeFolder(ctx, spec.Set, spec.VM.Folder)
	if err != nil {
		return none, p.fail(op, err)
	}
	clone.Location.Folder, clone.Location.Host = &folder, host

	// find returns the VM of that name in the folder and whether this very call made it.
	find := func(ctx context.Context) (*types.ManagedObjectReference, bool, error) {
		ref, err := p.child(ctx, folder, spec.VM.Name)
		if err != nil || ref == nil || ref.Type != "VirtualMachine" {
			return nil, false, err
		}
		// While it is being made, its owner is unknown.
		b := p.s.backoff()
		vm, err := p.readVM(ctx, *ref, "config.extraConfig", "config.uuid")
		for err == nil && vm.Config == nil && b.wait(ctx, errBeingMade) {
			vm, err = p.readVM(ctx, *ref, "config.extraConfig", "config.uuid")
		}
		if isGone(err, *ref) {
			return nil, false, nil
		}
		if err != nil {
			return nil, false, err
		}
		return ref, extra(vm, nonceKey) == nonce, nil
	}
	op.submit = func(ctx context.Context, c *conn) (types.ManagedObjectReference, error) {
		res, err := methods.CloneVM_Task(ctx, c, &types.CloneVM_Task{This: src.vm, Folder: folder, Name: spec.VM.Name, Spec: clone})
		if err != nil {
			return none, err
		}
		return res.Returnval, nil
	}
	op.look = func(ctx context.Context) (bool, types.AnyType, error) {
		ref, mine, err := find(ctx)
		if err != nil || !mine {
			return false, nil, err
		}
		return true, *ref, nil
	}
	op.accept = func(ctx context.Context, err error, lost bool) (bool, types.AnyType, error) {
		if !has[*types.DuplicateName](err) {
			return false, nil, nil
		}
		if lost { // the clone whose answer was lost may have appeared since
			ref, mine, findErr := find(ctx)
			if findErr != nil {
				return false, nil, findErr
			}
			if mine {
				return true, *ref, nil
			}
		}
		return false, nil, exists(err)
	}
	result, err := p.perform(ctx, op)
	if err != nil {
		return none, err
	}
	if ref, ok := result.(types.ManagedObjectReference); ok {
		return ref, nil
	}
	// The task ended well without saying what it made.
	ref, mine, err := find(ctx)
	if err == nil && !mine {
		err = refuse("vCenter says that it is done, but the VM is not there")
	}
	if err != nil {
		return none, p.fail(op, err)
	}
	return *ref, nil
}

// readVM reads properties of one VM.
func (p *Provider) readVM(ctx context.Context, ref types.ManagedObjectReference, props ...string) (mo.VirtualMachine, error) {
	objects, err := p.s.retrieve(ctx, types.PropertyFilterSpec{
		PropSet:   []types.PropertySpec{{Type: "VirtualMachine", PathSet: props}},
		ObjectSet: []types.ObjectSpec{{Obj: ref}},
	})
	if err != nil {
		return mo.VirtualMachine{}, err
	}
	if len(objects) == 0 {
		var nothing mo.VirtualMachine
		nothing.Self = ref
		return nothing, nil
	}
	return asVM(objects[0])
}

// inspect makes sure that the clone is what was requested, and removes one that is not.
func (p *Provider) inspect(ctx context.Context, ref types.ManagedObjectReference, spec pool.CloneSpec) error {
	vm, err := p.readNew(ctx, ref)
	if err != nil {
		return fmt.Errorf("read the new VM: %w", err)
	}
	if wrong := differs(vm, spec); wrong != "" {
		// It is certainly ours, and must not pass for what it is not.
		cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		if err := p.Destroy(cleanup, ref.Value); err != nil {
			return fmt.Errorf("%s, and the VM cannot be removed: %w", wrong, err)
		}
		return refuse("%s; the VM was removed again", wrong)
	}
	if err := p.claim(ctx, vm); err != nil {
		return err
	}
	p.heard(vm)
	if macs := macsOf(vm); len(macs) > 0 {
		p.watcher.state(ref, func(s *vmState) { s.firstMAC = macs[0] })
		t, err := p.inventory(ctx, time.Time{})
		if err != nil {
			return err
		}
		p.wired(t, vm)
	}
	return nil
}

// differs says how the VM is not what spec says, or "".
func differs(vm mo.VirtualMachine, spec pool.CloneSpec) string {
	if vm.Config == nil {
		return "the new VM has no configuration that could be checked"
	}
	if spec.Snapshot != "" {
		for _, dev := range vm.Config.Hardware.Device {
			if disk, ok := dev.(*types.VirtualDisk); ok && len(chainOf(disk.Backing)) < 2 {
				return "the clone is not linked: its disk has no parent, it is a full copy"
			}
		}
	}
	if len(spec.VM.NICs) == 0 {
		return ""
	}
	macs := macsOf(vm)
	if len(macs) != len(spec.VM.NICs) {
		return fmt.Sprintf("the clone has %d NICs instead of %d", len(macs), len(spec.VM.NICs))
	}
	for i, nic := range spec.VM.NICs {
		if nic.MAC != "" && normalMAC(nic.MAC) != macs[i] {
			return fmt.Sprintf("NIC %d of the clone has the MAC %s instead of %s", i, macs[i], nic.MAC)
		}
	}
	return ""
}
