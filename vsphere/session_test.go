package vsphere

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/poolready/poolready/pool"
	"github.com/poolready/poolready/vsphere/vspheretest"
)

// slow answers after a second, or not at all.
type slow struct {
	now, most, all atomic.Int32
	never          bool
}

func (s *slow) RoundTrip(ctx context.Context, _, _ soap.HasFault) error {
	s.all.Add(1)
	n := s.now.Add(1)
	defer s.now.Add(-1)
	for m := s.most.Load(); n > m && !s.most.CompareAndSwap(m, n); m = s.most.Load() {
	}
	if s.never {
		<-ctx.Done()
		return ctx.Err()
	}
	sleep(ctx, time.Second)
	return ctx.Err()
}

func TestAtMost32CallsAreInFlight(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rt := &slow{}
		l := &limiter{rt: rt, slots: make(chan struct{}, maxCalls), held: pool.CheckLease, health: &health{}, calls: &callCounts{}}
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() { assert.NoError(t, l.RoundTrip(t.Context(), &methods.Rename_TaskBody{}, nil)) })
		}
		wg.Wait()
		assert.Equal(t, int32(32), rt.most.Load())
	})
}

func TestLongPollTakesNoPlaceAmongCalls(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := &limiter{rt: &slow{}, slots: make(chan struct{}, 1), held: pool.CheckLease, health: &health{}, calls: &callCounts{}}
		l.slots <- struct{}{}
		poll := &methods.WaitForUpdatesExBody{Req: &types.WaitForUpdatesEx{Options: &types.WaitOptions{MaxWaitSeconds: types.NewInt32(45)}}}
		assert.NoError(t, l.RoundTrip(t.Context(), poll, nil))
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		assert.ErrorIs(t, l.RoundTrip(ctx, &methods.Rename_TaskBody{}, nil), context.DeadlineExceeded, "a call waits for its place")
	})
}

func TestCallWithoutAnswerIsGivenUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := &limiter{rt: &slow{never: true}, slots: make(chan struct{}, 1), held: pool.CheckLease, health: &health{}, calls: &callCounts{}}
		start := time.Now()
		err := l.RoundTrip(t.Context(), &methods.Rename_TaskBody{}, nil)
		assert.ErrorIs(t, err, errNoAnswer)
		assert.Equal(t, unknown, classify(err), "the call may have had its effect")
		assert.Equal(t, callTimeout, time.Since(start))
	})
}

// All calls that change something, ShutdownGuest among them, come this way.
func TestNoCallGoesOutUnderALeaseThatIsOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		over := false
		rt := &slow{}
		l := &limiter{rt: rt, slots: make(chan struct{}, 1), health: &health{}, calls: &callCounts{}, held: func(context.Context) error {
			if over {
				return fmt.Errorf("slept: %w", pool.ErrLeaseLost)
			}
			return nil
		}}
		assert.NoError(t, l.RoundTrip(t.Context(), &methods.ShutdownGuestBody{}, nil))
		l.slots <- struct{}{}
		done := make(chan error, 1)
		go func() { done <- l.RoundTrip(t.Context(), &methods.ShutdownGuestBody{}, nil) }()
		synctest.Wait() // for its place
		over = true
		<-l.slots
		err := <-done
		assert.ErrorIs(t, err, pool.ErrLeaseLost)
		assert.Equal(t, permanent, classify(err))
		assert.Equal(t, int32(1), rt.all.Load())
	})
}

func TestBackoffGrowsAndEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := backoff{limit: time.Minute}
		start, n := time.Now(), 0
		for b.wait(t.Context(), errNoAnswer) {
			n++
		}
		assert.LessOrEqual(t, time.Since(start), time.Minute)
		assert.Greater(t, time.Since(start), 50*time.Second)
		assert.Less(t, n, 20)
	})
}

