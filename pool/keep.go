package pool

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/poolready/poolready/pool/internal/lease"
)

// keepTime is KeepPolicy.For unless it is set.
const keepTime = 4 * time.Hour

// KeepOptions say how Keep keeps a pool.
type KeepOptions struct {
	Reason string        // for people; "" means by hand
	For    time.Duration // how long; 0 means 4 hours
}

// Keep leaves the pools that the Spec is about as they are to a person, as Spec.Keep does with
// that of a failed test: no test gets them until the time is over, or until Release. If anybody holds
// one of them, it is not taken away, and the error says who; one that is kept already is kept for
// that long from now on. One that is not built yet cannot be kept.
func Keep(ctx context.Context, spec Spec, o KeepOptions) error {
	if err := spec.validate(); err != nil {
		return fmt.Errorf("pool: %w", err)
	}
	s := spec.withDefaults()
	if o.For < 0 {
		return fmt.Errorf("pool: keep pools of set %q: For is %s, must not be negative", s.Name, o.For)
	}
	l := newLedger(s)
	obs, err := observe(ctx, s, l)
	if err != nil {
		return fmt.Errorf("pool: keep pools of set %q: %w", s.Name, err)
	}
	p, err := obs.plan(s, nil)
	if p == nil {
		return fmt.Errorf("pool: keep pools of set %q: %w", s.Name, err)
	}
	d := cmp.Or(o.For, keepTime)
	reason := fmt.Sprintf("%s, by %s", cmp.Or(o.Reason, "by hand"), l.By)
	var errs []error
	for _, q := range p.pools {
		if err := keepPool(ctx, l, q, reason, d); err != nil {
			errs = append(errs, fmt.Errorf("pool: keep pool %d of set %q: %w", q.number, s.Name, err))
		}
	}
	return errors.Join(errs...)
}

func keepPool(ctx context.Context, l *lease.Ledger, q *poolPlan, reason string, d time.Duration) error {
	if q.state == lease.Absent { // a lease would block its builder
		return errNotBuilt
	}
	n := q.number
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
