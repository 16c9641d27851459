package lease

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestALeaseIsKeptAsLongAsItsHolderLives(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, x := heldByAlice(t)
		_, _, err := f.process("bob").test(t, 1)
		require.ErrorAs(t, err, new(*BusyError))
		assert.ErrorContains(t, err, "held by alice (TestA) since")
		time.Sleep(time.Hour)
		require.NoError(t, x.Check())
		_, _, err = f.process("bob").test(t, 1)
		require.ErrorAs(t, err, new(*BusyError), "after an hour")
		assert.InDelta(t, 60, f.written("pool-1"), 2, "one write a minute: a third of the lease")

		require.NoError(t, x.Release(t.Context(), Used("TestA")))
		require.ErrorIs(t, x.Check(), ErrReleased)
		y, was, err := f.process("bob").test(t, 1)
		require.NoError(t, err)
		assert.Equal(t, "TestA", was.LastUser)
		mustRelease(t, y)
	})
}

func TestALeaseWhoseHolderDiedIsOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, x := heldByAlice(t)
		kill(x)
		bob := f.process("bob")
		began := time.Now()
		var y *Held
		for y == nil {
			var err error
			if y, _, err = bob.test(t, 1); err != nil {
				require.ErrorAs(t, err, new(*BusyError))
				time.Sleep(time.Second)
			}
		}
		assert.InDelta(t, 180, time.Since(began).Seconds(), 2)
		require.ErrorIs(t, x.Release(t.Context(), Released()), errNotOurs, "what is no longer mine is not released")
		require.NoError(t, y.Check())
		mustRelease(t, y)
	})
}

func TestALostLeaseEndsItsHolderBeforeAnotherCanHaveIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, x := heldByAlice(t)
		began := time.Now()
		f.set(func() { f.down = true })
		<-x.ctx.Done()
		lost := time.Since(began)
		require.ErrorIs(t, context.Cause(x.ctx), ErrLost)
		require.ErrorIs(t, x.Check(), ErrLost)
		assert.Less(t, lost, 163*time.Second, "nine tenths of the lease")
		f.set(func() { f.down = false })
		_, _, err := f.process("bob").test(t, 1)
		require.ErrorAs(t, err, new(*BusyError), "by the ledger it is not over yet")
		require.ErrorIs(t, x.Confirm(t.Context()), ErrLost, "lost is lost, though it could still be renewed")
		<-x.gone
	})
}

func TestAnOutageShorterThanTheLeaseIsSurvived(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, x := heldByAlice(t)
		for range 5 {
			f.set(func() { f.down = true })
			time.Sleep(90 * time.Second)
			f.set(func() { f.down = false })
			time.Sleep(time.Minute)
			require.NoError(t, x.Check())
		}
		mustRelease(t, x)
	})
}

// A process that was stopped (SIGSTOP, a laptop's lid) wakes after its lease: its timers have not
// fired yet, and it must notice all the same.
func TestAStalledHolderNoticesBeforeItTouchesAnything(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, x := heldByAlice(t)
		stalled := newHeld(x.l, 1)
		stalled.token, stalled.entry, stalled.ends = x.token, x.entry, x.ends
		kill(x)
		time.Sleep(4 * time.Minute)
		y, _, err := f.process("bob").test(t, 1)
		require.NoError(t, err)

		require.NoError(t, stalled.ctx.Err(), "no timer has fired")
		require.ErrorIs(t, stalled.Check(), ErrLost)
		require.ErrorIs(t, context.Cause(stalled.ctx), ErrLost)

		// Even if its clock stood still with it, the ledger says no.
		stalled.ctx, stalled.end = context.WithCancelCause(t.Context())
		stalled.ends = time.Now().Add(time.Hour)
		require.ErrorIs(t, stalled.Confirm(t.Context()), ErrLost)
		require.ErrorIs(t, context.Cause(stalled.ctx), ErrLost)
		assert.Equal(t, "bob", f.entry(t, 1).Lease.Holder)
		mustRelease(t, y)
	})
}

