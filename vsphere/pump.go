package vsphere

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"
)

// pump learns of everything that is waited for, the ends of tasks and the states of VMs, through
// one property collector with one list view and one long poll, however many wait. It asks nothing
// while nobody waits.
type pump struct {
	s    *session
	pace pace

	mu      sync.Mutex
	objects map[types.ManagedObjectReference]*object
	drop    []types.ManagedObjectReference // in the view, no longer wanted
	waiters map[*waiter]bool
	running bool
	polling bool      // a long poll is out, so news would have come
	heard   time.Time // when the last poll ended
	noise   bool      // it ended no wait
	closed  bool
	view    *view // nil until built; belongs to the loop while it runs

	kick chan struct{} // capacity 1: there is something to add
	loop sync.WaitGroup
}

// pace is how eagerly the pump asks.
type pace struct {
	gather  time.Duration // how long objects to watch are gathered before vCenter is told of them
	gap     time.Duration // least time between two polls, twice that after one that ended no wait; it grows to a twentieth of the youngest wait
	maxGap  time.Duration
	poll    time.Duration // longest poll
	fresh   time.Duration // how old news may be that answers a new wait at once
	forget  time.Duration // how long a VM stays in the view after its last waiter
	patient time.Duration // how long an unreachable vCenter is asked again
}

var defaultPace = pace{
	gather: 45 * time.Millisecond, gap: 25 * time.Millisecond, maxGap: time.Second,
	poll: 45 * time.Second, fresh: time.Second, forget: 10 * time.Minute, patient: 5 * time.Minute,
}

// object is a task or a VM that somebody waits, or lately waited, for.
type object struct {
	ref      types.ManagedObjectReference
	inView   bool // vCenter was told to watch it
	gone     bool // vCenter says that it does not exist
	waiters  int
	released time.Time // when the last waiter left
	task     taskState
	vm       vmState
}

// waiter waits for ready to hold of an object.
type waiter struct {
	object  *object
	ready   func(*object) bool // called with the pump's lock
	since   time.Time
	confirm bool       // ready held at once, of news that may be old
	done    chan error // capacity 1
}

// taskState is what is known of a task.
type taskState struct {
	state  types.TaskInfoState
	result types.AnyType
	fault  *types.LocalizedMethodFault
}

// taskError is a task that ended with a fault.
type taskError struct{ fault *types.LocalizedMethodFault }

func (e *taskError) Error() string                { return e.fault.LocalizedMessage }
func (e *taskError) Fault() types.BaseMethodFault { return e.fault.Fault }

// watched are the properties that the pump asks for.
var watched = []types.PropertySpec{
	{Type: "Task", PathSet: []string{"info.state", "info.error", "info.result"}},
	{Type: "VirtualMachine", PathSet: []string{"runtime.powerState", "runtime.bootTime", "guest.toolsRunningStatus", "guest.net"}},
}

func newPump(s *session, pace pace) *pump {
	return &pump{
		s: s, pace: pace, kick: make(chan struct{}, 1),
		objects: map[types.ManagedObjectReference]*object{},
		waiters: map[*waiter]bool{},
	}
}

// task waits for the task's end and returns its result. Errors are the task's own (*taskError),
// ctx's, or of class unknown.
func (p *pump) task(ctx context.Context, ref types.ManagedObjectReference, also ...types.ManagedObjectReference) (types.AnyType, error) {
	var end taskState
	err := p.wait(ctx, ref, also, func(o *object) bool {
		end = o.task
		return o.task.state == types.TaskInfoStateSuccess || o.task.state == types.TaskInfoStateError
	})
	if err != nil {
		if ctx.Err() == nil {
			err = &lostError{err}
		}
		return nil, err
	}
	if end.state == types.TaskInfoStateError {
		if end.fault == nil || end.fault.Fault == nil {
			return nil, &lostError{errors.New("the task failed without saying why")}
		}
		return nil, &taskError{end.fault}
	}
	return end.result, nil
}

// watch waits until ready holds of the VM's state. The state that ready is given lasts until ready returns.
func (p *pump) watch(ctx context.Context, vm types.ManagedObjectReference, ready func(*vmState) bool) error {
	return p.wait(ctx, vm, nil, func(o *object) bool { return ready(&o.vm) })
}

// state calls f with what is known of the VM, which f may change.
func (p *pump) state(vm types.ManagedObjectReference, f func(*vmState)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	o := p.object(vm)
	o.released = time.Now()
	f(&o.vm)
}

// forget drops what is known of a VM.
func (p *pump) forget(vm types.ManagedObjectReference) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if o := p.objects[vm]; o != nil && o.waiters == 0 {
		p.remove(o)
	}
}

