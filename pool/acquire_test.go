package pool

import (
	"context"
	"errors"
	"net/netip"
	"strings"
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

func (p readyProvider) Address(ctx context.Context, _, _ string, _ ...netip.Prefix) (netip.Addr, error) {
	<-ctx.Done()
	return netip.Addr{}, context.Cause(ctx)
}

// ready is a Spec of pools that are ready, whose entries lie in their own shards and say that they
// are clean.
func (f *fakeStore) ready(t *testing.T, spec Spec) Spec {
	t.Helper()
	spec.Provider, spec.Logf = readyProvider{fakeProvider{store: f}, ready(t, spec)}, t.Logf
	x, _ := mustTake(t, f.ledger("builder"), buildShard)
	require.NoError(t, x.release(t.Context(), nil))
	for n := range spec.Pools {
		x, _ := mustTake(t, f.ledger("builder"), poolShard(n+1))
		require.NoError(t, x.release(t.Context(), func(b books, e *entry) {
			e.Clean, e.Build = &proof{At: b.Now}, hash("build of con"+string(rune('1'+n)), "build of dis"+string(rune('1'+n)))
		}))
	}
	return spec
}

// lend is the set of such a Spec, as Open returns it.
func (f *fakeStore) lend(t *testing.T, spec Spec) *Set {
	t.Helper()
	b := newBuild(f.ready(t, spec).withDefaults())
	require.NoError(t, b.look(t.Context(), "-"))
	s := b.bare()
	for n := range spec.Pools {
		p := fromPlan(s.spec, b.work.poolHosts(n+1))
		p.set = s
		s.pools = append(s.pools, p)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// The time of whoever waits is over in the very moment in which a pool becomes theirs: it is given
// back.
func TestAPoolThatComesTooLateIsGivenBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeStore()
		s := f.lend(t, twoRoles(1))
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
		s := f.lend(t, twoRoles(1))
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
		s := f.lend(t, twoRoles(1))
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

// Somebody takes one of the pools between the plan and the leases: the others are as they were, and
// as clean.
func TestAResetThatComesTooLateTouchesNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeStore()
		spec := f.ready(t, twoRoles(2))
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

// A toldProvider does what it is told to.
type toldProvider struct {
	readyProvider
	clone           func(name string) error
	destroy, revert func(ctx context.Context, id string) error
}

func (p toldProvider) Clone(_ context.Context, spec CloneSpec) (string, error) {
	return "", p.clone(spec.VM.Name)
}

func (p toldProvider) Destroy(ctx context.Context, id string) error { return p.destroy(ctx, id) }

func (p toldProvider) Revert(ctx context.Context, id, _ string) error { return p.revert(ctx, id) }

// told makes the set's provider such a one.
func (s *Set) told(p toldProvider) {
	p.readyProvider = s.spec.Provider.(readyProvider)
	s.spec.Provider = p
	for _, h := range s.pools[0].hosts {
		h.provider = p
	}
}

func (f *fakeStore) breakPool(t *testing.T, n int) {
	t.Helper()
	x, _ := mustTake(t, f.ledger("alice"), poolShard(n))
	require.NoError(t, x.release(t.Context(), func(_ books, e *entry) { e.Broken = "no disk" }))
}

// vCenter is out of reach for longer than a lease, while a pool is built anew: that is no failure
// of the pool's.
func TestALostLeaseIsNoFailureOfThePool(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeStore()
		s := f.lend(t, twoRoles(1))
		f.breakPool(t, 1)
		s.told(toldProvider{destroy: func(ctx context.Context, _ string) error {
			f.set(func() { f.down = true })
			<-ctx.Done()
			f.set(func() { f.down = false })
			return context.Cause(ctx)
		}})
		require.ErrorIs(t, s.rebuild(t.Context(), 1), ErrLeaseLost)
		e := f.entry(t, "pool-1")
		assert.Nil(t, e.Block, "%+v", e.Block)
		assert.Zero(t, e.Failures)
		assert.Equal(t, "no disk", e.Broken, "it still is to be built")
	})
}

// A pool is built anew, and the golden of another one is not there: that is not its affair.
func TestARebuildMakesOnlyTheGoldensItNeeds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeStore()
		spec := twoRoles(2)
		spec.spread("ds1", "ds2")
		s := f.lend(t, spec)
		f.breakPool(t, 1)
		var cloned []string
		s.told(toldProvider{
			destroy: func(context.Context, string) error { return nil },
			clone:   func(name string) error { cloned = append(cloned, name); return errors.New("no space") },
		})
		s.spec.Provider.(toldProvider).inv.remove("golden-ds2")
		require.ErrorContains(t, s.rebuild(t.Context(), 1), "con1: clone con: no space")
		assert.Equal(t, []string{"con1"}, cloned)
	})
}