// unreliable is the fault of a store of which, of so many writes, one loses its answer and one does
// not arrive.
func unreliable(roll func(n int) int, slowest time.Duration, writes int) func(string) (bool, error) {
	return func(string) (bool, error) {
		time.Sleep(time.Duration(roll(int(slowest.Milliseconds()))) * time.Millisecond)
		switch roll(writes) {
		case 0:
			return true, errors.New("the answer was lost")
		case 1:
			return false, errors.New("it did not arrive")
		}
		return true, nil
	}
}

func TestNeverTwoHolders(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 1))
			f := newFakeStore()
			f.make(t, in(Dirty), 1, 2, 3)
			var mu sync.Mutex
			roll := func(n int) int { mu.Lock(); defer mu.Unlock(); return rnd.IntN(n) }
			f.fault = unreliable(roll, 4*time.Second, 8)
			holding := map[int]*Held{}
			got := 0
			var wg sync.WaitGroup
			for who := range 8 {
				l := f.process(fmt.Sprint("process ", who))
				wg.Go(func() {
					for range 25 {
						pool := 1 + roll(3)
						x, _, err := l.test(t, pool)
						if err != nil {
							time.Sleep(time.Duration(roll(20)) * time.Second)
							continue
						}
						mu.Lock()
						other := holding[pool]
						if other != nil {
							assert.Error(t, other.Check(), "two hold pool %d", pool)
						}
						holding[pool] = x
						got++
						mu.Unlock()
						time.Sleep(time.Duration(roll(400)) * time.Second)
						mu.Lock()
						if holding[pool] == x {
							assert.NoError(t, x.Check(), "kept as long as nobody else has it")
						}
						delete(holding, pool)
						mu.Unlock()
						if roll(4) == 0 {
							kill(x)
							continue
						}
						if err := x.Release(t.Context(), Released()); err != nil {
							assert.NotErrorIs(t, err, errNotOurs)
						}
					}
				})
			}
			wg.Wait()
			assert.Greater(t, got, 5)
		})
	}
}

func TestALostAnswerIsNotASecondHolder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeStore()
		f.make(t, in(Dirty), 1)
		n := 0
		f.fault = func(string) (bool, error) {
			if n++; n%2 == 1 {
				return true, errors.New("the answer was lost")
			}
			return true, nil
		}
		x, was, err := f.process("alice").test(t, 1)
		require.NoError(t, err)
		assert.Equal(t, "TestLast", was.LastUser, "what the entry was before the write whose answer was lost")
		assert.Equal(t, 1, f.written("pool-1"))
		f.set(func() { n = 0 })
		require.NoError(t, x.Release(t.Context(), Used("TestA")))
		assert.Equal(t, "TestA", f.entry(t, 1).LastUser)
		assert.Nil(t, f.entry(t, 1).Lease)
	})
}

func TestALostEntryFreesNoLease(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		lose func(f *fakeStore)
	}{
		{"missing", func(f *fakeStore) { delete(f.shards, "pool-1") }},
		{"unreadable", func(f *fakeStore) {
			f.shards["pool-1"] = Shard{Revision: "x", Values: map[string]string{entryKey: "{{{"}}
		}},
		{"empty", func(f *fakeStore) { f.shards["pool-1"] = Shard{Revision: "x"} }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := newFakeStore()
				f.make(t, in(Dirty), 1)
				x, _ := mustAcquire(t, f.process("alice"), 1)
				require.NoError(t, x.Update(t.Context(), Resetting("TestA")))
				bob := f.process("bob")
				for range 3 {
					f.set(func() { tt.lose(f) })
					_, _, err := bob.test(t, 1)
					busy, ok := errors.AsType[*BusyError](err)
					require.True(t, ok, "%v", err)
					assert.Equal(t, Recovering, busy.State)
					time.Sleep(61 * time.Second)
				}
				require.NoError(t, x.Check())
				e := f.entry(t, 1)
				assert.Equal(t, "alice", e.Lease.Holder, "the holder has written it anew")
				assert.Equal(t, "TestA", e.LastUser, "with all that was in it")
				mustRelease(t, x)

				// With no holder left, it is free after as long as a lease lasts.
				f.set(func() { tt.lose(f) })
				began := time.Now()
				for {
					y, was, err := bob.test(t, 1)
					if err == nil {
						assert.Equal(t, Recovering, was.Stored, "nothing is known of it")
						mustRelease(t, y)
						break
					}
					time.Sleep(time.Second)
				}
				assert.InDelta(t, 180, time.Since(began).Seconds(), 2)
			})
		})
	}
}

