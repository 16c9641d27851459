package vsphere

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"
)

// run is the loop: it gathers what is to be watched, asks, and wakes the waiters, until there
// are none. What it builds on the server stays for the next run.
func (p *watcher) run() {
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

	b := p.s.backoff()
	stale := 0 // collectors lost in a row
	for p.wanted() {
		err := p.round(ctx)
		switch c := classify(err); {
		case err == nil:
			b, stale = p.s.backoff(), 0
			p.rest(ctx)
			continue
		case c == loggedOut:
			if v := p.rebuild(); v != nil {
				p.s.drop(ctx, v.conn) // after rebuild: it waits for a login
			}
			stale++
		case c == gone, has[*types.RequestCanceled](err), has[*types.InvalidCollectorVersion](err):
			p.rebuild()
			stale++
		case errors.Is(err, errUnreported):
			if v := p.rebuild(); v != nil {
				v.destroy(ctx)
			}
		case c == permanent, !b.wait(ctx, err):
			p.fail(fmt.Errorf("wait for vCenter: %w", b.over(err)))
			p.rebuild()
		}
		if stale > maxLogins && !b.wait(ctx, err) {
			p.fail(fmt.Errorf("wait for vCenter: %w", b.over(err)))
		}
	}
}

// wanted reports whether anybody waits; if not, the loop has ended.
func (p *watcher) wanted() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.waiters) == 0 || p.closed {
		p.running = false
		return false
	}
	return true
}

// rest lets changes gather before the next poll, unless something is to be added.
func (p *watcher) rest(ctx context.Context) {
	p.mu.Lock()
	gap, least := p.intervals.maxGap, p.intervals.gap
	if p.noise {
		least *= 2
	}
	for w := range p.waiters {
		if w.unsure() {
			gap = 0
		}
		gap = min(gap, max(least, time.Since(w.since)/20))
	}
	p.mu.Unlock()
	t := time.NewTimer(gap)
	defer t.Stop()
	select {
	case <-t.C:
	case <-p.wake:
		p.again()
	case <-ctx.Done():
	}
}

// again repeats the wake-up for the next waiter.
func (p *watcher) again() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// rebuild forgets what was built on the server, and returns it.
func (p *watcher) rebuild() (old *view) {
	p.mu.Lock()
	defer p.mu.Unlock()
	old, p.view = p.view, nil
	for _, o := range p.objects {
		if o.leaving {
			delete(p.objects, o.ref)
		}
		o.inView, o.entered, o.told = false, false, time.Time{}
	}
	return old
}

// errUnreported says that vCenter does not report an object that it was told to watch, and that
// exists.
var errUnreported = errors.New("vCenter does not report what it was told to watch")

// unreported reports whether a new view is needed: vCenter does not report an object that has left
// the view and entered it again since the last poll, and whose state then was lost here. A new one
// reports all. It is given more time than the one before, for vCenter may just be slow.
func (p *watcher) unreported() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.overdue = max(p.overdue, 10*p.intervals.enter)
	for _, o := range p.objects {
		if o.waiters > 0 && !o.entered && !o.told.IsZero() && time.Since(o.told) > p.overdue {
			p.overdue *= 2
			return true
		}
	}
	return false
}

// recheck has vCenter told again, with the next change to the view, of what it may have lost:
// objects that it was told of but never reported, and, if it has been silent, all tasks. It answers
// which of them do not exist.
func (p *watcher) recheck(silent bool) (any bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, o := range p.objects {
		if o.inView && o.waiters > 0 && (!o.entered || silent && o.ref.Type == "Task") {
			o.inView, any = false, true
		}
	}
	return any
}

// silentPolls is after how many long polls that bring nothing vCenter is told again of all tasks.
const silentPolls = 2

// unsure reports whether only a poll that begins now can say if the wait is over.
func (w *waiter) unsure() bool { return w.confirm || w.object.entered && !w.object.doubt.IsZero() }

