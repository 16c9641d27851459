package pool

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// A lease is a shard of the ledger that this process holds, until it gives it back or loses it. A
// goroutine renews it at a third of its term; lost or given back, its context ends.
//
// The ledger's clock says when a lease is over, the local one when this process must stop: a
// tenth of the term earlier than the ledger would, counted from before the ledger's clock was
// asked, by the monotonic clock and by the wall clock, of which one or the other goes on while the
// process or the machine sleeps.
type lease struct {
	l     *ledger
	shard string
	token string
	ctx   context.Context
	end   context.CancelCauseFunc
	gone  chan struct{} // closed when the heart has stopped

	doing   atomic.Pointer[func() string] // what to write down that it is held for, if that changes
	writing chan struct{}                 // has room for whoever changes the entry

	// unchanged tells that it was taken with the first reading: nobody had written since.
	unchanged bool

	mu   sync.Mutex // guards what follows
	last entry      // as last written
	ends time.Time  // of the local clock
}

// A busyError says why somebody else has it.
type busyError struct {
	why  string
	kind string // of the block, or "" if somebody holds it
}

func (e *busyError) Error() string { return e.why }

// busyError is the error of an entry that is busy.
func (e entry) busyError(now time.Time) *busyError {
	busy := &busyError{why: e.busy(now)}
	if e.holder(now) == nil {
		busy.kind = e.Block.Kind
	}
	return busy
}

// A request is for a shard.
type request struct {
	shard, what string
	// fresh tells that nobody can hold what the shard is of, since it is not there: a missing entry
	// then needs no wait.
	fresh bool
	// lend tells that the pool is to be lent, so that one that must be built anew first will not do.
	lend bool
	// first, if not nil, is a reading to start from; also, if nobody has written since, returns what
	// is to be written with the lease of that token.
	first *books
	also  func(token string) (map[string]string, error)
}

// errMissing says that a pool has no shard.
var errMissing = errors.New("it has no entry in the ledger")

// take makes this process the holder of a shard, unless it is busy: then the error is a
// *busyError. was is what the entry was before.
func (l *ledger) take(ctx context.Context, r request) (x *lease, was entry, err error) {
	x = &lease{l: l, shard: r.shard, token: newToken(), writing: make(chan struct{}, 1)}
	var born *entry                             // of a newborn pool
	asked := shardPool(r.shard) == 0 || r.fresh // whether bear was, or need not be
	taken := false
	write := func(b books, e *entry, there bool) (bool, error) {
		taken = true
		if e.Lease != nil && e.Lease.Token == x.token {
			x.noteTaken(b, *e)
			return false, nil // the answer to our write was lost
		}
		_, exists := b.Shards[r.shard]
		switch {
		case !asked && (!exists || there && e.recovered(b.Now)):
			return false, errMissing
		case there:
		case r.fresh:
			*e = entry{}
		case born != nil && !exists:
			*e = *born
		}
		if why := e.busy(b.Now); why != "" {
			if taken = false; !there {
				return true, nil // write down until when it is blocked
			}
			return false, e.busyError(b.Now)
		}
		if r.lend && e.Broken != "" {
			taken = false
			return false, &busyError{why: "to be built anew: " + e.Broken}
		}
		was = *e
		e.Block, e.Clean = nil, nil
		e.Lease, e.also = x.tenure(b.Now, r.what), map[string]string{}
		if x.unchanged = r.first != nil && b.Ledger == r.first.Ledger; x.unchanged && r.also != nil {
			if e.also, err = r.also(x.token); err != nil {
				return false, err
			}
		}
		x.noteTaken(b, *e)
		return true, nil
	}
	err = l.changeEntry(ctx, r.shard, r.first, write)
	if errors.Is(err, errMissing) {
		if born, err = l.bear(ctx, x, r.what); err == nil || errors.Is(err, errMissing) {
			asked = true
			err = l.changeEntry(ctx, r.shard, nil, write)
		}
	}
	if err != nil {
		return nil, entry{}, err
	}
	if !taken { // only the block was written
		return nil, entry{}, &busyError{why: "being recovered: its entry in the ledger was lost, and whoever holds it may still be there", kind: blockUnknown}
	}
	x.ctx, x.end = context.WithCancelCause(context.Background())
	x.gone = make(chan struct{})
	if x.late() { // it took longer than a lease lasts, and nobody has relied on it
		x.end(ErrLeaseLost)
		return nil, entry{}, &busyError{why: "held by this process, whose lease was over before it was there"}
	}
	go x.beat()
	return x, was, nil
}

func (x *lease) tenure(now time.Time, what string) *tenure {
	return &tenure{Owner: x.l.by, For: what, Token: x.token, Since: now, Until: now.Add(x.l.term)}
}

// noteTaken notes the entry that holds us, with all that was written with it, and how long it does
// by the local clock.
func (x *lease) noteTaken(b books, e entry) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if e.also == nil {
		e.also = x.last.also
	}
	x.last = e
	x.ends = b.asked.Add(e.Lease.Until.Sub(b.Now) - b.Slack - x.l.term/10)
}

// check tells, without asking anybody, whether the lease may still be relied on.
func (x *lease) check() error {
	if err := context.Cause(x.ctx); err != nil {
		return err
	}
	if !x.late() {
		return nil
	}
	err := fmt.Errorf("%w: it was not renewed in time", ErrLeaseLost)
	x.end(err)
	return err
}

