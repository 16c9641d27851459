package vsphere

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/vmware/govmomi/vim25/types"
)

// watcher learns of everything that is waited for, the ends of tasks and the states of VMs, through
// one property collector with one list view and one long poll, however many wait. It asks nothing
// without waiters.
type watcher struct {
	s         *session
	intervals intervals

	mu      sync.Mutex
	objects map[types.ManagedObjectReference]*object
	waiters map[*waiter]bool
	running bool
	polling bool          // a long poll is out, so news would have come
	heard   time.Time     // when the last poll ended
	noise   bool          // it ended no wait
	silent  int           // long polls in a row that brought nothing
	overdue time.Duration // how long vCenter may leave an object unreported; 0 is ten times intervals.enter
	closed  bool
	view    *view // nil until built; belongs to the loop while it runs

	wake chan struct{} // capacity 1: there is something to add
	loop sync.WaitGroup

	gathered time.Time // when vCenter was last told what to watch; belongs to the loop while it runs

	usual map[string]time.Duration // how long tasks of a kind take, at least; guarded by mu
}

// intervals say how eagerly the watcher asks.
type intervals struct {
	gather time.Duration // least time between two calls that tell vCenter what to watch
	gap    time.Duration // least time between two polls, twice that after one that ended no wait; it grows to a twentieth of the youngest wait
	maxGap time.Duration
	poll   time.Duration // longest poll
	fresh  time.Duration // how old news may be that answers a new wait at once
	enter  time.Duration // how long vCenter may take to report an object that it was told to watch, before it is asked whether there is one
	forget time.Duration // how long after its last waiter a VM comes into a new view
	hold   time.Duration // how long a wait for a task is put off, at most, since its like take longer
	outage time.Duration // how long an unreachable vCenter is asked again
	call   time.Duration // how long one call may take; 0 means callTimeout
	look   time.Duration // how long a task may run before it is asked what keeps it, and thrice that until the next time
	source time.Duration // how long one reading of a snapshot serves clones
	near   time.Duration // how long one reading of what guests on a network report serves
	twins  time.Duration // how long an address may be another VM's, too: guest tools report the one of before for up to 30 s
	last   time.Duration // how long is spent on finding out what kept a wait that has ended
}

var defaultIntervals = intervals{
	gather: 45 * time.Millisecond, gap: 25 * time.Millisecond, maxGap: time.Second,
	poll: 45 * time.Second, fresh: time.Second, enter: time.Second, forget: 10 * time.Minute, hold: 3 * time.Second, outage: 5 * time.Minute,
	look: 10 * time.Second, source: 10 * time.Second, near: 3 * time.Second, twins: 75 * time.Second, last: 5 * time.Second,
}

// object is a task or a VM that somebody waits, or lately waited, for.
type object struct {
	ref      types.ManagedObjectReference
	inView   bool      // vCenter was told to watch it
	entered  bool      // and has reported it since
	told     time.Time // when vCenter was told to watch it, if it has not reported it since
	gone     bool      // vCenter says that it does not exist
	leaving  bool      // nothing waits for it: vCenter is to be told, and until then it is known
	doubt    time.Time // if set, what is known may be old: only a poll begun later tells
	waiters  int
	released time.Time // when the last waiter left, or one was announced; zero if there was none
	task     taskState
	vm       vmState
}

// waiter waits for ready to hold of an object.
type waiter struct {
	object  *object
	ready   func(*object) bool // called with the watcher's lock
	since   time.Time
	slack   time.Duration // how long it may be gathered with others
	confirm bool          // ready held at once, of news that may be old
	done    chan error    // capacity 1
}

// taskState is what is known of a task.
type taskState struct {
	state         types.TaskInfoState
	result        types.AnyType
	fault         *types.LocalizedMethodFault
	queued, ended time.Time // by vCenter's clock
}

// taskError is a task that ended with a fault.
type taskError struct{ fault *types.LocalizedMethodFault }

func (e *taskError) Error() string                { return e.fault.LocalizedMessage }
func (e *taskError) Fault() types.BaseMethodFault { return e.fault.Fault }

// watched are the properties that the watcher asks for.
var watched = []types.PropertySpec{
	{Type: "Task", PathSet: []string{"info.state", "info.error", "info.result", "info.queueTime", "info.completeTime"}},
	{Type: "VirtualMachine", PathSet: []string{"runtime.powerState", "runtime.bootTime", "guest.toolsRunningStatus", "guest.net", "config.changeVersion"}},
}

func newWatcher(s *session, intervals intervals) *watcher {
	return &watcher{
		s: s, intervals: intervals, wake: make(chan struct{}, 1),
		objects: map[types.ManagedObjectReference]*object{},
		waiters: map[*waiter]bool{}, usual: map[string]time.Duration{},
	}
}