// object returns the record of ref, made if need be. p.mu is held.
func (p *pump) object(ref types.ManagedObjectReference) *object {
	o := p.objects[ref]
	if o == nil {
		o = &object{ref: ref}
		p.objects[ref] = o
	}
	return o
}

// remove forgets o, here at once and in vCenter with the next change to the view. p.mu is held.
func (p *pump) remove(o *object) {
	delete(p.objects, o.ref)
	if o.inView {
		p.drop = append(p.drop, o.ref)
	}
}

// wait waits until ready holds of ref. Objects in also come into the view together with it.
func (p *pump) wait(ctx context.Context, ref types.ManagedObjectReference, also []types.ManagedObjectReference, ready func(*object) bool) error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return errClosed
	}
	o := p.object(ref)
	w := &waiter{object: o, ready: ready, since: time.Now(), done: make(chan error, 1)}
	o.waiters++
	for _, ref := range also {
		a := p.object(ref)
		a.released = w.since
	}
	switch {
	case o.gone:
		w.done <- errVanished
	case o.inView && ready(o) && (p.polling || time.Since(p.heard) < p.pace.fresh):
		w.done <- nil
	default:
		w.confirm = o.inView && ready(o)
		p.waiters[w] = true
		if !p.running {
			p.running = true
			p.loop.Go(p.run)
		}
	}
	p.mu.Unlock()
	select {
	case p.kick <- struct{}{}:
	default:
	}

	var err error
	select {
	case err = <-w.done:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.waiters, w)
	o.released = time.Now()
	if o.waiters--; o.waiters == 0 && (o.ref.Type == "Task" || o.gone) {
		p.remove(o)
	}
	return err
}

// close ends all waits with errClosed, and the loop.
func (p *pump) close(ctx context.Context) {
	p.mu.Lock()
	p.closed = true
	for w := range p.waiters {
		p.finish(w, errClosed)
	}
	view, out := p.view, p.polling
	p.mu.Unlock()
	if out {
		// The server would keep the long poll after we hang up.
		view.destroy(ctx)
	}
	p.s.once.Do(func() { close(p.s.ended) })
	p.loop.Wait()
}

// finish ends one wait. p.mu is held.
func (p *pump) finish(w *waiter, err error) {
	if p.waiters[w] {
		delete(p.waiters, w)
		w.done <- err
	}
}

// fail ends all waits. p.mu is not held.
func (p *pump) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for w := range p.waiters {
		p.finish(w, err)
	}
}

// run is the loop: it gathers what is to be watched, asks, and tells who waits, until nobody
// does. What it builds on the server stays for the next run.
func (p *pump) run() {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	stop := make(chan struct{})
	defer close(stop)
	p.loop.Go(func() {
		select {
		case <-p.s.ended:
			cancel(errClosed)
		case <-stop:
		}
	})

	b := backoff{patience: p.pace.patient}
	stale := 0 // collectors lost in a row
	for p.wanted() {
		err := p.round(ctx)
		switch c := classify(err); {
		case err == nil:
			b, stale = backoff{patience: p.pace.patient}, 0
			p.rest(ctx)
			continue
		case c == loggedOut:
			p.rebuild(true)
			stale++
		case c == gone, has[*types.RequestCanceled](err), has[*types.InvalidCollectorVersion](err):
			p.rebuild(false)
			stale++
		case c == permanent, !b.wait(ctx):
			p.fail(fmt.Errorf("wait for vCenter: %w", err))
			p.rebuild(false)
		}
		if stale > maxLogins && !b.wait(ctx) {
			p.fail(fmt.Errorf("wait for vCenter: %w", err))
		}
	}
}

// wanted tells whether anybody waits; if not, the loop has ended.
func (p *pump) wanted() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.waiters) == 0 || p.closed {
		p.running = false
		return false
	}
	return true
}

// rest lets changes gather before the next poll, unless something is to be added.
func (p *pump) rest(ctx context.Context) {
	p.mu.Lock()
	gap, least := p.pace.maxGap, p.pace.gap
	if p.noise {
		least *= 2
	}
	for w := range p.waiters {
		if w.confirm {
			gap = 0
		}
		gap = min(gap, max(least, time.Since(w.since)/20))
	}
	p.mu.Unlock()
	t := time.NewTimer(gap)
	defer t.Stop()
	select {
	case <-t.C:
	case <-p.kick:
		p.again()
	case <-ctx.Done():
	}
}

