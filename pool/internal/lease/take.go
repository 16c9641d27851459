package lease

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// A BusyError says that a pool, or the claim, cannot be leased now, and why.
type BusyError struct {
	Pool  int // 0 is the claim
	State State
	Lease *Lease // the one in force, or nil
	Why   string // in words
}

func (e *BusyError) Error() string { return e.Why }

// A Request is for a lease on a pool.
type Request struct {
	Pool    int
	Purpose string // the test, or the operation
	// First, if not nil, is a recent reading of the whole ledger to start from.
	First *Snapshot
	// Under, if not nil, is the claim of this process: the lease lasts as long as that, and is not
	// renewed itself.
	Under *Held
}

// Acquire leases a pool that is clean or dirty, for a test. The error is a *BusyError if it is
// neither. was is what the entry was before.
func (l *Ledger) Acquire(ctx context.Context, r Request) (x *Held, was Entry, err error) {
	return l.take(ctx, r, acquire)
}

// Operate leases a pool that is free, for an operation, which cares for a broken one itself. Errors
// as in Acquire.
func (l *Ledger) Operate(ctx context.Context, r Request) (x *Held, was Entry, err error) {
	return l.take(ctx, r, operate)
}

// Build leases a pool that is free and has a shard, to make its hosts ready. Errors as in Acquire.
func (l *Ledger) Build(ctx context.Context, r Request) (x *Held, was Entry, err error) {
	return l.take(ctx, r, build)
}

// take leases a pool. A lease that has expired by the time it is confirmed is tried once more, and so
// is one that this process slept too long to get.
func (l *Ledger) take(ctx context.Context, r Request, how func(*Lease) Transition) (x *Held, was Entry, err error) {
	for try := 1; ; try++ {
		x, was, err = l.tryTake(ctx, r, how)
		r.First = nil
		if errors.Is(err, errSlept) && try == 1 && ctx.Err() == nil {
			continue
		}
		if err != nil || !x.late() {
			break
		}
		l.undo(ctx, x)
		if try == 2 {
			return nil, Entry{}, fmt.Errorf("pool %d: %w: it expired before the write was confirmed, twice: the ledger takes longer to answer than the lease of %s lasts", r.Pool, ErrLost, l.Term)
		}
	}
	if err != nil {
		return nil, Entry{}, err
	}
	x.keep() //nolint:contextcheck // it lasts as long as the lease
	return x, was, nil
}

func (l *Ledger) tryTake(ctx context.Context, r Request, how func(*Lease) Transition) (x *Held, was Entry, err error) {
	x = newHeld(l, r.Pool)
	x.under = r.Under
	attempted, placeholder := false, false
	if r.Under != nil {
		if err := r.Under.Check(); err != nil {
			return nil, Entry{}, err
		}
	}
	err = l.within(ctx, func(ctx context.Context) error {
		return l.change(ctx, x.shard, r.First, func(s *Snapshot) (map[string]string, error) {
			e, there, err := s.pool(r.Pool)
			if err != nil {
				return nil, err
			}
			if there && e.Lease != nil && e.Lease.Token == x.token {
				x.note(s, e, claim{})
				return nil, nil // the answer to our write was lost
			}
			if r.First != nil && !r.First.Current() && s != r.First { // others may have come first meanwhile
				return nil, &BusyError{r.Pool, e.State(s.Now), e.Holder(s.Now), or(e.Why(s.Now), "used since it was last read")}
			}
			placeholder = false
			if !there && e.Stored == Recovering {
				placeholder = true // say until when it cannot be leased
			} else {
				was = e
				t := how(x.lease(s.Now, r.Purpose))
				if state := e.State(s.Now); !slices.Contains(t.from, state) {
					if _, ok := s.Shards[claimShard]; !ok { // that of its lease was lost: say until when
						if err := l.endClaim(ctx, r.Pool, e); err != nil {
							return nil, err
						}
					}
					return nil, &BusyError{r.Pool, state, e.Holder(s.Now), e.Why(s.Now)}
				}
				if err := l.endClaim(ctx, r.Pool, e); err != nil {
					return nil, err
				}
				if err := t.Apply(&e, s.Now); err != nil {
					return nil, err
				}
				attempted, x.tried = true, s.Shards[x.shard].Revision
				x.note(s, e, claim{})
			}
			text, err := e.text()
			return map[string]string{entryKey: text}, err
		})
	})
	switch {
	case err != nil && attempted:
		l.undo(ctx, x)
		return nil, Entry{}, err
	case err != nil:
		return nil, Entry{}, err
	case placeholder:
		return nil, Entry{}, &BusyError{Pool: r.Pool, State: Recovering, Why: "recovering: its entry in the ledger was lost, and its last holder may still have it"}
	}
	return x, was, nil
}