// taskOf is task, with the result, for one that has just been submitted, of a kind whose tasks take alike long. vCenter
// tells of each object that comes into a view, though there is no news of it; so it is told of the task
// only when that may have ended.
func (p *watcher) taskOf(ctx context.Context, kind string, ref types.ManagedObjectReference, also ...types.ManagedObjectReference) (types.AnyType, error) {
	p.mu.Lock()
	usual := min(p.usual[kind]*21/20, p.intervals.hold)
	p.mu.Unlock()
	t := time.NewTimer(usual)
	defer t.Stop()
	select {
	case <-t.C:
	case <-p.s.ended:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	end, err := p.ended(ctx, ref, usual/8, also)
	if err != nil {
		return nil, err
	}
	if took := end.ended.Sub(end.queued); !end.queued.IsZero() && took >= 0 {
		p.mu.Lock()
		defer p.mu.Unlock()
		if was, ok := p.usual[kind]; ok {
			took = min(took, was*5/4+time.Millisecond)
		}
		p.usual[kind] = took
	}
	return end.result, nil
}

// task waits for the task's end. Errors are the task's own (*taskError), ctx's, or of class unknown.
func (p *watcher) task(ctx context.Context, ref types.ManagedObjectReference) error {
	_, err := p.ended(ctx, ref, 0, nil)
	return err
}

// ended waits for the end of a task that has not failed.
func (p *watcher) ended(ctx context.Context, ref types.ManagedObjectReference, slack time.Duration, also []types.ManagedObjectReference) (end taskState, err error) {
	err = p.wait(ctx, ref, also, slack, func(o *object) bool {
		end = o.task
		return o.task.state == types.TaskInfoStateSuccess || o.task.state == types.TaskInfoStateError
	})
	if err != nil {
		if ctx.Err() == nil {
			err = &lostError{err}
		}
		return taskState{}, err
	}
	if end.state == types.TaskInfoStateError {
		if end.fault == nil || end.fault.Fault == nil {
			return taskState{}, &lostError{errors.New("the task failed without saying why")}
		}
		return taskState{}, &taskError{end.fault}
	}
	return end, nil
}

// watch waits until ready holds of the VM's state. The state that ready is given lasts until ready
// returns.
func (p *watcher) watch(ctx context.Context, vm types.ManagedObjectReference, ready func(*vmState) bool) error {
	return p.wait(ctx, vm, nil, 0, func(o *object) bool { return ready(&o.vm) })
}

// watchOf is watch for what takes alike long after begun, of that kind. vCenter tells of all changes on the
// way; so it is polled only when the state may be there.
func (p *watcher) watchOf(ctx context.Context, kind string, begun time.Time, vm types.ManagedObjectReference, ready func(*vmState) bool) error {
	p.mu.Lock()
	was, known := p.usual[kind]
	hold := min(was, p.intervals.hold) - time.Since(begun)
	if o := p.objects[vm]; o != nil && o.entered && ready(&o.vm) {
		hold = 0
	}
	p.mu.Unlock()
	if hold > 0 {
		t := time.NewTimer(hold)
		defer t.Stop()
		select {
		case <-t.C:
		case <-p.s.ended:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	waited := time.Now()
	err := p.watch(ctx, vm, ready)
	if err != nil {
		return err
	}
	took := time.Since(begun)
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case !known:
	case hold > 0 && time.Since(waited) < took/20: // it may have been there before
		took = was * 49 / 50
	default:
		took = min(took, was*5/4+time.Millisecond)
	}
	p.usual[kind] = took
	return nil
}

// state calls f with what is known of the VM, which f may change.
func (p *watcher) state(vm types.ManagedObjectReference, f func(*vmState)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f(&p.object(vm).vm)
}

// forget drops what is known of a VM.
func (p *watcher) forget(vm types.ManagedObjectReference) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if o := p.objects[vm]; o != nil && o.waiters == 0 {
		p.remove(o)
	}
}

// mistrust makes what is known of a VM count only once vCenter has confirmed it. It is not
// forgotten: vCenter tells of changes, and leaves a view that an object leaves and enters
// between two polls as one where nothing happened.
func (p *watcher) mistrust(vm types.ManagedObjectReference) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if o := p.objects[vm]; o != nil {
		o.doubt = time.Now()
	}
}

// object returns the record of ref, made if need be. p.mu is held.
func (p *watcher) object(ref types.ManagedObjectReference) *object {
	o := p.objects[ref]
	if o == nil || o.leaving && o.gone {
		o = &object{ref: ref}
		p.objects[ref] = o
	}
	o.leaving = false
	return o
}

// remove forgets o, with the next change to the view if vCenter watches it: would it be forgotten
// before, and watched again before vCenter was polled without it, it would not be reported. p.mu is
// held.
func (p *watcher) remove(o *object) {
	if o.inView {
		o.leaving = true
	} else {
		delete(p.objects, o.ref)
	}
}

// wait waits until ready holds of ref. Objects in also come into the view together with it; it may be
// gathered with others for as long as slack.
func (p *watcher) wait(ctx context.Context, ref types.ManagedObjectReference, also []types.ManagedObjectReference, slack time.Duration, ready func(*object) bool) error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return errClosed
	}
	o := p.object(ref)
	w := &waiter{object: o, ready: ready, since: time.Now(), slack: slack, done: make(chan error, 1)}
	o.waiters++
	for _, ref := range also {
		a := p.object(ref)
		a.released = w.since
	}
	switch {
	case o.gone:
		w.done <- errVanished
	case o.entered && o.doubt.IsZero() && ready(o) && (p.polling || time.Since(p.heard) < p.intervals.fresh):
		w.done <- nil
	default:
		w.confirm = o.entered && ready(o)
		p.waiters[w] = true
		if !p.running {
			p.running = true
			p.loop.Go(p.run)
		}
	}
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
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
func (p *watcher) close(ctx context.Context) {
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
func (p *watcher) finish(w *waiter, err error) {
	if p.waiters[w] {
		delete(p.waiters, w)
		w.done <- err
	}
}

// fail ends all waits. p.mu is not held.
func (p *watcher) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for w := range p.waiters {
		p.finish(w, err)
	}
}
