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

	"github.com/poolready/poolready/pool/internal/lease"
)

// A readyProvider has all VMs that twoRoles asks for, and a ledger; nothing else is asked of it.
type readyProvider struct {
	Provider
	*fakeLedger
	inv *Inventory
}

func (p readyProvider) Ledger(ctx context.Context, set string, shards ...string) (*Ledger, error) {
	return p.fakeLedger.Ledger(ctx, set, shards...)
}

func (p readyProvider) SetLedger(ctx context.Context, set, shard, revision string, values map[string]string) error {
	return p.fakeLedger.SetLedger(ctx, set, shard, revision, values)
}

func (p readyProvider) Place(_ context.Context, vms ...VM) ([]Placement, error) {
	return make([]Placement, len(vms)), nil
}

func (p readyProvider) Preflight(context.Context, []CloneSpec) error { return nil }

func (p readyProvider) Clones(context.Context, string) ([]string, error) { return nil, nil }

func (p readyProvider) Inventory(context.Context, string, ...string) (*Inventory, error) {
	return p.inv, nil
}

func (p readyProvider) Address(ctx context.Context, _, _ string, _ netip.Addr, _ ...netip.Prefix) (netip.Addr, error) {
	<-ctx.Done()
	return netip.Addr{}, context.Cause(ctx)
}

// ready is a Spec of pools that are ready and clean.
func (f *fakeLedger) ready(t *testing.T, spec Spec) Spec {
	t.Helper()
	spec.Provider, spec.Logf = readyProvider{nil, f, ready(t, spec)}, t.Logf
	f.built(t, spec.Pools)
	return spec
}

// open is the set of such a Spec, as Open returns it.
func (f *fakeLedger) open(t *testing.T, spec Spec) *Set {
	t.Helper()
	r := newRun(f.ready(t, spec).withDefaults(), nil, nil, func(error) {})
	require.NoError(t, r.observe(t.Context()))
	s := r.newSet()
	for _, q := range r.plan.pools {
		s.pools = append(s.pools, newPool(s.spec, s, q.hosts))
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// The time of a test is over in the very moment in which it gets a pool: that is released.
func TestAPoolThatComesTooLateIsReleased(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeLedger()
		s := f.open(t, twoRoles(1))
		ctx, cancel := context.WithCancelCause(t.Context())
		f.fault = func(string) (bool, error) {
			cancel(errors.New("time is over"))
			return true, nil
		}
		_, err := s.acquire(ctx, "TestLate")
		require.ErrorContains(t, err, "time is over")
		e := f.entry(t, 1)
		require.Nil(t, e.Lease, "nobody would ever release it")
		f.fault = nil
		_, err = s.acquire(ctx, "TestLate")
		require.ErrorContains(t, err, "time is over", "the test may try again")
	})
}

// However long a test has waited, it gets the pool that another process releases at once.
func TestAWaiterLearnsAtOnceThatAPoolIsFree(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeLedger()
		s := f.open(t, twoRoles(1))
		x := f.acquire(t, "alice", 1)
		var mine *lease.Held
		done := make(chan struct{})
		go func() {
			defer close(done)
			var err error
			mine, _, err = s.lease(t.Context(), "TestWaiting", false)
			assert.NoError(t, err)
		}()
		for range 5 {
			time.Sleep(73 * time.Second)
			require.NoError(t, x.Confirm(t.Context()), "its holder goes on")
		}
		released := time.Now()
		require.NoError(t, x.Release(t.Context(), lease.Released()))
		<-done
		assert.Less(t, time.Since(released), 300*time.Millisecond)
		require.NoError(t, mine.Release(t.Context(), lease.Released()))
	})
}

// Two tests of one process had the same pool, the first until it lost it: each ends as itself.
func TestATestThatLostItsPoolMayComeAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeLedger()
		s := f.open(t, twoRoles(1))
		lent := func(test string) *Pool {
			x, _, err := s.ledger.Acquire(t.Context(), lease.Request{Pool: 1, Purpose: test})
			require.NoError(t, err)
			require.NoError(t, s.queue.join(test))
			p := s.pools[0].leased(x, nil)
			s.queue.hold(test, 1)
			p.test = test
			return p
		}
		p := lent("TestFirst")
		f.set(func() { f.down = true })
		<-p.lease.Context().Done()
		f.set(func() { f.down = false })
		time.Sleep(time.Minute) // until it expires by the ledger's clock, too
		q := lent("TestSecond")
		_, err := s.release(p, false)
		require.ErrorIs(t, err, ErrLeaseLost)
		require.NoError(t, s.queue.join("TestFirst"))
		require.ErrorContains(t, s.queue.join("TestSecond/sub"), "TestSecond holds pool 1 already")
		s.cancel(errClosed)
		_, err = s.release(q, false)
		require.NoError(t, err)
		require.NoError(t, s.queue.join("TestSecond"))
	})
}