// errSlept says that a try to lease ended so long after its time that this process cannot have been
// running: it was stopped, or its machine slept.
var errSlept = errors.New("this process was stopped for a while")

// within bounds a try to lease by the time for which a lease is good.
func (l *Ledger) within(ctx context.Context, f func(context.Context) error) error {
	began := time.Now()
	ctx, cancel := context.WithTimeoutCause(ctx, l.Term, fmt.Errorf("no lease within %s", l.Term))
	defer cancel()
	err := f(ctx)
	if err != nil && !errors.As(err, new(*BusyError)) && time.Since(began) > l.Term+l.Term/8 {
		return fmt.Errorf("%w: %w", errSlept, err)
	}
	return err
}

// undo makes sure that a lease that was requested is not there, though the answer is unknown, or
// came too late: what is still on its way fails, since the shard has changed.
func (l *Ledger) undo(ctx context.Context, x *Held) {
	x.end(ErrReleased)
	ctx, cancel := Afterwards(ctx)
	defer cancel()
	// What fails here expires by itself.
	_ = l.change(ctx, x.shard, nil, func(s *Snapshot) (map[string]string, error) {
		// Unless it is ours, or may still become ours, somebody else has written since.
		pending := s.Shards[x.shard].Revision == x.tried
		if x.Pool == 0 {
			c, _, err := s.claim()
			mine := c.Lease != nil && c.Lease.Token == x.token
			if err != nil || !mine && !pending {
				return nil, err
			}
			if mine {
				c.Lease = nil
			}
			text, err := c.text()
			return map[string]string{entryKey: text}, err
		}
		e, there, err := s.stored(x.Pool)
		mine := there && e.Lease != nil && e.Lease.Token == x.token
		if err != nil || !mine && (!pending || !there) {
			return nil, err
		}
		if mine {
			e.stored(e.idle())
		}
		text, err := e.text()
		return map[string]string{entryKey: text}, err
	})
}

// Afterwards returns a context for what must still be done when ctx has ended.
func Afterwards(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
}

// A ClaimRequest is for the claim to build.
type ClaimRequest struct {
	Purpose string
	// Fresh says that no process can be building, since no VM of the set is there: a missing claim then needs no
	// wait.
	Fresh bool
	// First, if not nil, is a recent reading of the whole ledger to start from.
	First *Snapshot
	// Covers returns the pools without a shard that the claim is to cover, from a reading of the
	// claim.
	Covers func(s *Snapshot) []int
}

// TakeClaim makes this process the one that builds, unless another one is: then the error is a
// *BusyError. unchanged reports that the claim was taken with r.First: it was not written since.
func (l *Ledger) TakeClaim(ctx context.Context, r ClaimRequest) (x *Held, unchanged bool, err error) {
	x, unchanged, err = l.tryClaim(ctx, r)
	if errors.Is(err, errSlept) && ctx.Err() == nil {
		r.First = nil
		x, unchanged, err = l.tryClaim(ctx, r)
	}
	return x, unchanged, err
}

