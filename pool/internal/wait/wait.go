// Package wait has what waits between two tries have in common.
package wait

import (
	"context"
	"math/rand/v2"
	"time"
)

// Sleep waits, and returns ctx's error if that ends first.
func Sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// Jitter spreads d over half to one and a half of it, so that those who met do not meet again.
func Jitter(d time.Duration) time.Duration { return d/2 + rand.N(d+1) }
