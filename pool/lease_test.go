package pool

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Somebody else's lease, and then its entry, are gone: the first holder, who slept through it all,
// does not write a free pool there.
func TestALateReleaseFreesNobodysPool(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeStore()
		x, _ := mustTake(t, f.ledger("alice"), "pool-1")
		kill(x)
		y, _, _ := soon(t, f.ledger("bob"), 1)
		f.set(func() { delete(f.shards, "pool-1") })
		require.ErrorIs(t, x.release(t.Context(), nil), errNotOurs)
		_, _, err := take(t, f.ledger("carol"), 1)
		require.ErrorAs(t, err, new(*busyError))
		time.Sleep(2 * time.Minute)
		require.NoError(t, y.check())
		assert.Equal(t, "bob", f.entry(t, "pool-1").Lease.Owner)
		require.NoError(t, y.release(t.Context(), nil))
	})
}

// A pool's shard goes between the reading and the write of whoever takes it: that it was free
// before says nothing any more.
func TestAShardThatGoesWhileItIsTakenIsNotTaken(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeStore()
		x, _ := mustTake(t, f.ledger("alice"), "pool-1")
		require.NoError(t, x.release(t.Context(), nil))
		f.fault = func(shard string) (bool, error) {
			f.set(func() { f.fault = nil; delete(f.shards, shard) })
			return true, nil
		}
		_, _, err := take(t, f.ledger("bob"), 1)
		require.ErrorContains(t, err, "being recovered")
	})
}

// Who waits for the answer to a write does not keep the lease from ending in time.
func TestAWriteWithoutAnswerDoesNotKeepALeaseAlive(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeStore()
		x, _ := mustTake(t, f.ledger("alice"), "pool-1")
		began := time.Now()
		f.set(func() { f.deaf = true })
		ended := make(chan error)
		go func() { ended <- x.set(t.Context(), func(time.Time, *entry) {}) }()
		<-x.ctx.Done()
		assert.Less(t, time.Since(began), 163*time.Second)
		require.ErrorIs(t, context.Cause(x.ctx), ErrLeaseLost)
		require.Error(t, <-ended)
		<-x.gone
	})
}

// The answer of the hypervisor's clock came late: its lease counts from when it was asked.
func TestASlowClockShortensTheLeaseOfWhoAsked(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeStore()
		f.slack = 30 * time.Second
		x, _ := mustTake(t, f.ledger("alice"), "pool-1")
		began := time.Now()
		f.set(func() { f.down = true })
		<-x.ctx.Done()
		assert.Less(t, time.Since(began), 133*time.Second, "nine tenths of the lease, and the slack less")
		<-x.gone
	})
}

func TestWhoHoldsWritesThreeTimesATerm(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeStore()
		b := f.builder(t, "builder", 50)
		mustClaim(t, b)
		x, _ := mustTake(t, f.ledger("alice"), "pool-60")
		p := f.ledger("carol").place("TestC", []int{60})
		for range 3600 {
			require.NoError(t, p.join(t.Context()))
			time.Sleep(time.Second)
		}
		for _, shard := range []string{buildShard, "pool-60", "queue-1"} {
			assert.InDelta(t, 60, f.written(shard), 2, "%s: one write a minute, for a lease of three", shard)
		}
		all := 0
		for shard, n := range f.writes {
			if all += n; strings.HasPrefix(shard, poolPrefix) && shard != "pool-60" {
				assert.Fail(t, "a pool that is built costs no writes", shard)
			}
		}
		assert.LessOrEqual(t, all, 3*62)
		require.NoError(t, x.release(t.Context(), nil))
		require.NoError(t, p.leave(t.Context()))
		b.letAllGo(t.Context())
	})
}

// However many end at once, no more are kept than may be.
func TestNoMoreAreKeptThanMayBe(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeStore()
		var faults atomic.Int32
		f.fault = func(shard string) (bool, error) {
			if shard == keepShard && faults.Add(1) <= 3 {
				return faults.Load()%2 == 1, errors.New("no answer")
			}
			return true, nil
		}
		b := f.builder(t, "process", 8)
		s := &Set{spec: b.spec, ledger: b.ledger}
		s.spec.Keep.Pools = 2
		var wg sync.WaitGroup
		for n := range 8 {
			wg.Go(func() {
				x, _ := mustTake(t, s.ledger, poolShard(n+1))
				until, most, err := s.mayKeep(t.Context(), x)
				assert.NoError(t, err)
				time.Sleep(time.Duration(n) * time.Minute) // it takes its time to write so down
				assert.NoError(t, x.release(t.Context(), func(_ books, e *entry) {
					if most == 0 {
						e.Block = &block{Kind: blockKept, Until: until}
					} else {
						assert.Equal(t, 2, most)
					}
				}))
			})
		}
		wg.Wait()
		blocked := 0
		for n := range 8 {
			if b := f.entry(t, poolShard(n+1)).Block; b != nil {
				blocked++
			}
		}
		assert.Equal(t, 2, blocked)

		// What is kept no longer makes room.
		time.Sleep(5 * time.Hour)
		x, _ := mustTake(t, s.ledger, poolShard(1))
		_, most, err := s.mayKeep(t.Context(), x)
		require.NoError(t, err)
		assert.Zero(t, most)
		require.NoError(t, x.release(t.Context(), nil))
	})
}
