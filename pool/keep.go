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
