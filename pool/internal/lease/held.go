package lease

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/poolready/poolready/pool/internal/wait"
)

// ErrLost is why the work under a lease ends that was not kept: the ledger was out of reach for
// too long, or the process was stopped, or somebody removed the lease.
var ErrLost = errors.New("the lease on the pool is lost")

// ErrReleased is why the work under a lease ends that was released.
var ErrReleased = errors.New("the pool has been released")

// errNotOurs is what changing an entry returns when another lease is on it.
var errNotOurs = errors.New("another process holds it")

// A Held is a lease of this process on a pool, or on the claim, until it is released or lost. A
// goroutine renews it at a third of its term; when it is lost or released, its context ends.
//
// The ledger's clock says when a lease expires, the local one when this process must stop: a
// tenth of the term earlier than the ledger would, counted from before the ledger's clock was
// read, by the monotonic clock and by the wall clock, of which one or the other goes on while the
// process or the machine sleeps.
//
// A lease under a claim is not renewed: it lasts as long as that, by whose renewals it is only looked after,
// should its shard be lost.
type Held struct {
	Pool int // 0 is the claim

	l     *Ledger
	under *Held // the claim, of a lease under it; else nil
	shard string
	token string
	ctx   context.Context
	end   context.CancelCauseFunc
	gone  chan struct{} // closed when nothing renews it

	purpose atomic.Pointer[func() string] // what to write down as the purpose, if that changes
	writing chan struct{}                 // has room for the one that changes the entry

	mu      sync.Mutex // guards what follows
	below   []*Held    // the leases under the claim that it is
	entry   Entry      // as last written, if Pool > 0
	claim   claim      // as last written, if Pool is 0
	ends    time.Time  // of the local clock; of a lease under a claim, until when no other process can have its shard if that is lost
	asked   time.Time  // of the local clock, when the shard was read that was last written over
	tried   string     // the revision of the shard that the lease was to be written over
	failing time.Time  // since when renewing it fails
	failure error      // of the last try, or nil
}

func newHeld(l *Ledger, pool int) *Held {
	x := &Held{Pool: pool, l: l, shard: claimShard, token: newToken(), gone: make(chan struct{}), writing: make(chan struct{}, 1)}
	if pool > 0 {
		x.shard = poolShard(pool)
	}
	x.ctx, x.end = context.WithCancelCause(context.Background())
	return x
}

// Context ends when the lease is released or lost; context.Cause is ErrReleased or has ErrLost.
func (x *Held) Context() context.Context { return x.ctx }

// AfterEnd has f called, on a goroutine of its own, when the lease is released or lost.
func (x *Held) AfterEnd(f func()) { context.AfterFunc(x.ctx, f) }

// Check reports, without asking anybody, whether the lease may still be relied on: its error has
// ErrLost, or is ErrReleased.
func (x *Held) Check() error {
	if err := context.Cause(x.ctx); err != nil {
		return err
	}
	if x.under != nil {
		if err := x.under.Check(); err != nil {
			x.end(err)
		}
	} else if x.late() {
		x.end(x.lost())
	}
	return context.Cause(x.ctx)
}

// lost says that the lease was not renewed in time, and why.
func (x *Held) lost() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.failure == nil {
		return fmt.Errorf("%w: it was not renewed in time: this process did not run", ErrLost)
	}
	return fmt.Errorf("%w: it was not renewed since %s: %w", ErrLost, clock(x.failing), x.failure)
}

