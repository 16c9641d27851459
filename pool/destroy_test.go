package pool

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/pool/internal/lease"
)

// A slowRemoval takes its time for what Destroy asks of it.
type slowRemoval struct {
	readyProvider
	takes time.Duration

	mu      sync.Mutex // guards what follows
	in      int
	most    int
	removed map[string]bool
}

func (p *slowRemoval) Destroy(_ context.Context, id string) error {
	p.mu.Lock()
	p.in++
	p.most = max(p.most, p.in)
	p.removed[id] = true
	p.mu.Unlock()
	time.Sleep(p.takes)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.in--
	return nil
}

// Leases, VMs and shards are done with eight at a time, and nothing takes longer than that for many
// pools; one lease is renewed meanwhile, not one for each pool.
func TestDestroyTakesAsLongAsEightAtATimeDo(t *testing.T) {
	t.Parallel()
	for _, pools := range []int{8, 50, 500} {
		t.Run(fmt.Sprint(pools), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := newFakeLedger()
				spec := f.ready(t, twoRoles(pools))
				const write, remove = time.Second, 3500 * time.Millisecond
				writes := 0
				f.fault = func(string) (bool, error) {
					f.set(func() { writes++ })
					time.Sleep(write)
					return true, nil
				}
				p := &slowRemoval{readyProvider: spec.Provider.(readyProvider), takes: remove, removed: map[string]bool{}}
				spec.Provider = p
				begun := time.Now()
				removed, err := Destroy(t.Context(), spec)
				require.NoError(t, err)
				took := time.Since(begun)
				assert.Len(t, removed, 2*pools+1)
				assert.Len(t, p.removed, 3*pools+2, "with the ledger")
				assert.Equal(t, 8, p.most)
				rounds := func(n int) time.Duration { return time.Duration((n + 7) / 8) }
				path := write + // the claim
					rounds(pools)*write + // leases
					rounds(2*pools)*remove + remove + // VMs of roles, golden
					rounds(pools)*remove + remove // their shards, the claim's
				t.Logf("%s for a critical path of %s, %d writes", took, path, writes)
				assert.LessOrEqual(t, took.Seconds()/path.Seconds(), 1.02)
				renewals := int(took / (3 * time.Minute / 3))
				assert.LessOrEqual(t, writes, 1+pools+renewals, "one for the claim, which is renewed, and one for each pool, which is not")
			})
		})
	}
}

// The leases of a Destroy are not renewed one by one: what has become of one is asked before its VMs are
// removed.
func TestDestroyStopsBeforeAPoolThatItHasLost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeLedger()
		spec := f.ready(t, twoRoles(300))
		before := f.shards["pool-300"]
		p := &slowRemoval{readyProvider: spec.Provider.(readyProvider), takes: 10 * time.Second, removed: map[string]bool{}}
		spec.Provider = p
		go func() {
			time.Sleep(time.Minute)
			f.set(func() { f.shards["pool-300"] = before }) // by hand
			x, _, err := f.process("bob").Acquire(t.Context(), lease.Request{Pool: 300, Purpose: "TestBob"})
			assert.NoError(t, err)
			time.Sleep(time.Hour)
			assert.NoError(t, x.Release(t.Context(), lease.Used("TestBob")))
		}()
		removed, err := Destroy(t.Context(), spec)
		require.ErrorIs(t, err, ErrLeaseLost)
		assert.Contains(t, removed, "con1")
		for _, name := range []string{"con300", "dis300", "golden"} {
			assert.NotContains(t, removed, name)
		}
		for _, vm := range p.inv.VMs {
			if vm.Name == "con300" || vm.Name == "dis300" {
				assert.False(t, p.removed[vm.ID], vm.Name)
			}
		}
		time.Sleep(2 * time.Hour)
	})
}