// round is one poll, with the changes to the view that come before and during it.
func (p *watcher) round(ctx context.Context) error {
	v, err := p.ensureView(ctx)
	if err != nil {
		return err
	}
	if err := p.gather(ctx, v); err != nil {
		return err
	}

	p.mu.Lock()
	wait := int32(p.intervals.poll / time.Second)
	for w := range p.waiters {
		if w.unsure() {
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
	begun := time.Now()
	p.loop.Go(func() {
		set, err := v.poll(poll, wait)
		answers <- answer{set, err}
	})
	lost := v.conn.lost
	check := time.NewTicker(p.intervals.enter)
	defer check.Stop()
	var failed error
	for {
		select {
		case <-check.C:
			if p.recheck(false) {
				p.again()
			}
			if failed == nil && p.unreported() {
				failed = errUnreported
				cancel(failed)
			}
		case <-p.wake:
			// The poll out there reports what is added now.
			if err := p.gather(ctx, v); err != nil && failed == nil {
				failed = err
				cancel(err)
			}
		case <-lost:
			// Somebody else found the session gone. The server may hold our poll for good.
			lost = nil
			failed = &statusError{502}
			p.rebuild()
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
			if wait > 0 {
				p.silent++
			}
			if a.set != nil {
				p.silent = 0
			} else if p.silent == silentPolls {
				p.silent = 0
				p.recheck(true)
			}
			p.apply(a.set, begun, wait == 0)
			return nil
		}
	}
}

// ensureView returns the view, built for the present login.
func (p *watcher) ensureView(ctx context.Context) (*view, error) {
	p.mu.Lock()
	v := p.view
	p.mu.Unlock()
	if v != nil {
		select {
		case <-v.conn.lost:
			p.rebuild()
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

// gather tells vCenter, in one call, what to watch and what no longer: at once, unless it was told
// something a moment ago.
func (p *watcher) gather(ctx context.Context, v *view) error {
	if p.news() == 0 {
		return nil
	}
	sleep(ctx, p.slack())
	select {
	case <-p.wake: // what it announced is taken now
	default:
	}

	p.mu.Lock()
	var add, drop []*object
	now := time.Now()
	for _, o := range p.objects {
		switch {
		case o.leaving:
			drop = append(drop, o)
		case !o.inView && !o.gone && (o.waiters > 0 || now.Sub(o.released) < p.intervals.forget):
			add = append(add, o)
		case !o.inView && o.waiters == 0 && !o.released.IsZero():
			delete(p.objects, o.ref)
		}
	}
	req := &types.ModifyListView{This: v.list}
	for _, o := range drop {
		req.Remove = append(req.Remove, o.ref)
	}
	for _, o := range add {
		req.Add = append(req.Add, o.ref)
		o.inView = true
	}
	p.mu.Unlock()

	res, err := methods.ModifyListView(ctx, v.conn, req)

	p.gathered = time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		for _, o := range add {
			o.inView = false
		}
		return err
	}
	for _, o := range drop {
		if o.leaving {
			delete(p.objects, o.ref)
		} else { // somebody waits for it again
			o.inView, o.entered = false, false
		}
	}
	for _, o := range add {
		if !o.entered && o.told.IsZero() {
			o.told = time.Now()
		}
	}
	for _, ref := range res.Returnval {
		p.vanish(ref)
	}
	return nil
}

// slack is how long to gather what is to be watched.
func (p *watcher) slack() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	d := p.intervals.gather - time.Since(p.gathered)
	for w := range p.waiters {
		if !w.object.inView {
			d = max(d, min(w.slack, p.intervals.gather))
		}
	}
	return d
}

// news counts objects that somebody waits for and vCenter was not told of.
func (p *watcher) news() (n int) {
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
func (p *watcher) vanish(ref types.ManagedObjectReference) {
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
func (p *watcher) apply(set *types.UpdateSet, begun time.Time, confirmed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if set != nil {
		p.overdue = 0
		for _, f := range set.FilterSet {
			for _, u := range f.ObjectSet {
				o := p.objects[u.Obj]
				switch {
				case o == nil:
				case u.Kind == types.ObjectUpdateKindLeave:
					if o.entered { // otherwise it is one that was forgotten since that leaves
						p.vanish(u.Obj)
					}
				default:
					o.entered, o.told = true, time.Time{}
					o.change(u.ChangeSet)
				}
			}
		}
	}
	p.noise = true
	for _, o := range p.objects {
		if o.doubt.Before(begun) {
			o.doubt = time.Time{}
		}
	}
	for w := range p.waiters {
		if w.confirm && confirmed {
			w.confirm = false
		}
		if w.object.entered && !w.unsure() && w.ready(w.object) {
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
			switch at, _ := v.(time.Time); c.Name {
			case "info.result":
				o.task.result = v
			case "info.queueTime":
				o.task.queued = at
			case "info.completeTime":
				o.task.ended = at
			}
		}
	}
}