// Somebody takes one of the pools between the plan and the leases: the others are as they were, and
// as clean.
func TestAResetThatComesTooLateTouchesNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeLedger()
		spec := f.ready(t, twoRoles(2))
		var x *lease.Held
		f.fault = func(string) (bool, error) {
			f.set(func() { f.fault = nil })
			x = f.acquire(t, "alice", 2)
			return true, nil
		}
		err := Reset(t.Context(), spec)
		require.ErrorContains(t, err, "nothing was touched: pool 2: held by alice")
		assert.Equal(t, lease.Clean, f.entry(t, 1).Stored, "its hosts were not touched")
		require.NoError(t, x.Release(t.Context(), lease.Released()))
	})
}

// A builder that cannot have one of its pools says so, however long it would wait for another.
func TestAClaimThatFailsDoesNotWaitForOtherPools(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeLedger()
		spec := f.ready(t, twoRoles(2))
		for _, name := range []string{"dis1", "dis2"} {
			spec.Provider.(readyProvider).inv.vm(name).On = false
		}
		x := f.acquire(t, "alice", 1)
		f.fault = func(shard string) (bool, error) {
			if shard == "pool-2" {
				return false, errors.New("no privilege")
			}
			return true, nil
		}
		began := time.Now()
		_, err := Open(t.Context(), spec)
		require.ErrorContains(t, err, "no privilege")
		assert.Less(t, time.Since(began), 2*time.Minute)
		require.NoError(t, x.Check())
		require.NoError(t, x.Release(t.Context(), lease.Released()))
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

// vCenter is out of reach for longer than a lease, while a pool is rebuilt: that is no failure
// of the pool.
func TestALostLeaseIsNoFailureOfThePool(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeLedger()
		s := f.open(t, twoRoles(1))
		f.breakPool(t, 1)
		s.told(toldProvider{destroy: func(ctx context.Context, _ string) error {
			f.set(func() { f.down = true })
			<-ctx.Done()
			f.set(func() { f.down = false })
			return context.Cause(ctx)
		}})
		require.ErrorIs(t, s.rebuild(t.Context(), 1), ErrLeaseLost)
		time.Sleep(5 * time.Minute) // until its lease expires
		e := f.entry(t, 1)
		assert.Equal(t, lease.Broken, e.State(time.Now()), "it still is to be rebuilt")
		assert.Equal(t, 1, e.Failures, "the one that broke it")
	})
}

// A pool is rebuilt, and the golden of another one does not exist: that is not its affair.
func TestARebuildMakesOnlyTheGoldensItNeeds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeLedger()
		spec := twoRoles(2)
		spec.spread("ds1", "ds2")
		s := f.open(t, spec)
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
		f := newFakeLedger()
		s := f.open(t, twoRoles(1))
		s.told(toldProvider{revert: func(_ context.Context, id string) error { return errors.New("no snapshot of " + id) }})
		x := f.acquire(t, "alice", 1)
		_, _, err := s.reset(t.Context(), x, s.pools[0], nil)
		require.ErrorContains(t, err, "con1: reset: no snapshot of id-con1")
		require.ErrorContains(t, err, "dis1: reset: no snapshot of id-dis1")
		require.NoError(t, x.Release(t.Context(), lease.Released()))
	})
}

func TestAllThatIsInTheWayIsNamedAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeLedger()
		spec := f.ready(t, twoRoles(2))
		inv := spec.Provider.(readyProvider).inv
		inv.vm("con2").Owner = ""
		golden := &inv.vm("golden").Snapshots[0]
		golden.Record = strings.Replace(golden.Record, `"poolready":2`, `"poolready":3`, 1)
		_, err := Open(t.Context(), spec)
		var not *NotReadyError
		require.ErrorAs(t, err, &not)
		assert.ErrorContains(t, err, "nothing was touched")
		assert.ErrorContains(t, err, "golden: plan: ")
		assert.ErrorContains(t, err, "con2: plan: ")
	})
}

// A VM of a pool in use is not removed, though this Spec no longer has its role.
func TestSweepRemovesNothingOfAPoolInUse(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeLedger()
		spec := f.ready(t, twoRoles(2))
		x := f.acquire(t, "alice", 2)
		spec.Roles = spec.Roles[:1]
		all, err := Sweep(t.Context(), spec, SweepOptions{})
		require.NoError(t, err)
		require.Len(t, all, 2)
		_, err = Sweep(t.Context(), spec, SweepOptions{Remove: true})
		require.ErrorContains(t, err, "nothing was removed: pool 2 is held by alice")
		require.NoError(t, x.Release(t.Context(), lease.Released()))
	})
}

// A Provider says what it did: nobody says it once more.
func TestALedgerThatCannotBeReadIsSaidOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeLedger()
		spec := f.ready(t, twoRoles(1))
		f.set(func() { f.down = true })
		_, err := ReadStatus(t.Context(), spec)
		require.EqualError(t, err, `pool: status of set "lab": no answer`)
		require.EqualError(t, Release(t.Context(), spec), `pool: release pool 1 of set "lab": no answer`)
	})
}
