package vsphere

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/poolready/poolready/pool"
)

func (s *session) backoff() backoff { return backoff{limit: s.outage, health: &s.health} }

// backoff spaces repetitions of one call, from 50 ms doubling to 5 s, until its limit, by
// the clock since the first failure, or vCenter as a whole has not answered for that long.
type backoff struct {
	limit  time.Duration
	health *health // nil: only this call counts

	pause time.Duration
	began time.Time // zero until the first failure
	told  time.Time // when a notice was given last
	tries int
}

// wait pauses before the next try, after err; it returns false if there should be none.
func (b *backoff) wait(ctx context.Context, err error) bool {
	now := time.Now()
	if b.began.IsZero() {
		b.began, b.told = now, now
	}
	b.tries++
	b.pause = min(max(2*b.pause, 50*time.Millisecond), 5*time.Second)
	if now.Sub(b.began)+b.pause > b.limit || b.health != nil && b.health.silent() > b.limit {
		return false
	}
	if now.Sub(b.told) >= noticeAfter {
		b.told = now
		pool.Notice(ctx, "vCenter: %v; trying again since %s (%s), up to %s", err, clockTime(b.began), brief(now.Sub(b.began)), brief(b.limit))
	}
	return sleep(ctx, b.pause)
}

// over is err with how long and how often was tried.
func (b *backoff) over(err error) error {
	if b.tries < 2 || errors.As(err, new(*overError)) {
		return err
	}
	return &overError{err: err, tries: b.tries, since: b.began}
}

// overError is the last error of a call that was repeated.
type overError struct {
	err   error
	tries int
	since time.Time
}

func (e *overError) Error() string {
	return fmt.Sprintf("%v (tried %d times since %s, for %s)", e.err, e.tries, clockTime(e.since), brief(time.Since(e.since)))
}

func (e *overError) Unwrap() error { return e.err }

// sleep waits for d; it returns false if ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
