package lease

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// holdUnder leases pools under the claim, as who removes a set does.
func holdUnder(t *testing.T, claim *Held, pools ...int) (all []*Held) {
	t.Helper()
	for _, n := range pools {
		x, _, err := claim.l.Operate(t.Context(), Request{Pool: n, Purpose: "destroy", Under: claim})
		require.NoError(t, err)
		all = append(all, x)
	}
	return all
}

// heldUnderClaim is a store with one pool, which was dirty, destroyer's claim, and its lease under that.
func heldUnderClaim(t *testing.T) (f *fakeStore, claim, x *Held) {
	t.Helper()
	f = newFakeStore()
	f.make(t, in(Dirty), 1)
	claim = mustClaim(t, f.process("destroyer"))
	return f, claim, holdUnder(t, claim, 1)[0]
}

// endUnder releases a lease under a claim, and the claim.
func endUnder(t *testing.T, claim, x *Held) {
	t.Helper()
	mustRelease(t, x)
	require.NoError(t, claim.ReleaseClaim(t.Context(), nil, nil, nil))
}

func TestLeasesUnderAClaimLastAsLongAsItWithoutBeingWritten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeStore()
		f.make(t, in(Dirty), 1, 2)
		claim := mustClaim(t, f.process("destroyer"))
		all := holdUnder(t, claim, 1, 2)
		for range 48 {
			time.Sleep(time.Hour)
			_, _, err := f.process("bob").test(t, 1)
			require.ErrorAs(t, err, new(*BusyError))
			e, err := f.read(t).Pool(2)
			require.NoError(t, err)
			s := f.read(t)
			assert.Less(t, e.Holder(s.Now).ExpiresAt.Sub(s.Now), 4*time.Minute, "what is told is when the claim expires")
			require.NoError(t, all[0].Check())
			require.NoError(t, all[1].Confirm(t.Context()))
		}
		assert.Equal(t, 1, f.written("pool-1"))
		assert.Equal(t, 1, f.written("pool-2"))
		for _, x := range all {
			mustRelease(t, x)
		}
		require.NoError(t, claim.ReleaseClaim(t.Context(), nil, nil, nil))
		x, _ := mustAcquire(t, f.process("bob"), 1)
		mustRelease(t, x)
	})
}

func TestLeasesUnderAClaimAreOverWithIt(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		end  func(t *testing.T, f *fakeStore, claim *Held)
		gone bool // bob sees that its holder has ended
		wait time.Duration
	}{
		{"its holder died on another machine", func(_ *testing.T, _ *fakeStore, claim *Held) { kill(claim) }, false, 3 * time.Minute},
		{"its holder died on this machine", func(_ *testing.T, _ *fakeStore, claim *Held) { kill(claim) }, true, 0},
		{"it was released", func(t *testing.T, _ *fakeStore, claim *Held) {
			require.NoError(t, claim.ReleaseClaim(t.Context(), nil, nil, nil))
		}, false, 0},
		{"it was removed by hand after its holder had died", func(_ *testing.T, f *fakeStore, claim *Held) {
			kill(claim)
			f.set(func() { delete(f.shards, claimShard) })
		}, false, 3 * time.Minute},
		{"it was lost, and its holder died", func(t *testing.T, f *fakeStore, claim *Held) {
			kill(claim)
			f.set(func() { delete(f.shards, claimShard) })
			_, _, err := f.process("next").TakeClaim(t.Context(), ClaimRequest{})
			require.ErrorAs(t, err, new(*BusyError), "it may write it again for as long as a lease lasts")
		}, false, 3 * time.Minute},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := newFakeStore()
				f.make(t, in(Dirty), 1)
				l := f.process("destroyer")
				l.self = &Process{PID: 1}
				claim := mustClaim(t, l)
				x := holdUnder(t, claim, 1)[0]
				tt.end(t, f, claim)
				synctest.Wait()
				require.Error(t, x.Check())
				require.Error(t, x.Context().Err())
				bob := f.process("bob")
				bob.ended = func(p *Process) bool { return tt.gone && p != nil && p.PID == 1 }
				y, _, took := soon(t, bob, 1)
				assert.InDelta(t, tt.wait.Seconds(), took.Seconds(), 2)
				mustRelease(t, y)
			})
		})
	}
}

// What keeps a lease under a claim while the claim is not there to say so: its holder writes that again.
func TestALeaseUnderALostClaimIsTakenAwayByNobody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, claim, x := heldUnderClaim(t)
		time.Sleep(25 * time.Hour)
		f.set(func() { delete(f.shards, claimShard) })
		for range 600 {
			_, _, err := f.process("bob").test(t, 1)
			require.ErrorAs(t, err, new(*BusyError))
			time.Sleep(time.Second)
		}
		require.NoError(t, x.Check())
		endUnder(t, claim, x)
	})
}