func TestEveryHostThatCannotBeResetIsNamed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeStore()
		s := f.lend(t, twoRoles(1))
		s.told(toldProvider{revert: func(_ context.Context, id string) error { return errors.New("no snapshot of " + id) }})
		x, _ := mustTake(t, s.ledger, "pool-1")
		_, _, err := s.reset(t.Context(), x, s.pools[0], nil)
		require.ErrorContains(t, err, "con1: reset: no snapshot of id-con1")
		require.ErrorContains(t, err, "dis1: reset: no snapshot of id-dis1")
		require.NoError(t, x.release(t.Context(), nil))
	})
}

func TestAllThatIsInTheWayIsNamedAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeStore()
		spec := f.ready(t, twoRoles(2))
		inv := spec.Provider.(readyProvider).inv
		inv.vm("con2").Owner = ""
		golden := &inv.vm("golden").Snapshots[0]
		golden.Record = strings.Replace(golden.Record, `"poolready":1`, `"poolready":2`, 1)
		_, err := Open(t.Context(), spec)
		var not *NotReadyError
		require.ErrorAs(t, err, &not)
		assert.ErrorContains(t, err, "nothing was touched")
		assert.ErrorContains(t, err, "golden: plan: ")
		assert.ErrorContains(t, err, "con2: plan: ")
	})
}

// A VM of a pool that somebody uses is removed by nobody, though this Spec no longer has its role.
func TestSweepRemovesNothingOfAPoolInUse(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeStore()
		spec := f.ready(t, twoRoles(2))
		x, _ := mustTake(t, f.ledger("alice"), "pool-2")
		spec.Roles = spec.Roles[:1]
		all, err := Sweep(t.Context(), spec, SweepOptions{})
		require.NoError(t, err)
		require.Len(t, all, 2)
		_, err = Sweep(t.Context(), spec, SweepOptions{Remove: true})
		require.ErrorContains(t, err, "nothing was removed: pool 2 is held by alice")
		require.NoError(t, x.release(t.Context(), nil))
	})
}

// The process is stopped, or vCenter answers late, while a pool is taken, so that the lease is over
// before it is known to be there: nothing was done under it, so that whoever waits goes on waiting,
// and does not fail.
func TestALeaseThatIsOverBeforeItIsThereIsTakenAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeStore()
		s := f.lend(t, twoRoles(1))
		slow := func(string) (bool, error) {
			f.set(func() { f.fault = nil })
			time.Sleep(4 * time.Minute)
			return true, nil
		}
		f.set(func() { f.fault = slow })
		x, _, err := s.take(t.Context(), "TestA")
		require.NoError(t, err)
		require.NoError(t, x.check())
		require.NoError(t, x.release(t.Context(), nil))
		f.breakPool(t, 1)
		f.set(func() { f.fault = slow })
		b := newBuild(s.spec)
		b.lost = func(err error) { t.Error(err) }
		require.NoError(t, b.look(t.Context(), "-"))
		require.NoError(t, b.claim(t.Context(), b.lost))
		assert.True(t, b.holds(1))
		b.letAllGo(t.Context())
	})
}

// A Provider says what it did: nobody says it once more.
func TestALedgerThatCannotBeReadIsSaidOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeStore()
		spec := f.ready(t, twoRoles(1))
		f.set(func() { f.down = true })
		_, err := Status(t.Context(), spec)
		require.EqualError(t, err, `pool: status of set "lab": no answer`)
		require.EqualError(t, Release(t.Context(), spec, 1), `pool: release pool 1 of set "lab": no answer`)
	})
}