// again repeats a kick for whoever comes next.
func (p *pump) again() {
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

// rebuild lets go of what was built on the server.
func (p *pump) rebuild(loggedOut bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.view != nil && loggedOut {
		p.s.drop(p.view.conn)
	}
	p.view, p.drop = nil, nil
	for _, o := range p.objects {
		o.inView = false
	}
}

// round is one poll, with the changes to the view that come before and during it.
func (p *pump) round(ctx context.Context) error {
	v, err := p.ensureView(ctx)
	if err != nil {
		return err
	}
	if err := p.gather(ctx, v); err != nil {
		return err
	}

	p.mu.Lock()
	wait := int32(p.pace.poll / time.Second)
	for w := range p.waiters {
		if w.confirm {
			wait = 0
		}
	}
	p.polling = wait > 0
	p.mu.Unlock()

	poll, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	type answer struct {
		set *types.UpdateSet
		err error
	}
	answers := make(chan answer, 1)
	p.loop.Go(func() {
		set, err := v.poll(poll, wait)
		answers <- answer{set, err}
	})
	lost := v.conn.lost
	var failed error
	for {
		select {
		case <-p.kick:
			// The poll out there reports what is added now.
			if err := p.gather(ctx, v); err != nil && failed == nil {
				failed = err
				cancel(err)
			}
		case <-lost:
			// Somebody else found the session gone. The server may hold our poll for good.
			lost = nil
			failed = &statusError{502}
			p.rebuild(false)
			cancel(failed)
		case a := <-answers:
			p.mu.Lock()
			p.polling, p.heard = false, time.Now()
			p.mu.Unlock()
			if failed != nil {
				return failed
			}
			if a.err != nil {
				return a.err
			}
			p.apply(a.set, wait == 0)
			return nil
		}
	}
}

// ensureView returns the view, built for the present login.
func (p *pump) ensureView(ctx context.Context) (*view, error) {
	p.mu.Lock()
	v := p.view
	p.mu.Unlock()
	if v != nil {
		select {
		case <-v.conn.lost:
			p.rebuild(false)
		default:
			return v, nil
		}
	}
	err := p.s.do(ctx, func(c *conn) error {
		var err error
		v, err = newView(ctx, c)
		return err
	})
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	p.view = v
	p.mu.Unlock()
	return v, nil
}

// gather tells vCenter, in one call, what to watch and what no longer.
func (p *pump) gather(ctx context.Context, v *view) error {
	if p.news() == 0 {
		return nil
	}
	sleep(ctx, p.pace.gather)
	select {
	case <-p.kick: // what it announced is taken now
	default:
	}

	p.mu.Lock()
	var add []*object
	now := time.Now()
	for _, o := range p.objects {
		switch {
		case !o.inView && !o.gone && (o.waiters > 0 || now.Sub(o.released) < p.pace.forget):
			add = append(add, o)
		case o.waiters == 0 && now.Sub(o.released) > p.pace.forget:
			p.remove(o)
		}
	}
	drop := p.drop
	p.drop = nil
	req := &types.ModifyListView{This: v.list, Remove: drop}
	for _, o := range add {
		req.Add = append(req.Add, o.ref)
		o.inView = true
	}
	p.mu.Unlock()

	res, err := methods.ModifyListView(ctx, v.conn, req)

	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		p.drop = append(p.drop, drop...)
		for _, o := range add {
			o.inView = false
		}
		return err
	}
	for _, ref := range res.Returnval {
		p.vanish(ref)
	}
	return nil
}

// news counts objects that somebody waits for and vCenter was not told of.
func (p *pump) news() (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, o := range p.objects {
		if !o.inView && !o.gone && o.waiters > 0 {
			n++
		}
	}
	return n
}

// vanish notes that ref does not exist. p.mu is held.
func (p *pump) vanish(ref types.ManagedObjectReference) {
	o := p.objects[ref]
	if o == nil {
		return
	}
	o.gone = true
	for w := range p.waiters {
		if w.object == o {
			p.finish(w, errVanished)
		}
	}
	if o.waiters == 0 {
		p.remove(o)
	}
}

// apply takes in what a poll brought and ends the waits that it satisfies.
func (p *pump) apply(set *types.UpdateSet, confirmed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if set != nil {
		for _, f := range set.FilterSet {
			for _, u := range f.ObjectSet {
				o := p.objects[u.Obj]
				switch {
				case o == nil || !o.inView:
				case u.Kind == types.ObjectUpdateKindLeave:
					p.vanish(u.Obj)
				default:
					o.change(u.ChangeSet)
				}
			}
		}
	}
	p.noise = true
	for w := range p.waiters {
		if w.confirm && confirmed {
			w.confirm = false
		}
		if w.object.inView && !w.confirm && w.ready(w.object) {
			p.finish(w, nil)
			p.noise = false
		}
	}
}

// change takes over changed properties.
func (o *object) change(changes []types.PropertyChange) {
	if o.ref.Type != "Task" {
		o.vm.change(changes)
		return
	}
	for _, c := range changes {
		switch v := c.Val.(type) {
		case types.TaskInfoState:
			o.task.state = v
		case types.LocalizedMethodFault:
			o.task.fault = &v
		default:
			if c.Name == "info.result" {
				o.task.result = v
			}
		}
	}
}
