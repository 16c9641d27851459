package vsphere

import (
	"context"
	"sync"
	"time"

	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// batchDelay is how long a reading of a VM waits for others to go along with.
const batchDelay = 10 * time.Millisecond

// newVMProps are what is read of a VM that was just made.
var newVMProps = append([]string{
	"config.hardware.device", "config.files", "config.extraConfig", "config.instanceUuid",
}, powerProps...)

// batches makes readings of single VMs that are requested at about the same time one call. Its
// zero value is ready to use.
type batches[T any] struct {
	mu   sync.Mutex
	next *batch[T] // still to be read
}

type batch[T any] struct {
	refs []types.ManagedObjectReference
	done chan struct{} // closed when what follows is set
	res  T
	err  error
}

// read returns the result of a call of all that includes ref and begins after read did.
func (b *batches[T]) read(
	ctx context.Context, ref types.ManagedObjectReference,
	all func(context.Context, []types.ManagedObjectReference) (T, error),
) (res T, err error) {
	b.mu.Lock()
	x, first := b.next, false
	if x == nil {
		x, first = &batch[T]{done: make(chan struct{})}, true
		b.next = x
	}
	x.refs = append(x.refs, ref)
	b.mu.Unlock()

	if first {
		sleep(ctx, batchDelay)
		b.mu.Lock()
		b.next = nil
		b.mu.Unlock()
		x.res, x.err = all(ctx, x.refs)
		close(x.done)
		return x.res, x.err
	}
	select {
	case <-x.done:
	case <-ctx.Done():
		return res, context.Cause(ctx)
	}
	if x.err == nil {
		return x.res, nil
	}
	// What is wrong with the batch, such as the end of its first caller's context, need not concern
	// this VM.
	return all(ctx, []types.ManagedObjectReference{ref})
}

// readNew reads newVMProps of a VM.
func (p *Provider) readNew(ctx context.Context, ref types.ManagedObjectReference) (mo.VirtualMachine, error) {
	vms, err := p.newVMs.read(ctx, ref, p.reads(newVMProps...))
	if err != nil {
		return mo.VirtualMachine{}, err
	}
	if vm := vms[ref]; vm.Config != nil {
		return vm, nil
	}
	return p.readVM(ctx, ref, newVMProps...)
}

// reads returns what reads properties of several VMs; one that does not exist has none.
func (p *Provider) reads(props ...string) func(context.Context, []types.ManagedObjectReference) (map[types.ManagedObjectReference]mo.VirtualMachine, error) {
	return func(ctx context.Context, refs []types.ManagedObjectReference) (map[types.ManagedObjectReference]mo.VirtualMachine, error) {
		spec := types.PropertyFilterSpec{
			PropSet:                       []types.PropertySpec{{Type: "VirtualMachine", PathSet: props}},
			ReportMissingObjectsInResults: types.NewBool(true),
		}
		for _, ref := range refs {
			spec.ObjectSet = append(spec.ObjectSet, types.ObjectSpec{Obj: ref})
		}
		objects, err := p.s.retrieve(ctx, spec)
		if err != nil {
			return nil, err
		}
		vms := map[types.ManagedObjectReference]mo.VirtualMachine{}
		for _, o := range objects {
			if vms[o.Obj], err = asVM(o); err != nil {
				return nil, err
			}
		}
		return vms, nil
	}
}