func TestSessionIsOneForAllCalls(t *testing.T) {
	t.Parallel()
	l := newLab(t, vspheretest.Fast())
	ctx := within(t, 30*time.Second)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			_, err := l.p.Inventory(ctx, "set")
			assert.NoError(t, err)
		})
	}
	wg.Wait()
	l.ExpireSessions()
	for range 20 {
		wg.Go(func() {
			_, err := l.p.Inventory(ctx, "set")
			assert.NoError(t, err)
		})
	}
	wg.Wait()
	calls, _ := l.counts()
	assert.Equal(t, 2, calls["Login"], "one, and one after the session had expired")
	require.NoError(t, l.p.Close(ctx))
}

func TestVCenterThatStartsUpIsAwaited(t *testing.T) {
	t.Parallel()
	l := newLab(t, vspheretest.Fast())
	l.Inject(vspheretest.Fault{Method: "RetrieveServiceContent", Times: 3, Effect: vspheretest.Status(503)})
	_, err := l.p.Inventory(within(t, 30*time.Second), "set")
	require.NoError(t, err)
	calls, _ := l.counts()
	assert.Equal(t, 4, calls["RetrieveServiceContent"])

	// A proxy that hiccups is asked again, but not for long.
	once := l.Inject(vspheretest.Fault{Method: "RetrieveServiceContent", Effect: vspheretest.Status(502)})
	_, err = l.provider(t).Inventory(within(t, 30*time.Second), "set")
	require.NoError(t, err)
	assert.Equal(t, 1, once.Hits())
	always := l.Inject(vspheretest.Fault{Method: "RetrieveServiceContent", Times: -1, Effect: vspheretest.Status(502)})
	l.intervals.outage = 6 * time.Second
	_, err = l.provider(t).Inventory(within(t, 30*time.Second), "set")
	require.ErrorContains(t, err, "502")
	assert.Less(t, always.Hits(), 6)
}

func TestExpiredSessionDoesNotLookLikeAnEmptyVCenter(t *testing.T) {
	t.Parallel()
	l := newLab(t, vspheretest.Fast())
	ctx := within(t, 30*time.Second)
	l.golden(t, ctx)
	require.NoError(t, l.p.SetLedger(ctx, "set", "pool-1", "", map[string]string{"entry": "x"}))
	reads := map[string]func(p *Provider) (int, error){
		"inventory": func(p *Provider) (int, error) {
			inv, err := p.Inventory(ctx, "set", "template")
			return len(inv.VMs) * len(inv.Templates), err
		},
		"ledger": func(p *Provider) (int, error) {
			read, err := p.Ledger(ctx, "set")
			return len(read.Shards), err
		},
		"datacenters": func(p *Provider) (int, error) {
			all, err := p.datacenters(ctx)
			return len(all), err
		},
	}
	for name, read := range reads {
		t.Run(name, func(t *testing.T) {
			// The forms of NotAuthenticated alternate, and a first reading has more calls than
			// later ones.
			for range 4 {
				p := l.provider(t)
				for range 3 {
					n, err := read(p)
					require.NoError(t, err)
					require.NotZero(t, n)
					l.ExpireSessions()
				}
			}
		})
	}
}

func TestVMThatIsBeingMadeIsListedAsSuch(t *testing.T) {
	t.Parallel()
	l := newLab(t, vspheretest.Fast())
	ctx := within(t, 5*time.Minute)
	golden, snap := l.golden(t, ctx)
	l.Inject(vspheretest.Fault{Method: "CloneVM_Task", Effect: vspheretest.SlowTask(3000)})
	done := make(chan error, 1)
	go func() {
		_, err := l.p.Clone(ctx, linkedSpec(golden, snap, "con1", "00:50:56:00:00:41"))
		done <- err
	}()
	other := l.provider(t)
	require.Eventually(t, func() bool {
		inv, err := other.Inventory(ctx, "set")
		if !assert.NoError(t, err) {
			return true
		}
		for _, vm := range inv.VMs {
			if vm.Name == "con1" && vm.Problem == "being created" {
				return true
			}
		}
		return false
	}, time.Minute, time.Millisecond)
	clones, err := other.Clones(ctx, golden)
	require.NoError(t, err)
	assert.NotEmpty(t, clones, "a VM that is being made may become a clone")
	require.NoError(t, <-done)
}
