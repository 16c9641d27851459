package vspheretest

import (
	"context"
	"fmt"
	"reflect"
	"strconv"
	"sync"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// A collector is a PropertyCollector that finds updates by comparing what it reads with what it
// last sent. vcsim's own maps the names of changed fields to the names in a filter instead,
// which misses some (a wait for guest.net never ends), reads without locks, and cannot be woken
// when the client has gone.
//
// vcsim makes one per session from the zero value, hence the detour to the Server.
type collector struct {
	mo.PropertyCollector

	mu      sync.Mutex // guards what follows
	filters []*filter
	waits   []context.CancelCauseFunc // of all waiting calls

	pages map[string]page

	once     sync.Once
	turn     chan struct{} // holds one token: one call computes updates at a time
	filtered chan struct{} // holds one when a filter was added
	version  int
	last     *types.UpdateSet // what the call that made version was sent
}

// maxUpdates is how many objects vCenter puts in one UpdateSet at most.
const maxUpdates = 100

// Lock and Unlock opt out of vcsim's locking, which would let a wait block all other calls.
func (*collector) Lock()   {}
func (*collector) Unlock() {}

// A filter is one PropertyFilter of a collector.
type filter struct {
	mo.PropertyFilter
	c    *collector
	sent map[types.ManagedObjectReference]map[string]any
}

// sessionRef makes a reference for an object that lives in the session of ctx.
func sessionRef(ctx *simulator.Context, kind string) types.ManagedObjectReference {
	return types.ManagedObjectReference{Type: kind, Value: fmt.Sprintf("session[%s]%s", ctx.Session.Key, newUUID())}
}

// CreatePropertyCollector implements the API method of that name, as do the other methods here.
func (c *collector) CreatePropertyCollector(ctx *simulator.Context, _ *types.CreatePropertyCollector) soap.HasFault {
	n := &collector{}
	n.Self = sessionRef(ctx, "PropertyCollector")
	ctx.Session.Put(n)
	return &methods.CreatePropertyCollectorBody{Res: &types.CreatePropertyCollectorResponse{Returnval: n.Self}}
}

func (c *collector) DestroyPropertyCollector(ctx *simulator.Context, _ *types.DestroyPropertyCollector) soap.HasFault {
	c.cancelWaits()
	c.mu.Lock()
	filters := c.filters
	c.filters = nil
	c.mu.Unlock()
	for _, f := range filters {
		ctx.Session.Remove(ctx, f.Self)
	}
	ctx.Session.Remove(ctx, c.Self)
	return &methods.DestroyPropertyCollectorBody{Res: &types.DestroyPropertyCollectorResponse{}}
}

func (c *collector) CreateFilter(ctx *simulator.Context, req *types.CreateFilter) soap.HasFault {
	for _, set := range req.Spec.ObjectSet {
		if get(ctx, set.Obj) == nil && !isTrue(req.Spec.ReportMissingObjectsInResults) {
			return &methods.CreateFilterBody{Fault_: soapFault(&types.ManagedObjectNotFound{Obj: set.Obj})}
		}
	}
	f := &filter{c: c}
	f.Self = sessionRef(ctx, "PropertyFilter")
	f.Spec, f.PartialUpdates = req.Spec, req.PartialUpdates
	ctx.Session.Put(f)
	c.mu.Lock()
	c.filters = append(c.filters, f)
	c.Filter = append(c.Filter, f.Self)
	c.mu.Unlock()
	c.start()
	select {
	case c.filtered <- struct{}{}:
	default:
	}
	return &methods.CreateFilterBody{Res: &types.CreateFilterResponse{Returnval: f.Self}}
}

func (f *filter) DestroyPropertyFilter(ctx *simulator.Context, _ *types.DestroyPropertyFilter) soap.HasFault {
	f.c.mu.Lock()
	for i := range f.c.filters {
		if f.c.filters[i] == f {
			f.c.filters = append(f.c.filters[:i:i], f.c.filters[i+1:]...)
			f.c.Filter = append(f.c.Filter[:i:i], f.c.Filter[i+1:]...)
			break
		}
	}
	f.c.mu.Unlock()
	ctx.Session.Remove(ctx, f.Self)
	return &methods.DestroyPropertyFilterBody{Res: &types.DestroyPropertyFilterResponse{}}
}

func (c *collector) cancelWaits() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, cancel := range c.waits {
		if cancel != nil {
			cancel(errCanceled)
		}
	}
	c.waits = nil
}