// until is when, by the local clock, it may no longer be relied on.
func (x *Held) until() time.Time {
	if x.under != nil {
		return x.under.until()
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.ends
}

// late reports whether that is over, by the monotonic clock or the wall clock.
func (x *Held) late() bool {
	now, ends := time.Now(), x.until()
	return !now.Before(ends) || !now.Round(0).Before(ends.Round(0))
}

type heldKey struct{}

// Bind returns a context that ends when ctx or the lease does, and by which CheckContext knows the
// lease.
func (x *Held) Bind(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(context.WithValue(ctx, heldKey{}, x))
	stop := context.AfterFunc(x.ctx, func() { cancel(context.Cause(x.ctx)) })
	return ctx, func() { stop(); cancel(nil) }
}

// CheckContext reports whether what is done under ctx may still be done: its error has ErrLost as
// soon as the lease to which ctx is bound may no longer be relied on, even if this process slept
// and ctx has not ended yet. It is nil if ctx is bound to no lease.
func CheckContext(ctx context.Context) error {
	if x, ok := ctx.Value(heldKey{}).(*Held); ok && x.late() {
		return x.Check()
	}
	return nil
}

// Bound reports whether ctx is bound to a lease.
func Bound(ctx context.Context) bool { return ctx.Value(heldKey{}) != nil }

// SetPurpose makes what f returns the purpose that is written down with every renewal.
func (x *Held) SetPurpose(f func() string) { x.purpose.Store(&f) }

// Confirm asks the ledger whether the lease is ours, as must be done right before anything that
// cannot be undone. If it was written a moment ago, it does not ask; if the ledger does not show it, it is
// written again, unless another holder can have had it.
func (x *Held) Confirm(ctx context.Context) error { return x.l.Confirm(ctx, x) }

// Confirm is Held.Confirm for several leases, in one reading, and first for the claims that they are under.
func (l *Ledger) Confirm(ctx context.Context, leases ...*Held) error {
	var all []*Held
	for _, x := range leases {
		if x.under != nil && !slices.Contains(all, x.under) {
			all = append(all, x.under)
		}
	}
	for _, x := range leases {
		if !slices.Contains(all, x) {
			all = append(all, x)
		}
	}
	if err := context.Cause(ctx); err != nil {
		return err
	}
	for _, x := range all {
		if err := x.Check(); err != nil {
			return err
		}
	}
	return l.confirm(ctx, slices.DeleteFunc(all, (*Held).recent))
}

// confirm is Confirm without the claims, also of what was written a moment ago.
func (l *Ledger) confirm(ctx context.Context, all []*Held) error {
	if len(all) == 0 {
		return nil
	}
	var shards []string
	for _, x := range all {
		shards = append(shards, x.shard)
	}
	asked, done := all[0].Bind(ctx)
	s, err := l.read(asked, shards...)
	done()
	for _, x := range all {
		if err == nil && x.ShownBy(s) {
			x.seen(s)
		} else if err := x.renewNow(ctx); err != nil {
			return err
		}
		if err := x.Check(); err != nil {
			return err
		}
	}
	return nil
}

// ShownBy reports whether a reading of the ledger shows the lease.
func (x *Held) ShownBy(s *Snapshot) bool {
	var l *Lease
	if x.Pool > 0 {
		e, _, _ := s.stored(x.Pool)
		l = e.Lease
	} else {
		c, _, _ := s.claim()
		l = c.Lease
	}
	return l != nil && l.Token == x.token
}

// recent reports whether the lease was written within a twentieth of its term, but at most 5 s.
func (x *Held) recent() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	now, end := time.Now(), x.asked.Add(min(x.l.Term/20, 5*time.Second))
	return now.Before(end) && now.Round(0).Before(end.Round(0))
}

// renewNow renews the lease.
func (x *Held) renewNow(ctx context.Context) error {
	return x.update(ctx, func(time.Time, *Entry, *claim) error { return nil })
}

// Update renews the lease on a pool and applies a transition under it.
func (x *Held) Update(ctx context.Context, t Transition) error {
	return x.update(ctx, func(now time.Time, e *Entry, _ *claim) error { return t.applyHeld(e, now) })
}

// Cover renews the claim and changes which pools it covers.
func (x *Held) Cover(ctx context.Context, add, remove []int) error {
	return x.update(ctx, func(_ time.Time, _ *Entry, c *claim) error {
		c.Covers, c.Unmade = c.Covers.with(add).without(remove), c.Unmade.without(add)
		return nil
	})
}