// A tornStore has the claim, in readings of several shards, as it was before.
type tornStore struct {
	*fakeStore

	claim Shard
}

func (s tornStore) Read(ctx context.Context, shards ...string) (*Contents, error) {
	c, err := s.fakeStore.Read(ctx, shards...)
	if err == nil && len(shards) != 1 {
		c.Shards[claimShard] = s.claim
	}
	return c, err
}

// Shards that are read together are read one after the other: the claim before it was taken, and the pool's
// after it was leased.
func TestALeaseUnderAClaimThatIsReadTooEarlyIsNotOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeStore()
		f.make(t, in(Dirty), 1)
		before := mustClaim(t, f.process("builder"))
		require.NoError(t, before.ReleaseClaim(t.Context(), nil, nil, nil))
		torn := tornStore{f, f.shards[claimShard]}
		claim := mustClaim(t, f.process("destroyer"))
		x := holdUnder(t, claim, 1)[0]

		bob := f.process("bob")
		bob.Store = torn
		_, _, err := bob.test(t, 1)
		busy, ok := errors.AsType[*BusyError](err)
		require.True(t, ok, "%v", err)
		assert.Equal(t, "destroyer", busy.Lease.Holder)
		assert.True(t, busy.Lease.ExpiresAt.After(f.read(t).Now))
		endUnder(t, claim, x)
	})
}

// A nappingStore stops its process once, for some time, between the reading of the shards and that of the clock.
type nappingStore struct {
	*fakeStore

	nap time.Duration
}

func (s *nappingStore) Read(ctx context.Context, shards ...string) (*Contents, error) {
	c, err := s.fakeStore.Read(ctx, shards...)
	if err == nil && s.nap > 0 {
		time.Sleep(s.nap)
		c.Now, s.nap = c.Now.Add(s.nap), 0
	}
	return c, err
}

// Unlike a lease of its own, one under a claim is not written when it is renewed, so that a shard which has not
// changed proves nothing.
func TestALeaseUnderAClaimThatWasRenewedSinceItWasReadIsNotOver(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		take func(t *testing.T, f *fakeStore) (*Held, error)
	}{
		{"the clock is read late", func(t *testing.T, f *fakeStore) (*Held, error) {
			bob := f.process("bob")
			bob.Store = &nappingStore{f, 150 * time.Second}
			x, _, err := bob.test(t, 1)
			return x, err
		}},
		{"so late that the try is over", func(t *testing.T, f *fakeStore) (*Held, error) {
			bob := f.process("bob")
			bob.Store = &nappingStore{f, 4 * time.Minute}
			x, _, err := bob.test(t, 1)
			return x, err
		}},
		{"the clock of an old reading is read late", func(t *testing.T, f *fakeStore) (*Held, error) {
			bob := f.process("bob")
			last, err := bob.Read(t.Context())
			require.NoError(t, err)
			time.Sleep(50 * time.Second)
			bob.Store = &nappingStore{f, 150 * time.Second}
			clock, err := bob.ReadClock(t.Context())
			require.NoError(t, err)
			x, _, err := bob.Acquire(t.Context(), Request{Pool: 1, Purpose: "TestA", First: last.WithClock(clock)})
			return x, err
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f, claim, x := heldUnderClaim(t)
				time.Sleep(50 * time.Second)
				_, err := tt.take(t, f)
				require.ErrorAs(t, err, new(*BusyError))
				require.NoError(t, x.Confirm(t.Context()))
				endUnder(t, claim, x)
			})
		})
	}
}

// The renewal of the claim is on its way for so long that another process finds it over: it comes to nothing.
func TestAClaimThatWasEndedIsNotRenewedLate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, claim, x := heldUnderClaim(t)
		var once sync.Once
		f.set(func() {
			f.stray = func(func()) error {
				late := false
				once.Do(func() { late = true })
				if late {
					time.Sleep(130 * time.Second)
				}
				return nil
			}
		})
		time.Sleep(61 * time.Second)
		y, _, _ := soon(t, f.process("bob"), 1)
		time.Sleep(15 * time.Second)
		require.NoError(t, y.Check())
		require.ErrorIs(t, x.Confirm(t.Context()), ErrLost)
		require.ErrorIs(t, claim.Confirm(t.Context()), ErrLost)
		mustRelease(t, y)
	})
}

