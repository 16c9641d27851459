package vsphere

import (
	"context"
	"time"

	"github.com/vmware/govmomi/vim25/methods"
)

// A reading is what vCenter's clock said at a moment of ours.
type reading struct {
	theirs, ours time.Time
}

const (
	readingLasts = time.Minute
	readingTakes = time.Second // at most, to be good for more than the moment
)

// now is vCenter's clock. It is asked for once a minute, and read off our own in between: anew when this process or its
// machine has slept, which the wall clock notices and the monotonic one may not, or our clock was set.
func (p *Provider) now(ctx context.Context) (time.Time, error) {
	p.mu.Lock()
	last := p.clock
	p.mu.Unlock()
	if since := time.Since(last.ours); !last.ours.IsZero() && since < readingLasts {
		wall := time.Now().Round(0).Sub(last.ours.Round(0))
		if (wall - since).Abs() < 100*time.Millisecond {
			return last.theirs.Add(since), nil
		}
	}
	var r reading
	var took time.Duration
	err := p.s.read(ctx, func(c *conn) error {
		asked := time.Now()
		now, err := methods.GetCurrentTime(ctx, c)
		if err == nil {
			took = time.Since(asked)
			r = reading{*now, asked.Add(took / 2)}
		}
		return err
	})
	if err != nil {
		return time.Time{}, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.clock = r; took > readingTakes {
		p.clock = reading{}
	}
	return r.theirs.Add(time.Since(r.ours)), nil
}