func (x *Held) update(ctx context.Context, f func(now time.Time, e *Entry, c *claim) error) error {
	ctx, done, err := x.pen(ctx)
	if err != nil {
		return err
	}
	defer done()
	purpose := ""
	if f := x.purpose.Load(); f != nil {
		purpose = (*f)()
	}
	err = x.write(ctx, nil, nil, func(now time.Time, e *Entry, c *claim) error {
		if c != nil {
			c.Lease = c.Lease.renewed(x.expires(now), purpose)
		} else if err := renew(x.expires(now), purpose).applyHeld(e, now); err != nil {
			return err
		}
		return f(now, e, c)
	})
	if errors.Is(err, errNotOurs) {
		err = fmt.Errorf("%w: %w", ErrLost, err)
		x.end(err)
	}
	return err
}

// pen makes the caller the one who writes, until done. The context ends with the lease, so that a
// wait for an answer does not keep the lease from ending in time.
func (x *Held) pen(ctx context.Context) (_ context.Context, done func(), err error) {
	ctx, stop := x.Bind(ctx)
	select {
	case x.writing <- struct{}{}:
	case <-ctx.Done():
		stop()
		return nil, nil, context.Cause(ctx)
	}
	if err := x.Check(); err != nil {
		<-x.writing
		stop()
		return nil, nil, err
	}
	ctx, cancel := context.WithDeadline(ctx, x.until())
	return ctx, func() { cancel(); stop(); <-x.writing }, nil
}

// write changes the entry, or the claim, if it is ours. One that was lost is written again as it
// was, but only as long as no other process can have held it. also are values to be written besides.
func (x *Held) write(ctx context.Context, first *Snapshot, also map[string]string, f func(now time.Time, e *Entry, c *claim) error) error {
	var s *Snapshot
	var e Entry
	var c claim
	with := func(text string) map[string]string {
		values := map[string]string{entryKey: text}
		maps.Copy(values, also)
		return values
	}
	err := x.l.change(ctx, x.shard, first, func(now *Snapshot) (values map[string]string, err error) {
		s = now
		if x.Pool == 0 {
			c, err = x.writeClaim(now, f)
			if err != nil {
				return nil, err
			}
			text, err := c.text()
			return with(text), err
		}
		e, err = x.writeEntry(now, f)
		if err != nil {
			return nil, err
		}
		text, err := e.text()
		return with(text), err
	})
	x.mu.Lock()
	defer x.mu.Unlock()
	if err != nil {
		if x.failure == nil {
			x.failing = time.Now()
		}
		x.failure = err
		return err
	}
	x.failure = nil
	x.noteLocked(s, e, c)
	return nil
}

func (x *Held) writeEntry(s *Snapshot, f func(now time.Time, e *Entry, c *claim) error) (Entry, error) {
	e, there, err := s.stored(x.Pool)
	if err != nil {
		return e, err
	}
	if (!there || e.Stored == Recovering) && x.mayRestore() {
		x.mu.Lock()
		e = x.entry
		x.mu.Unlock()
	}
	if e.Lease == nil || e.Lease.Token != x.token || e.Stored != Leased && e.Stored != Building {
		return e, fmt.Errorf("%w: it is %s", errNotOurs, or(e.Why(s.Now), "free"))
	}
	return e, f(s.Now, &e, nil)
}

func (x *Held) writeClaim(s *Snapshot, f func(now time.Time, e *Entry, c *claim) error) (claim, error) {
	c, there, err := s.claim()
	if err != nil {
		return c, err
	}
	if (!there || c.Lease == nil && !c.Until.IsZero()) && !x.late() {
		x.mu.Lock()
		c = x.claim
		x.mu.Unlock()
	}
	if c.Lease == nil || c.Lease.Token != x.token {
		return c, fmt.Errorf("%w: it is %s", errNotOurs, or(c.why(s.Now), "free"))
	}
	return c, f(s.Now, nil, &c)
}

// note notes what was written, and how long it holds by the local clock.
func (x *Held) note(s *Snapshot, e Entry, c claim) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.noteLocked(s, e, c)
}

