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

// Sets of hundreds of pools are of a ledger and an inventory in memory: to build them in a simulated vCenter
// takes minutes, as make scale POOLS=500 does.

// However many pools there are, their first leases are made of what Open has read, and the clock.
func TestALeaseReadsAsMuchOfALargeSet(t *testing.T) {
	t.Parallel()
	const first = 50
	read := map[int]int{}
	for _, pools := range []int{first, 500} {
		synctest.Test(t, func(t *testing.T) {
			f := newFakeLedger()
			s := f.open(t, twoRoles(pools))
			time.Sleep(5 * time.Minute) // as until the hosts were probed
			f.set(func() { f.read = 0; clear(f.writes) })
			got := map[int]*lease.Held{}
			var mu sync.Mutex
			var wg sync.WaitGroup
			for i := range first {
				wg.Go(func() {
					x, _, err := s.lease(t.Context(), fmt.Sprint("Test", i), false)
					mu.Lock()
					defer mu.Unlock()
					if assert.NoError(t, err) {
						got[x.Pool] = x
					}
				})
			}
			wg.Wait()
			assert.Len(t, got, first)
			writes := 0
			for _, n := range f.writes {
				writes += n
			}
			assert.Equal(t, first, writes)
			read[pools] = f.read
			for _, x := range got {
				require.NoError(t, x.Release(t.Context(), lease.Released()))
			}
		})
	}
	t.Logf("bytes read by %d leases, by pools: %v", first, read)
	assert.InDelta(t, read[first], read[500], 64, "the claim says which pools it covered")
	assert.Less(t, read[500]/first, 1<<10)
}

// A pool that others have used since the ledger was read is theirs in whose turn it is: all is read first.
func TestAPoolUsedSinceIsNotLeasedUnread(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeLedger()
		s := f.open(t, twoRoles(1))
		x := f.acquire(t, "alice", 1)
		time.Sleep(2 * time.Minute)
		w := f.process("bob").Wait("TestBob", []int{1})
		require.NoError(t, w.Keep(t.Context(), nil, []int{1}))
		require.NoError(t, x.Release(t.Context(), lease.Untouched(lease.Entry{Stored: lease.Clean})))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, _, err := s.lease(ctx, "TestLate", false)
		require.ErrorIs(t, err, context.DeadlineExceeded, "bob waits for longer")
		w.Leave(t.Context())
		x, _, err = s.lease(t.Context(), "TestLate", false)
		require.NoError(t, err)
		require.NoError(t, x.Release(t.Context(), lease.Released()))
	})
}

// A counted provider counts its calls.
type counted struct {
	readyProvider
	n map[string]int
}

func (p counted) Ledger(ctx context.Context, set string, shards ...string) (*Ledger, error) {
	p.n["Ledger"]++
	return p.readyProvider.Ledger(ctx, set, shards...)
}

func (p counted) Inventory(ctx context.Context, set string, templates ...string) (*Inventory, error) {
	p.n["Inventory"]++
	return p.readyProvider.Inventory(ctx, set, templates...)
}

func (p counted) Place(ctx context.Context, vms ...VM) ([]Placement, error) {
	p.n["Place"]++
	return p.readyProvider.Place(ctx, vms...)
}

func TestThePlanOfALargeSetAsksAsMuch(t *testing.T) {
	t.Parallel()
	asked := map[int]map[string]int{}
	for _, pools := range []int{3, 500} {
		f := newFakeLedger()
		spec := f.ready(t, twoRoles(pools))
		p := counted{spec.Provider.(readyProvider), map[string]int{}}
		spec.Provider = p
		plan, err := MakePlan(t.Context(), spec)
		require.NoError(t, err)
		require.Len(t, plan.Items, 2*pools+1)
		for _, i := range plan.Items {
			require.Equal(t, ActionReuse, i.Action, "%s: %s", i.VM, i.Reason)
		}
		asked[pools] = p.n
	}
	t.Log(asked)
	assert.Equal(t, asked[3], asked[500])
}
