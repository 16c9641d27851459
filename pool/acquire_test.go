package pool

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A readyProvider has all VMs that twoRoles asks for, and a ledger; nothing else is asked of it.
type readyProvider struct {
	fakeProvider
	inv *Inventory
}

func (p readyProvider) Inventory(context.Context, string, ...string) (*Inventory, error) {
	return p.inv, nil
}

func (p readyProvider) Address(ctx context.Context, _, _ string) (netip.Addr, error) {
	<-ctx.Done()
	return netip.Addr{}, context.Cause(ctx)
}

// ready is a Spec of pools that are ready, whose entries lie in their own shards and say that they are clean.
func (f *fakeStore) ready(t *testing.T, pools int) Spec {
	t.Helper()
	spec := twoRoles(pools)
	spec.Provider, spec.Logf = readyProvider{fakeProvider{store: f}, ready(t, spec)}, t.Logf
	for n := range pools {
		x, _ := mustTake(t, f.ledger("builder"), poolShard(n+1))
		require.NoError(t, x.release(t.Context(), func(b books, e *entry) {
			e.Clean, e.Build = &proof{At: b.Now}, hash("build of con"+string(rune('1'+n)), "build of dis"+string(rune('1'+n)))
		}))
	}
	return spec
}

// lend is the set of such a Spec, as Open returns it.
func (f *fakeStore) lend(t *testing.T, pools int) *Set {
	t.Helper()
	b := newBuild(f.ready(t, pools).withDefaults())
	require.NoError(t, b.look(t.Context(), "-"))
	s := b.bare()
	for n := range pools {
		p := fromPlan(s.spec, b.work.poolHosts(n+1))
		p.set = s
		s.pools = append(s.pools, p)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// The time of whoever waits is over in the very moment in which a pool becomes theirs: it is given back.
func TestAPoolThatComesTooLateIsGivenBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeStore()
		s := f.lend(t, 1)
		ctx, cancel := context.WithCancelCause(t.Context())
		f.fault = func(string) (bool, error) {
			cancel(errors.New("time is over"))
			return true, nil
		}
		_, err := s.acquire(ctx, "TestLate")
		require.ErrorContains(t, err, "time is over")
		e := f.entry(t, "pool-1")
		require.Nil(t, e.Lease, "nobody would ever give it back")
		f.fault = nil
		_, err = s.acquire(ctx, "TestLate")
		require.ErrorContains(t, err, "time is over", "the test may try again")
	})
}

// A pool is found broken in the moment in which it is lent: it is built anew first.
func TestABrokenPoolIsNotLent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeStore()
		s := f.lend(t, 1)
		x, _ := mustTake(t, f.ledger("alice"), "pool-1")
		require.NoError(t, x.release(t.Context(), func(_ books, e *entry) { e.Broken = "no disk" }))
		_, _, err := s.ledger.take(t.Context(), request{shard: "pool-1", what: "TestA", lend: true})
		require.ErrorContains(t, err, "to be built anew: no disk")
		require.ErrorAs(t, err, new(*busyError))
		x, was, err := s.ledger.take(t.Context(), request{shard: "pool-1", what: "being built"})
		require.NoError(t, err, "who builds it gets it")
		assert.Equal(t, "no disk", was.Broken)
		require.NoError(t, x.release(t.Context(), nil))
	})
}

// Two tests of one process had the same pool, the first until it lost it: each ends as itself.
func TestATestThatLostItsPoolMayComeAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeStore()
		s := f.lend(t, 1)
		lent := func(test string) *Pool {
			x, _, _ := soon(t, s.ledger, 1)
			require.NoError(t, s.desk.come(test))
			p := s.pools[0].lend(x, nil)
			s.desk.hold(test, 1)
			p.test = test
			return p
		}
		p := lent("TestFirst")
		p.lease.end(ErrLeaseLost)
		<-p.lease.gone
		q := lent("TestSecond")
		require.ErrorIs(t, s.release(p, false), ErrLeaseLost)
		require.NoError(t, s.desk.come("TestFirst"))
		require.ErrorContains(t, s.desk.come("TestSecond/sub"), "TestSecond holds one already")
		s.cancel(errClosed)
		require.NoError(t, s.release(q, false))
		require.NoError(t, s.desk.come("TestSecond"))
	})
}

// Somebody takes one of the pools between the plan and the leases: the others are as they were, and as clean.
func TestAResetThatComesTooLateTouchesNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeStore()
		spec := f.ready(t, 2)
		var x *lease
		f.fault = func(string) (bool, error) {
			f.set(func() { f.fault = nil })
			x, _ = mustTake(t, f.ledger("alice"), "pool-2")
			return true, nil
		}
		err := ResetPools(t.Context(), spec)
		require.ErrorContains(t, err, "nothing was touched: pool 2: it is held by alice")
		e := f.entry(t, "pool-1")
		assert.Nil(t, e.Lease)
		assert.NotNil(t, e.Clean, "its hosts were not touched")
		require.NoError(t, x.release(t.Context(), nil))
	})
}

// A builder that cannot have one of its pools says so, however long it would wait for another.
func TestAClaimThatFailsDoesNotWaitForOtherPools(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeStore()
		x, _ := mustTake(t, f.ledger("alice"), "pool-1")
		f.set(func() {
			f.shards["pool-2"] = Shard{ID: "pool-2", Revision: "r", Values: map[string]string{entryKey: `{"poolready":1}`}}
		})
		b := f.builder(t, "builder", 2)
		f.fault = func(shard string) (bool, error) {
			if shard == "pool-2" {
				return false, errors.New("no privilege")
			}
			return true, nil
		}
		began := time.Now()
		err := b.claim(t.Context(), b.lost)
		require.ErrorContains(t, err, "no privilege")
		assert.Less(t, time.Since(began), time.Minute)
		b.letAllGo(t.Context())
		require.NoError(t, x.check())
		require.NoError(t, x.release(t.Context(), nil))
	})
}
