package pool_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/pool"
	"github.com/poolready/poolready/pool/pooltest"
	"github.com/poolready/poolready/vsphere/vspheretest"
)

// turnover is how long the second of two tests waits for the only pool, from the end of the first.
func turnover(t *testing.T, set *pool.Set) time.Duration {
	t.Helper()
	first := testOf(t, "TestFirst")
	require.NotNil(t, first.acquire(set), "%v", first.errs)
	begun := time.Now()
	first.end()
	second := testOf(t, "TestSecond")
	require.NotNil(t, second.acquire(set), "%v", second.errs)
	took := time.Since(begun)
	second.end()
	return took
}

// TestAResetTakesLittleLongerThanItsLatencies compares, in one run, the time of a reset with the
// longest chain of latencies in it: both hosts boot at once, and get other addresses than before.
func TestAResetTakesLittleLongerThanItsLatencies(t *testing.T) {
	if raceDetector {
		t.Skip("under the race detector it would measure the race detector")
	}
	l := vspheretest.Brisk()
	l.Scale = 8
	path := l.Revert + l.PowerOn + l.Boot + l.Tools + l.Address + // one host
		3*l.Reconfigure // it is being reset, is released, and is leased
	path = time.Duration(float64(path) * l.Scale)
	r := newRig(t, func(s *vspheretest.Server) { s.Latency = l })
	set := r.open(r.spec(1))
	ratio := 9.
	for try := 0; try < 3 && ratio > 1.5; try++ {
		took := turnover(t, set)
		ratio = min(ratio, took.Seconds()/path.Seconds())
		t.Logf("%s for a critical path of %s: ratio %.3f", took.Round(time.Millisecond), path, took.Seconds()/path.Seconds())
	}
	assert.LessOrEqual(t, ratio, 1.5, "one boot after the other would make it 1.7")
}

// A starter has a say before VMs are powered on.
type starter struct {
	*pooltest.Provider

	before func(ctx context.Context, id string) // nil is nothing
}

func (s *starter) PowerOn(ctx context.Context, id string) error {
	if s.before != nil {
		s.before(ctx, id)
	}
	return s.Provider.PowerOn(ctx, id)
}

func TestAResetStartsAllHostsAtOnce(t *testing.T) {
	t.Parallel()
	r := newMemory(t)
	spec := r.spec(1)
	p := &starter{Provider: r.mem}
	spec.Provider = p
	set := r.open(spec)
	ids := r.ids()
	started := make(chan struct{})
	p.before = func(ctx context.Context, id string) {
		if id == ids["dis1"] {
			assert.False(t, r.info("con1").On, "none comes up before all are off")
			close(started)
		}
		select { // con does not start before dis does, so they must be started at once
		case <-started:
		case <-ctx.Done():
		}
	}
	turnover(t, set)
}

func TestARoleMayAskForOrder(t *testing.T) {
	t.Parallel()
	r := newMemory(t)
	spec := r.spec(1)
	spec.Roles[1].StrictOrder = true
	p := &starter{Provider: r.mem}
	spec.Provider = p
	set := r.open(spec)
	ids, before := r.ids(), r.info("con1").Addrs
	asked := 0
	p.before = func(_ context.Context, id string) {
		if id == ids["dis1"] {
			asked++
			con := r.info("con1")
			assert.True(t, con.On)
			assert.NotEqual(t, before, con.Addrs, "con is up: its tools have reported since the revert")
		}
	}
	turnover(t, set)
	assert.Equal(t, 1, asked)
}
