package vspheretest

import (
	"sync"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// A hub tells those who wait for property updates that something in the inventory has changed, and
// the history what vcsim does by itself. It is registered with vcsim, which calls it on every put,
// update and remove.
type hub struct {
	s *Server

	mu      sync.Mutex
	changed chan struct{} // closed, and replaced, at the next change
}

// next returns a channel that is closed by the next change.
func (h *hub) next() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.changed
}

func (h *hub) broadcast() {
	h.mu.Lock()
	defer h.mu.Unlock()
	close(h.changed)
	h.changed = make(chan struct{})
}

// Reference, PutObject, UpdateObject and RemoveObject make it a simulator.RegisterObject.
func (h *hub) Reference() types.ManagedObjectReference {
	return types.ManagedObjectReference{Type: "Hub", Value: "hub"}
}

func (h *hub) PutObject(_ *simulator.Context, obj mo.Reference) {
	if t, ok := obj.(*simulator.Task); ok {
		h.s.noteTask(t)
		if t.Execute != nil {
			t.Execute = contained(t.Execute)
		}
	}
	h.broadcast()
}

// contained makes what panics in a task of vcsim's, which would end the process, a fault of the task.
func contained(f func(*simulator.Task) (types.AnyType, types.BaseMethodFault)) func(*simulator.Task) (types.AnyType, types.BaseMethodFault) {
	return func(t *simulator.Task) (res types.AnyType, fault types.BaseMethodFault) {
		defer func() {
			if p := recover(); p != nil {
				res, fault = nil, &types.NotSupported{RuntimeFault: because(t.Info.Name + " is not simulated in this form")}
			}
		}()
		return f(t)
	}
}

func (h *hub) UpdateObject(ctx *simulator.Context, obj mo.Reference, changes []types.PropertyChange) {
	if _, ok := obj.(*mo.EventHistoryCollector); ok {
		h.s.noteEvent(ctx, changes)
	}
	h.broadcast()
}

func (h *hub) RemoveObject(*simulator.Context, types.ManagedObjectReference) { h.broadcast() }

// change runs f, which may change obj's properties, under obj's lock, and tells the waiters.
func change(ctx *simulator.Context, obj mo.Reference, f func()) {
	ctx.WithLock(obj.Reference(), func() {
		f()
		ctx.Update(obj, nil)
	})
}
