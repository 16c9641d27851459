package vsphere

import (
	"context"
	"sync"
	"time"

	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// batchDelay is how long a reading of a new VM waits for others to go along with.
const batchDelay = 10 * time.Millisecond

// newVMProps are what is read of a VM that was just made.
var newVMProps = append([]string{"config.hardware.device", "config.files"}, powerProps...)

// batches reads new VMs: those of a batch of clones, which are ready at about the same time, in one
// call.
type batches struct {
	mu   sync.Mutex
	next *batch // still to be read
}

type batch struct {
	refs []types.ManagedObjectReference
	done chan struct{} // closed when what follows is set
	vms  map[types.ManagedObjectReference]mo.VirtualMachine
	err  error
}

// readNew reads newVMProps of a VM.
func (p *Provider) readNew(ctx context.Context, ref types.ManagedObjectReference) (mo.VirtualMachine, error) {
	p.batches.mu.Lock()
	b, first := p.batches.next, false
	if b == nil {
		b, first = &batch{done: make(chan struct{})}, true
		p.batches.next = b
	}
	b.refs = append(b.refs, ref)
	p.batches.mu.Unlock()

	if first {
		sleep(ctx, batchDelay)
		p.batches.mu.Lock()
		p.batches.next = nil
		p.batches.mu.Unlock()
		b.vms, b.err = p.readVMs(ctx, b.refs)
		close(b.done)
	}
	select {
	case <-b.done:
	case <-ctx.Done():
		return mo.VirtualMachine{}, context.Cause(ctx)
	}
	if vm, ok := b.vms[ref]; ok && b.err == nil {
		return vm, nil
	}
	if first && b.err != nil {
		return mo.VirtualMachine{}, b.err
	}
	// What ails the batch, such as the context of whoever read it, need not concern this VM.
	return p.readVM(ctx, ref, newVMProps...)
}

// readVMs reads newVMProps of several VMs; those that do not exist are left out.
func (p *Provider) readVMs(ctx context.Context, refs []types.ManagedObjectReference) (map[types.ManagedObjectReference]mo.VirtualMachine, error) {
	spec := types.PropertyFilterSpec{
		PropSet:                       []types.PropertySpec{{Type: "VirtualMachine", PathSet: newVMProps}},
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
		vm, err := asVM(o)
		if err != nil {
			return nil, err
		}
		if vm.Config != nil {
			vms[o.Obj] = vm
		}
	}
	return vms, nil
}
