package pool

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/poolready/poolready/pool/events"
	"github.com/poolready/poolready/pool/internal/lease"
)

// release takes a pool back when its test is over, and keeps it until a time, if the Spec says so,
// or cleans it for the next test. The error says that the test had lost it.
func (s *Set) release(p *Pool, failed bool) (kept time.Time, err error) {
	err = p.lease.Check()
	p.end()
	s.queue.leave(p.test)
	if err != nil {
		return kept, err
	}
	if until, is := s.keep(p, failed); is {
		return until, nil
	}
	if !s.inBackground(func() { s.cleanUp(p) }) {
		_ = s.free(p.lease, lease.Used(p.test)) // the set is closed
	}
	return kept, nil
}

// cleanUp resets a pool that a test has released, still under its lease, and frees it.
func (s *Set) cleanUp(p *Pool) {
	x := p.lease
	base := s.pool(p.Number)
	ctx := s.log.within(s.ctx, events.Event{Stage: "reset", Test: p.test})
	err := x.Update(ctx, lease.Resetting(p.test))
	var found *lease.Proof
	var boots []string
	if err == nil {
		err = s.cleanExternals(ctx, x)
	}
	if err == nil {
		found, boots, err = s.reset(ctx, x, base, p.boots)
	}
	switch {
	case err == nil:
		s.sawBoots(p.Number, boots)
		_ = s.free(x, lease.Cleaned(base.build, found, boots))
	case s.ctx.Err() != nil || x.Check() != nil:
		_ = s.free(x, lease.Released())
	default:
		s.resetFailed(x, err)
	}
}

// free ends the lease on a pool with a transition. The error has been told.
func (s *Set) free(x *lease.Held, t lease.Transition) error {
	err := releaseLease(s.ctx, x, t)
	if err != nil {
		s.log.linef("pool %d: not released, so it is free when its lease expires: %v", x.Pool, err)
	}
	s.queue.free()
	return err
}

// resetFailed frees a pool that could not be made clean: it is rebuilt before a test gets it, and
// after some failures it is quarantined.
func (s *Set) resetFailed(x *lease.Held, err error) {
	switch {
	case errors.Is(err, errUnfit):
		s.exclude(x.Pool, err)
		fallthrough
	case x.Check() != nil: // what failed was us
		_ = s.free(x, lease.Released())
		return
	}
	s.log.linef("pool %d: %s", x.Pool, indent(err.Error(), "    "))
	_ = s.free(x, lease.ResetFailed(err, rebuildHelps(err)))
	s.repair(x.Pool)
}

// exclude makes a pool unusable for this process.
func (s *Set) exclude(n int, err error) {
	s.queue.exclude(n, err)
	s.log.linef("pool %d: excluded from this run: %s", n, indent(err.Error(), "    "))
}

// rebuildHelps reports whether rebuilding a pool may end a failure.
func rebuildHelps(err error) bool { return !errors.As(err, new(*cleanupError)) }

// keep leaves a pool that a test has released to a person, if the Spec says so, until a time. It is
// not for the next test then.
func (s *Set) keep(p *Pool, failed bool) (until time.Time, kept bool) {
	k := s.spec.Keep
	if k.When != "always" && (k.When != "failed" || !failed) {
		return until, false
	}
	ctx, cancel := lease.Afterwards(context.Background())
	defer cancel()
	may, n, now, err := p.lease.MayKeep(ctx, cmp.Or(k.Pools, 1))
	if err != nil {
		s.log.linef("pool %d: not kept: %v", p.Number, err)
		return until, false
	}
	if !may {
		s.log.linef("pool %d: not kept: %d are already, as many as Spec.Keep.Pools allows", p.Number, n)
		return until, false
	}
	until = now.Add(cmp.Or(k.For, keepTime))
	what := map[bool]string{true: "failed", false: "passed"}[failed]
	reason := fmt.Sprintf("%s, which %s, run by %s", p.test, what, s.ledger.By)
	if s.free(p.lease, lease.Keep(reason, until, p.test)) != nil {
		return time.Time{}, true // it is no longer ours, or not for long
	}
	var look strings.Builder
	for _, h := range p.hosts {
		fmt.Fprintf(&look, "\n    %s: %s", h.Name, h.Look())
	}
	s.log.linef("pool %d: kept as %s left it, until %s:%s\n    pool.Release frees it", p.Number, p.test, stamp(until), look.String())
	return until, true
}

// Release frees the pools that the Spec is about and that are kept or quarantined, or whose
// holder was a process of this machine that has ended. They are reset before a test gets them, and
// rebuilt if they are broken. A pool that somebody holds is not taken away: the error says who.
func Release(ctx context.Context, spec Spec) error {
	if err := spec.validate(); err != nil {
		return fmt.Errorf("pool: %w", err)
	}
	s := spec.withDefaults()
	l := newLedger(s)
	var errs []error
	for _, n := range s.numbers() {
		gone, err := l.Free(ctx, n)
		if err != nil {
			errs = append(errs, fmt.Errorf("pool: release pool %d of set %q: %w", n, s.Name, err))
		}
		if gone != nil {
			s.Logf("pool %d: released: it was held by %s, which has ended", n, gone)
		}
	}
	return errors.Join(errs...)
}
