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
	waiting map[types.ManagedObjectReference]chan struct{} // closed at the next change of a task, or of anything
}

// anything is the reference under which those wait who are to be told of every change.
var anything types.ManagedObjectReference

// next returns a channel that is closed by the next change of a task, or of anything.
func (h *hub) next(of types.ManagedObjectReference) <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := h.waiting[of]
	if c == nil {
		c = make(chan struct{})
		h.waiting[of] = c
	}
	return c
}

// changed tells that something has changed: a task, or else anything.
func (h *hub) changed(what types.ManagedObjectReference) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, ref := range []types.ManagedObjectReference{what, anything} {
		if c := h.waiting[ref]; c != nil {
			close(c)
			delete(h.waiting, ref)
		}
	}
}

// broadcast wakes all who wait.
func (h *hub) broadcast() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range h.waiting {
		close(c)
	}
	clear(h.waiting)
}

// Reference, PutObject, UpdateObject and RemoveObject make it a simulator.RegisterObject.
func (h *hub) Reference() types.ManagedObjectReference {
	return types.ManagedObjectReference{Type: "Hub", Value: "hub"}
}

func (h *hub) PutObject(_ *simulator.Context, obj mo.Reference) {
	what := anything
	if t, ok := obj.(*simulator.Task); ok {
		what = t.Self
		h.s.noteTask(t)
		if t.Execute != nil {
			t.Execute = contained(t.Execute)
		}
	}
	h.changed(what)
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
	what := anything
	switch o := obj.(type) {
	case *mo.EventHistoryCollector:
		h.s.noteEvent(ctx, changes)
	case *mo.Task:
		what = o.Self
	}
	h.changed(what)
}

func (h *hub) RemoveObject(_ *simulator.Context, ref types.ManagedObjectReference) { h.changed(ref) }

// change runs f, which may change obj's properties, under obj's lock, and tells the waiters.
func change(ctx *simulator.Context, obj mo.Reference, f func()) {
	ctx.WithLock(obj.Reference(), func() {
		f()
		ctx.Update(obj, nil)
	})
}
