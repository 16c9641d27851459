package vsphere

import (
	"context"
	"time"

	"github.com/vmware/govmomi/vim25/methods"
)

// A reading is what vCenter's clock said, at a moment of ours at which it was not earlier, and
// later by no more than slack.
type reading struct {
	theirs, ours time.Time
	slack        time.Duration
}

const (
	readingLasts = 3 * time.Minute
	readingTakes = 200 * time.Millisecond // at most, to be good for more than the moment
)

// now is vCenter's clock, and by how much it may be later than that. It is read every three
// minutes, and derived from our own in between. It is also read when this process or its machine has
// slept, which the wall clock notices and the monotonic one may not, and when our clock was set.
func (p *Provider) now(ctx context.Context) (time.Time, time.Duration, error) {
	p.mu.Lock()
	last := p.clock
	p.mu.Unlock()
	if since := time.Since(last.ours); !last.ours.IsZero() && since < readingLasts {
		wall := time.Now().Round(0).Sub(last.ours.Round(0))
		if (wall - since).Abs() < 100*time.Millisecond {
			return last.theirs.Add(since), last.slack, nil
		}
	}
	var r reading
	err := p.s.read(ctx, func(c *conn) error {
		asked := time.Now()
		now, err := methods.GetCurrentTime(ctx, c)
		if err == nil {
			r = reading{theirs: *now, ours: time.Now(), slack: time.Since(asked)}
		}
		return err
	})
	if err != nil {
		return time.Time{}, 0, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.clock = r; r.slack > readingTakes {
		p.clock = reading{}
	}
	return r.theirs.Add(time.Since(r.ours)), r.slack, nil
}