func TestFiftyHoldersDoNotHinderEachOther(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeStore()
		var all []*Held
		for n := range 50 {
			f.make(t, in(Dirty), n+1)
			x, _ := mustAcquire(t, f.process(fmt.Sprint("process ", n)), n+1)
			all = append(all, x)
		}
		f.set(func() { // as slow as a busy vCenter
			f.fault = func(string) (bool, error) { time.Sleep(4 * time.Second); return true, nil }
		})
		time.Sleep(time.Hour)
		for n, x := range all {
			require.NoError(t, x.Check())
			assert.LessOrEqual(t, f.written(poolShard(n+1)), 61)
			mustRelease(t, x)
		}
		assert.Zero(t, f.conflicts)
	})
}

// Somebody else's lease, and then its entry, are gone: the first holder, who slept through it all,
// does not write a free pool there.
func TestALateReleaseFreesNoPool(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, x := heldByAlice(t)
		kill(x)
		y, _, _ := soon(t, f.process("bob"), 1)
		f.set(func() { delete(f.shards, "pool-1") })
		require.ErrorIs(t, x.Release(t.Context(), Released()), errNotOurs)
		_, _, err := f.process("carol").test(t, 1)
		require.ErrorAs(t, err, new(*BusyError))
		time.Sleep(2 * time.Minute)
		require.NoError(t, y.Check())
		assert.Equal(t, "bob", f.entry(t, 1).Lease.Holder)
		mustRelease(t, y)
	})
}

// A pool's shard goes between the reading and the write of whoever takes it: that it was free
// before says nothing any more.
func TestAShardThatGoesWhileItIsTakenIsNotTaken(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, x := heldByAlice(t)
		mustRelease(t, x)
		f.fault = func(shard string) (bool, error) {
			f.set(func() { f.fault = nil; delete(f.shards, shard) })
			return true, nil
		}
		_, _, err := f.process("bob").test(t, 1)
		require.ErrorContains(t, err, "recovering")
	})
}

// What was written a moment ago need not be asked for, unless the lease may be over.
func TestARecentWriteConfirmsALease(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, x := heldByAlice(t)
		f.set(func() { f.down = true })
		require.NoError(t, x.Confirm(t.Context()))
		time.Sleep(6 * time.Second)
		require.Error(t, x.Confirm(t.Context()))
		f.set(func() { f.down = false })
		require.NoError(t, x.Confirm(t.Context()))
		mustRelease(t, x)
		require.ErrorIs(t, x.Confirm(t.Context()), ErrReleased)
	})
}

// Who waits for the answer to a write does not keep the lease from ending in time.
func TestAWriteWithoutAnswerDoesNotKeepALeaseAlive(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, x := heldByAlice(t)
		began := time.Now()
		f.set(func() { f.deaf = true })
		ended := make(chan error)
		go func() { ended <- x.Update(t.Context(), Resetting("TestA")) }()
		<-x.ctx.Done()
		assert.Less(t, time.Since(began), 163*time.Second)
		require.ErrorIs(t, context.Cause(x.ctx), ErrLost)
		require.Error(t, <-ended)
		<-x.gone
	})
}

// The answer of the hypervisor's clock came late: its lease counts from when it was asked.
func TestASlowClockShortensTheLeaseOfWhoAsked(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeStore()
		f.make(t, in(Dirty), 1)
		f.slack = 30 * time.Second
		x, _ := mustAcquire(t, f.process("alice"), 1)
		began := time.Now()
		f.set(func() { f.down = true })
		<-x.ctx.Done()
		assert.Less(t, time.Since(began), 133*time.Second, "nine tenths of the lease, and the slack less")
		<-x.gone
	})
}