// until is when, by the local clock, it may no longer be relied on.
func (x *lease) until() time.Time {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.ends
}

// late tells whether that is over, by the monotonic clock or the wall clock.
func (x *lease) late() bool {
	now, ends := time.Now(), x.until()
	return !now.Before(ends) || !now.Round(0).Before(ends.Round(0))
}

// errNotOurs is what changing an entry returns when somebody else holds it.
var errNotOurs = errors.New("somebody else has it")

// set changes the entry, which must be ours, and renews the lease with it. An entry that was lost
// is written anew as we knew it.
func (x *lease) set(ctx context.Context, f func(now time.Time, e *entry)) error {
	return x.alter(ctx, func(b books, e *entry) error { f(b.Now, e); return nil })
}

func (x *lease) alter(ctx context.Context, f func(b books, e *entry) error) error {
	ctx, done, err := x.pen(ctx)
	if err != nil {
		return err
	}
	defer done()
	err = x.write(ctx, func(b books, e *entry) error {
		if doing := x.doing.Load(); doing != nil {
			e.Lease.For = (*doing)()
		}
		e.Lease.Until = b.Now.Add(x.l.term)
		return f(b, e)
	})
	if errors.Is(err, errNotOurs) {
		err = fmt.Errorf("%w: %w", ErrLeaseLost, err)
		x.end(err)
	}
	return err
}

// pen makes the caller the one who writes, until done. The context ends with the lease, so that
// whoever waits for an answer does not keep the heart from finding that it is over.
func (x *lease) pen(ctx context.Context) (_ context.Context, done func(), err error) {
	ctx, stop := x.bind(ctx)
	select {
	case x.writing <- struct{}{}:
	case <-ctx.Done():
		stop()
		return nil, nil, context.Cause(ctx)
	}
	if err := x.check(); err != nil {
		<-x.writing
		stop()
		return nil, nil, err
	}
	ctx, cancel := context.WithDeadline(ctx, x.until())
	return ctx, func() { cancel(); stop(); <-x.writing }, nil
}

// write changes the entry if it is ours. One that was lost is written anew, but only as long as
// nobody else can have had it.
func (x *lease) write(ctx context.Context, f func(b books, e *entry) error) error {
	var b books
	var e entry
	err := x.l.changeEntry(ctx, x.shard, nil, func(now books, there *entry, ok bool) (bool, error) {
		x.mu.Lock()
		last := x.last
		x.mu.Unlock()
		if (!ok || there.Lease == nil && there.Block != nil && there.Block.Kind == blockUnknown) && !x.late() {
			mine := *last.Lease
			last.Lease = &mine
			*there = last
		}
		if there.Lease == nil || there.Lease.Token != x.token {
			return false, fmt.Errorf("%w: %s", errNotOurs, or(there.busy(now.Now), "it is free"))
		}
		if err := f(now, there); err != nil {
			return false, err
		}
		b, e = now, *there
		return true, nil
	})
	if err == nil && e.Lease != nil {
		x.noteTaken(b, e)
	}
	return err
}

// Held tells whether what is done under ctx may still be done: it returns an error for which
// errors.Is(err, ErrLeaseLost) holds as soon as the lease that it is done under is over, even if
// this process slept and ctx has not ended yet. A Provider asks it right before each call that
// changes something. Without a lease it returns nil.
func Held(ctx context.Context) error {
	if x, ok := ctx.Value(heldKey{}).(*lease); ok && x.late() {
		return x.check()
	}
	return nil
}

type heldKey struct{}

// bind returns a context that ends when ctx or the lease does.
func (x *lease) bind(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(context.WithValue(ctx, heldKey{}, x))
	stop := context.AfterFunc(x.ctx, func() { cancel(context.Cause(x.ctx)) })
	return ctx, func() { stop(); cancel(nil) }
}

// confirm asks the ledger whether the lease is ours, as must be done right before anything that
// cannot be undone, and leaves time for it: what is left of the lease is at least half.
func (x *lease) confirm(ctx context.Context) error {
	return x.set(ctx, func(time.Time, *entry) {})
}

// beat renews the lease until it is over.
func (x *lease) beat() {
	defer close(x.gone)
	wait := x.l.term / 3
	for {
		left := time.Until(x.until())
		if sleep(x.ctx, min(wait, max(left, 0))) != nil {
			return
		}
		ctx, cancel := context.WithTimeout(x.ctx, max(left-wait, 0))
		err := x.set(ctx, func(time.Time, *entry) {})
		cancel()
		if x.check() != nil {
			return
		}
		if wait = x.l.term / 3; err != nil {
			wait = x.l.term / 30 // vCenter may be back soon
		}
	}
}

// release gives the shard back, if it is still ours, with what f makes of the entry.
func (x *lease) release(ctx context.Context, f func(b books, e *entry)) error {
	x.end(ErrReturned)
	<-x.gone
	x.writing <- struct{}{} // it is free soon: the contexts of all who write have ended
	defer func() { <-x.writing }()
	written := false
	err := x.write(ctx, func(b books, e *entry) error {
		written = true
		if f != nil {
			f(b, e)
		}
		e.Lease = nil
		return nil
	})
	if written && errors.Is(err, errNotOurs) {
		return nil // the answer was lost, and the write was done
	}
	return err
}