func (c *collector) CancelWaitForUpdates(*types.CancelWaitForUpdates) soap.HasFault {
	c.cancelWaits()
	return &methods.CancelWaitForUpdatesBody{Res: &types.CancelWaitForUpdatesResponse{}}
}

var errCanceled = fmt.Errorf("canceled by the client")

func (c *collector) WaitForUpdates(ctx *simulator.Context, req *types.WaitForUpdates) soap.HasFault {
	set, fault := c.wait(ctx, req.Version, nil)
	if fault != nil {
		return &methods.WaitForUpdatesBody{Fault_: soapFault(fault)}
	}
	return &methods.WaitForUpdatesBody{Res: &types.WaitForUpdatesResponse{Returnval: *set}}
}

func (c *collector) CheckForUpdates(ctx *simulator.Context, req *types.CheckForUpdates) soap.HasFault {
	set, fault := c.wait(ctx, req.Version, &types.WaitOptions{MaxWaitSeconds: types.NewInt32(0)})
	if fault != nil {
		return &methods.CheckForUpdatesBody{Fault_: soapFault(fault)}
	}
	return &methods.CheckForUpdatesBody{Res: &types.CheckForUpdatesResponse{Returnval: set}}
}

func (c *collector) WaitForUpdatesEx(ctx *simulator.Context, req *types.WaitForUpdatesEx) soap.HasFault {
	set, fault := c.wait(ctx, req.Version, req.Options)
	if fault != nil {
		return &methods.WaitForUpdatesExBody{Fault_: soapFault(fault)}
	}
	return &methods.WaitForUpdatesExBody{Res: &types.WaitForUpdatesExResponse{Returnval: set}}
}

// wait returns the updates since version, or nil when the time is over.
func (c *collector) wait(sctx *simulator.Context, version string, opt *types.WaitOptions) (*types.UpdateSet, types.BaseMethodFault) {
	s := serverOf(sctx)
	ctx, cancel := context.WithCancelCause(s.life)
	defer cancel(nil)
	if call := s.call(sctx); call != nil {
		defer context.AfterFunc(call.ctx, func() { cancel(nil) })()
	}
	most := maxUpdates
	var timeout <-chan time.Time
	if opt != nil {
		if opt.MaxObjectUpdates > 0 && opt.MaxObjectUpdates < maxUpdates {
			most = int(opt.MaxObjectUpdates)
		}
		if opt.MaxWaitSeconds != nil {
			t := time.NewTimer(time.Duration(*opt.MaxWaitSeconds) * time.Second)
			defer t.Stop()
			timeout = t.C
		}
	}
	at := c.enroll(cancel)
	defer c.dismiss(at)

	select { // one call at a time
	case <-c.turn:
		defer func() { c.turn <- struct{}{} }()
	case <-ctx.Done():
		return nil, &types.RequestCanceled{}
	}
	switch current := strconv.Itoa(c.version); {
	case version == "":
		c.forget()
	case version == current:
	case c.last != nil && version == strconv.Itoa(c.version-1):
		return c.last, nil // the client did not get it
	default:
		return nil, &types.InvalidCollectorVersion{}
	}
	of := c.only()
	for {
		changed := s.hub.next(of)
		if !s.alive(sctx) {
			return nil, notAuthenticated(c.Self)
		}
		set, fault := c.compute(sctx, most)
		if fault != nil {
			return nil, fault
		}
		if len(set.FilterSet) > 0 || version == "" {
			c.version++
			set.Version = strconv.Itoa(c.version)
			c.last = set
			return set, nil
		}
		if opt != nil && opt.MaxWaitSeconds != nil && *opt.MaxWaitSeconds == 0 {
			return nil, nil
		}
		select {
		case <-changed:
			if of == anything {
				// Let a burst of changes pass: vCenter sends updates in batches too.
				_ = sleep(ctx, 2*time.Millisecond)
			}
		case <-c.filtered:
			of = c.only()
		case <-timeout:
			return nil, nil
		case <-ctx.Done():
			return nil, &types.RequestCanceled{}
		}
	}
}