// Its holder does not renew it, and writes it again all the same before anybody else can have it.
func TestALostShardOfALeaseUnderAClaimIsWrittenAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeStore()
		f.make(t, in(Dirty), 1, 2)
		claim := mustClaim(t, f.process("destroyer"))
		all := holdUnder(t, claim, 1, 2)
		for range 3 {
			f.set(func() { delete(f.shards, "pool-1") })
			for range 600 {
				_, _, err := f.process("bob").test(t, 1)
				require.ErrorAs(t, err, new(*BusyError))
				time.Sleep(time.Second)
			}
		}
		assert.Equal(t, 1, f.written("pool-2"), "the other was only read")
		for _, x := range all {
			require.NoError(t, x.Confirm(t.Context()))
			mustRelease(t, x)
		}
		require.NoError(t, claim.ReleaseClaim(t.Context(), nil, nil, nil))
	})
}

// What was lost, had by another and lost again is not written again.
func TestAShardThatWasLostForLongIsNotWrittenAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, claim, x := heldUnderClaim(t)
		claim.mu.Lock()
		claim.below = nil // as if no reading had shown that
		claim.mu.Unlock()
		f.set(func() { delete(f.shards, "pool-1") })
		y, _, _ := soon(t, f.process("bob"), 1)
		time.Sleep(30 * time.Second)
		f.set(func() { delete(f.shards, "pool-1") })
		require.ErrorIs(t, x.Confirm(t.Context()), ErrLost)
		time.Sleep(time.Minute)
		require.NoError(t, y.Check())
		mustRelease(t, y)
		require.NoError(t, claim.ReleaseClaim(t.Context(), nil, nil, nil))
	})
}

func TestALeaseIsNotReleasedIntoALostShardAfterItsClaim(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, claim, x := heldUnderClaim(t)
		require.NoError(t, claim.ReleaseClaim(t.Context(), nil, nil, nil))
		require.ErrorIs(t, x.Check(), ErrReleased)
		y, _ := mustAcquire(t, f.process("bob"), 1)
		f.set(func() { delete(f.shards, "pool-1") })
		_ = x.Release(t.Context(), Released())
		_, _, err := f.process("carol").test(t, 1)
		require.ErrorAs(t, err, new(*BusyError))
		require.NoError(t, y.Check())
		mustRelease(t, y)
	})
}

func TestALeaseUnderAClaimThatIsMissingIsHeld(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, claim, x := heldUnderClaim(t)
		f.set(func() { delete(f.shards, claimShard) })
		s := f.read(t)
		e, err := s.Pool(1)
		require.NoError(t, err)
		assert.Equal(t, Leased, e.State(s.Now))
		gone, err := f.process("bob").Free(t.Context(), 1)
		require.ErrorAs(t, err, new(*BusyError))
		assert.Nil(t, gone)
		time.Sleep(2 * time.Minute) // the claim is written again
		require.NoError(t, x.Confirm(t.Context()))
		endUnder(t, claim, x)
	})
}

// A reader found the claim damaged, and noted that its holder may write it again.
func TestABuilderMakesShardsUnderAClaimThatWasLost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeStore()
		claim := mustClaim(t, f.process("builder"), 2)
		f.set(func() {
			f.shards[claimShard] = Shard{ID: claimShard, Revision: "damaged", Values: map[string]string{entryKey: "{"}}
		})
		_, _, err := f.process("next").TakeClaim(t.Context(), ClaimRequest{})
		require.ErrorAs(t, err, new(*BusyError))
		require.NoError(t, claim.Make(t.Context(), 2, nil, Built("b1", nil, nil)))
		require.NoError(t, claim.ReleaseClaim(t.Context(), nil, []int{2}, nil))
	})
}

func TestALeaseUnderAClaimThatIsAnothersNowIsLost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, claim, x := heldUnderClaim(t)
		time.Sleep(10 * time.Second)
		f.set(func() { delete(f.shards, claimShard) }) // by hand
		other := mustClaim(t, f.process("other"))
		require.ErrorIs(t, x.Confirm(t.Context()), ErrLost)
		_, _, err := claim.l.Operate(t.Context(), Request{Pool: 1, Under: claim})
		require.ErrorIs(t, err, ErrLost)
		require.NoError(t, other.ReleaseClaim(t.Context(), nil, nil, nil))
	})
}

func TestFreeTellsWhoseLeaseUnderAClaimItEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeStore()
		f.make(t, in(Dirty), 1)
		l := f.process("destroyer")
		l.self = &Process{PID: 1}
		claim := mustClaim(t, l)
		holdUnder(t, claim, 1)
		bob := f.process("bob")
		_, err := bob.Free(t.Context(), 1)
		require.ErrorAs(t, err, new(*BusyError))
		kill(claim)
		bob.ended = func(p *Process) bool { return p != nil && p.PID == 1 }
		gone, err := bob.Free(t.Context(), 1)
		require.NoError(t, err)
		require.NotNil(t, gone)
		assert.Equal(t, "destroyer", gone.Holder)
		assert.Nil(t, f.entry(t, 1).Lease)
	})
}