func (x *Held) noteLocked(s *Snapshot, e Entry, c claim) {
	l := e.Lease
	if x.Pool == 0 {
		l = c.Lease
	}
	x.entry, x.claim, x.asked = e, c, s.Asked
	switch {
	case x.under != nil:
		x.seenLocked(s)
	case l != nil:
		x.ends = s.Asked.Add(l.ExpiresAt.Sub(s.Now) - s.Slack - x.l.Term/10)
	}
}

// renew renews the lease until it is over.
func (x *Held) renew() {
	defer close(x.gone)
	pause := x.l.Term / 3
	for {
		left := time.Until(x.until())
		if wait.Sleep(x.ctx, min(pause, max(left, 0))) != nil {
			return
		}
		ctx, cancel := context.WithTimeout(x.ctx, max(left-pause, 0))
		err := x.renewNow(ctx)
		if err == nil {
			err = x.lookAfter(ctx)
		}
		cancel()
		if x.Check() != nil {
			return
		}
		if pause = x.l.Term / 3; err != nil {
			pause = x.l.Term / 30 // the ledger may be back soon
		}
	}
}

// Release ends the lease on a pool with a transition, if it is still ours. It waits no longer than
// ctx; a lease that could not be released is over when it expires.
func (x *Held) Release(ctx context.Context, t Transition) error {
	return x.release(ctx, nil, t.also, func(now time.Time, e *Entry, _ *claim) error { return t.applyHeld(e, now) })
}

// ReleaseClaim ends the claim, of which made are the pools that it covered and that have a shard
// now, and writes values besides. first, if not nil, is a recent reading of the claim to start from.
func (x *Held) ReleaseClaim(ctx context.Context, first *Snapshot, made []int, values map[string]string) error {
	return x.release(ctx, first, values, func(_ time.Time, _ *Entry, c *claim) error {
		c.Lease, c.Covers, c.Unmade = nil, nil, c.Unmade.with(c.Covers).without(made)
		return nil
	})
}

func (x *Held) release(ctx context.Context, first *Snapshot, also map[string]string, f func(now time.Time, e *Entry, c *claim) error) error {
	x.end(ErrReleased)
	<-x.gone
	x.writing <- struct{}{} // it is free soon: the contexts of all who write have ended
	defer func() { <-x.writing }()
	written := false
	err := x.write(ctx, first, also, func(now time.Time, e *Entry, c *claim) error {
		written = true
		return f(now, e, c)
	})
	if written && errors.Is(err, errNotOurs) {
		return nil // the answer was lost, and the write was done
	}
	return err
}

// Abandon ends the lease here without a word to the ledger, as when its shard is removed.
func (x *Held) Abandon() {
	x.end(ErrReleased)
	<-x.gone
}

// SetValues changes what else there is in the shard of a pool: f makes the values to write, keys
// with prefix before them, from those that are there, and may be called several times.
func (x *Held) SetValues(ctx context.Context, prefix string, f func(now time.Time, values map[string]string) (map[string]string, error)) error {
	if err := x.renewNow(ctx); err != nil {
		return err
	}
	ctx, done, err := x.pen(ctx)
	if err != nil {
		return err
	}
	defer done()
	return x.l.change(ctx, x.shard, nil, func(s *Snapshot) (map[string]string, error) {
		e, there, err := s.stored(x.Pool)
		if err != nil {
			return nil, err
		}
		if !there || e.Lease == nil || e.Lease.Token != x.token {
			return nil, fmt.Errorf("%w: the ledger says that it is %s", ErrLost, or(e.Why(s.Now), "free"))
		}
		values, err := f(s.Now, s.Values(x.Pool, prefix))
		if err != nil || len(values) == 0 {
			return nil, err
		}
		all := map[string]string{}
		for k, v := range values {
			all[prefix+k] = v
		}
		return all, nil
	})
}

func or(s, standard string) string {
	if s == "" {
		return standard
	}
	return s
}