// only returns the one task that all filters are about, as those of clients are that wait for it, or
// anything. What vcsim or the Server does to a task is told to the hub.
func (c *collector) only() (task types.ManagedObjectReference) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range c.filters {
		for _, o := range f.Spec.ObjectSet {
			if o.Obj.Type != "Task" || len(o.SelectSet) > 0 || task != anything && o.Obj != task {
				return anything
			}
			task = o.Obj
		}
	}
	return task
}

// start makes c ready for use.
func (c *collector) start() {
	c.once.Do(func() {
		c.turn, c.filtered = make(chan struct{}, 1), make(chan struct{}, 1)
		c.turn <- struct{}{}
	})
}

func (c *collector) enroll(cancel context.CancelCauseFunc) int {
	c.start()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waits = append(c.waits, cancel)
	return len(c.waits) - 1
}

func (c *collector) dismiss(at int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if at < len(c.waits) {
		c.waits[at] = nil
	}
	for len(c.waits) > 0 && c.waits[len(c.waits)-1] == nil {
		c.waits = c.waits[:len(c.waits)-1]
	}
}

// forget makes the next reading an initial one.
func (c *collector) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range c.filters {
		f.sent = nil
	}
	c.last = nil
}

// compute reads what the filters select and returns how it differs from what was sent, for at
// most so many objects. What it returns counts as sent.
func (c *collector) compute(ctx *simulator.Context, most int) (*types.UpdateSet, types.BaseMethodFault) {
	c.mu.Lock()
	filters := append([]*filter(nil), c.filters...)
	c.mu.Unlock()
	set := &types.UpdateSet{}
	for _, f := range filters {
		now, order, fault := f.read(ctx)
		if fault != nil {
			return nil, fault
		}
		if f.sent == nil {
			f.sent = make(map[types.ManagedObjectReference]map[string]any)
		}
		fu := types.PropertyFilterUpdate{Filter: f.Self}
		for _, ref := range order {
			ou, differs := diff(ref, f.sent[ref], now[ref])
			if !differs {
				continue
			}
			if most == 0 {
				set.Truncated = types.NewBool(true)
				break
			}
			most--
			fu.ObjectSet = append(fu.ObjectSet, ou)
			f.sent[ref] = now[ref]
		}
		for ref := range f.sent {
			if now[ref] == nil {
				delete(f.sent, ref)
				fu.ObjectSet = append(fu.ObjectSet, types.ObjectUpdate{Kind: types.ObjectUpdateKindLeave, Obj: ref})
			}
		}
		if len(fu.ObjectSet) > 0 {
			set.FilterSet = append(set.FilterSet, fu)
		}
	}
	return set, nil
}

// diff returns the update that leads from old to new properties; old is nil for a new object.
func diff(ref types.ManagedObjectReference, old, now map[string]any) (types.ObjectUpdate, bool) {
	u := types.ObjectUpdate{Kind: types.ObjectUpdateKindModify, Obj: ref}
	if old == nil {
		u.Kind = types.ObjectUpdateKindEnter
	}
	for _, name := range sortedKeys(now) {
		if was, ok := old[name]; !ok || !reflect.DeepEqual(was, now[name]) {
			u.ChangeSet = append(u.ChangeSet, types.PropertyChange{Name: name, Op: types.PropertyChangeOpAssign, Val: now[name]})
		}
	}
	for _, name := range sortedKeys(old) {
		if _, ok := now[name]; !ok {
			u.ChangeSet = append(u.ChangeSet, types.PropertyChange{Name: name, Op: types.PropertyChangeOpAssign})
		}
	}
	return u, old == nil || len(u.ChangeSet) > 0
}

// read returns the properties of all objects that the filter selects, and their order.
func (f *filter) read(ctx *simulator.Context) (map[types.ManagedObjectReference]map[string]any, []types.ManagedObjectReference, types.BaseMethodFault) {
	contents, fault := retrieve(ctx, []types.PropertyFilterSpec{f.Spec})
	if fault != nil {
		return nil, nil, fault
	}
	props := make(map[types.ManagedObjectReference]map[string]any)
	var order []types.ManagedObjectReference
	for _, content := range contents {
		m := make(map[string]any)
		for _, p := range content.PropSet {
			m[p.Name] = p.Val
		}
		props[content.Obj] = m
		order = append(order, content.Obj)
	}
	return props, order, nil
}
