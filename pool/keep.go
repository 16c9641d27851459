package pool

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/poolready/poolready/pool/internal/lease"
)

// KeepPolicy says when a pool stays as its test left it, for a person to look at.
type KeepPolicy struct {
	// When is "failed", "always" or "never". Required if Pools or For is set; else "" means "never".
	When string
	// Pools is how many are kept at most, of all processes; 0 means 1.
	Pools int
	// For is how long; 0 means 4 hours. Then the pool is reset by whoever wants it next.
	For time.Duration
}

func (k KeepPolicy) validate(f *faults) {
	switch k.When {
	case "":
		if k != (KeepPolicy{}) {
			f.addf("Spec.Keep.When", "is empty, so nothing would be kept; want never, failed or always")
		}
	case "never", "failed", "always":
	default:
		f.addf("Spec.Keep.When", "is %q; want never, failed or always", k.When)
	}
	f.number("Spec.Keep.Pools", k.Pools, 0)
	f.duration("Spec.Keep.For", k.For, time.Millisecond)
}

// keepTime is KeepPolicy.For unless it is set.
const keepTime = 4 * time.Hour

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
		return time.Time{}, true // it is not ours any more, or not for long
	}
	var look strings.Builder
	for _, h := range p.hosts {
		fmt.Fprintf(&look, "\n    %s: %s", h.Name, h.Look())
	}
	s.log.linef("pool %d: kept as %s left it, until %s:%s\n    pool.Release frees it", p.Number, p.test, stamp(until), look.String())
	return until, true
}

// KeepOptions say how Keep keeps a pool.
type KeepOptions struct {
	Reason string        // for people; "" means by hand
	For    time.Duration // how long; 0 means 4 hours
}

// Keep leaves the pools that the Spec is about as they are to a person, as Spec.Keep does with
// that of a failed test: nobody gets them until the time is over, or until Release. If anybody holds
// one of them, it is not taken away, and the error says who; one that is kept already is kept for
// that long from now on.
func Keep(ctx context.Context, spec Spec, o KeepOptions) error {
	if err := spec.validate(); err != nil {
		return fmt.Errorf("pool: %w", err)
	}
	s := spec.withDefaults()
	if o.For < 0 {
		return fmt.Errorf("pool: keep pools of set %q: For is %s, must not be negative", s.Name, o.For)
	}
	l := newLedger(s)
	d := cmp.Or(o.For, keepTime)
	reason := fmt.Sprintf("%s, by %s", cmp.Or(o.Reason, "by hand"), l.By)
	var errs []error
	for _, n := range s.numbers() {
		if err := keepPool(ctx, l, n, reason, d); err != nil {
			errs = append(errs, fmt.Errorf("pool: keep pool %d of set %q: %w", n, s.Name, err))
		}
	}
	return errors.Join(errs...)
}

func keepPool(ctx context.Context, l *lease.Ledger, n int, reason string, d time.Duration) error {
	x, was, err := take(ctx, l.Operate, lease.Request{Pool: n, Purpose: "keep"})
	if busy, ok := errors.AsType[*BusyError](err); ok && busy.State == lease.Kept {
		return public(l.Prolong(ctx, n, reason, d))
	}
	if err != nil {
		return err
	}
	now, err := l.ReadPool(ctx, n)
	if err != nil {
		return errors.Join(err, releaseLease(ctx, x, lease.Untouched(was)))
	}
	return releaseLease(ctx, x, lease.Keep(reason, now.Now.Add(d), ""))
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