func (l *Ledger) tryClaim(ctx context.Context, r ClaimRequest) (x *Held, unchanged bool, err error) {
	x = newHeld(l, 0)
	attempted, placeholder := false, false
	err = l.within(ctx, func(ctx context.Context) error {
		return l.change(ctx, claimShard, r.First, func(s *Snapshot) (map[string]string, error) {
			c, there, err := s.claim()
			if err != nil {
				return nil, err
			}
			if c.Lease != nil && c.Lease.Token == x.token {
				x.note(s, Entry{}, c)
				return nil, nil // the answer to our write was lost
			}
			placeholder = false
			switch h := c.Holder(s.Now); {
			case h != nil:
				return nil, &BusyError{State: Building, Lease: h, Why: c.why(s.Now)}
			case s.Now.Before(c.Until):
				return nil, &BusyError{State: Recovering, Why: c.why(s.Now)}
			case !there && !r.Fresh:
				placeholder = true
				c = claim{Until: s.Now.Add(l.Term)}
			default:
				c.Until = time.Time{}
				c.Lease = x.lease(s.Now, r.Purpose)
				var covers numbers
				if r.Covers != nil {
					covers = covers.with(r.Covers(s))
				}
				c.Covers, c.Unmade = covers, c.Unmade.with(c.Covers).without(covers)
				attempted, unchanged = true, s == r.First
				x.tried = s.Shards[claimShard].Revision
				x.note(s, Entry{}, c)
			}
			text, err := c.text()
			return map[string]string{entryKey: text}, err
		})
	})
	switch {
	case err != nil && attempted && !errors.As(err, new(*BusyError)):
		l.undo(ctx, x)
		return nil, false, err
	case err != nil:
		return nil, false, err
	case placeholder:
		return nil, false, &BusyError{State: Recovering, Why: "recovering: the claim was lost, and its holder may still build"}
	case x.late():
		l.undo(ctx, x)
		return nil, false, fmt.Errorf("the claim to build: %w: it expired before the write was confirmed: the ledger takes longer to answer than the lease of %s lasts", ErrLost, l.Term)
	}
	x.keep() //nolint:contextcheck // it lasts as long as the lease
	return x, unchanged, nil
}

// Make makes the shard of a pool that the claim covers, with what has become of it: the pool
// belongs to its lessee once the claim is released. first, if not nil, is a recent reading
// of the claim to start from.
func (x *Held) Make(ctx context.Context, pool int, first *Snapshot, t Transition) error {
	err := x.make(ctx, pool, first, t)
	if errors.Is(err, errClaimMissing) { // removed by hand
		if err = x.renewNow(ctx); err == nil {
			err = x.make(ctx, pool, nil, t)
		}
	}
	return err
}

var errClaimMissing = errors.New("the claim is missing in the ledger")

func (x *Held) make(ctx context.Context, pool int, first *Snapshot, t Transition) error {
	if err := x.Check(); err != nil {
		return err
	}
	ctx, stop := x.Bind(ctx)
	defer stop()
	wrote := ""
	return x.l.change(ctx, poolShard(pool), first, func(s *Snapshot) (map[string]string, error) {
		c, there, err := s.claim()
		switch {
		case err != nil:
			return nil, err
		case !there || c.Lease == nil && !c.Until.IsZero():
			return nil, errClaimMissing
		case c.Lease == nil || c.Lease.Token != x.token || !c.Covers.has(pool):
			return nil, fmt.Errorf("%w: %w", ErrLost, errNotOurs)
		}
		if old := s.Shards[poolShard(pool)].Values[entryKey]; wrote != "" && old == wrote {
			return nil, nil // the answer was lost
		}
		// A shard that is there all the same was made, late, under an earlier claim; no process has leased
		// the pool, as this claim covers it.
		e := Entry{Stored: Building, Lease: c.Lease}
		if err := t.applyHeld(&e, s.Now); err != nil {
			return nil, err
		}
		wrote, err = e.text()
		values := map[string]string{entryKey: wrote}
		maps.Copy(values, t.also)
		return values, err
	})
}
