package pool

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A fakeProvider has a ledger, and an inventory without VMs; nothing else is asked of it before a claim is held.
type fakeProvider struct {
	Provider
	store *fakeStore
}

func (p fakeProvider) Ledger(ctx context.Context, set string, shards ...string) (*Ledger, error) {
	return p.store.Ledger(ctx, set, shards...)
}

func (p fakeProvider) SetLedger(ctx context.Context, set, shard, revision string, values map[string]string) error {
	return p.store.SetLedger(ctx, set, shard, revision, values)
}

func (p fakeProvider) Inventory(context.Context, string, ...string) (*Inventory, error) {
	return &Inventory{Templates: map[string]string{"tpl": "1"}}, nil
}

func (p fakeProvider) Preflight(context.Context, []CloneSpec) error { return nil }

// builder is a process that has planned to build that many pools from nothing.
func (f *fakeStore) builder(t *testing.T, who string, pools int) *build {
	t.Helper()
	b := newBuild(Spec{
		Name: "lab", Provider: fakeProvider{store: f}, Pools: pools, Logf: t.Logf,
		Golden: Golden{Template: "tpl", VM: VM{Name: "golden"}},
		Roles:  []Role{{Name: "con", VM: func(n int) VM { return VM{Name: fmt.Sprint("con", n)} }}},
	}.withDefaults())
	b.ledger.by, b.lost = who, func(error) {}
	require.NoError(t, b.look(t.Context(), "-"))
	return b
}

func mustClaim(t *testing.T, b *build) {
	t.Helper()
	require.NoError(t, b.claim(t.Context(), b.lost))
	require.True(t, b.holds(0))
}

// kill ends a lease as the death of its process does: without a word.
func kill(x *lease) {
	x.end(errors.New("killed"))
	<-x.gone
}

// newborn leaves a set of that many pools behind, just built and clean.
func (f *fakeStore) newborn(t *testing.T, pools int) {
	t.Helper()
	b := f.builder(t, "builder", pools)
	mustClaim(t, b)
	for n := range pools {
		_ = b.letGo(t.Context(), n+1, func(now time.Time, e *entry) { e.Build, e.Clean = "b1", &proof{At: now} })
	}
	b.letAllGo(t.Context())
}

func take(t *testing.T, l *ledger, n int) (*lease, entry, error) {
	t.Helper()
	return l.take(t.Context(), request{shard: poolShard(n), what: "TestA"})
}

// soon takes a pool as soon as it can be had, and says how long that took.
func soon(t *testing.T, l *ledger, n int) (*lease, entry, time.Duration) {
	t.Helper()
	began := time.Now()
	for {
		x, was, err := take(t, l, n)
		if err == nil {
			return x, was, time.Since(began)
		}
		require.ErrorAs(t, err, new(*busyError))
		time.Sleep(time.Second)
	}
}

func TestABuildWritesTwiceWhateverItsPools(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeStore()
		b := f.builder(t, "builder", 50)
		mustClaim(t, b)
		assert.Equal(t, map[string]int{"build": 1}, f.writes)
		for n := range 50 {
			_, _, err := take(t, f.ledger("bob"), n+1)
			require.ErrorContains(t, err, "held by builder (being built) since")
			_ = b.letGo(t.Context(), n+1, func(_ time.Time, e *entry) { e.Build = "b1" })
		}
		b.letAllGo(t.Context())
		assert.Equal(t, map[string]int{"build": 2}, f.writes)

		x, was, err := take(t, f.ledger("bob"), 7)
		require.NoError(t, err)
		assert.Equal(t, "b1", was.Build)
		assert.Equal(t, map[string]int{"build": 3, "pool-7": 1}, f.writes, "the first holder's two")
		require.NoError(t, x.release(t.Context(), nil))
		y, _, err := take(t, f.ledger("carol"), 7)
		require.NoError(t, err)
		require.NoError(t, y.release(t.Context(), nil))
		assert.Equal(t, map[string]int{"build": 3, "pool-7": 4}, f.writes, "later ones write nothing else")
	})
}

func TestANewbornPoolHasOneFirstHolder(t *testing.T) {
	t.Parallel()
	for seed := range uint64(30) {
		synctest.Test(t, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 2))
			f := newFakeStore()
			f.newborn(t, 2)
			var mu sync.Mutex
			roll := func(n int) int { mu.Lock(); defer mu.Unlock(); return rnd.IntN(n) }
			f.fault = func(string) (bool, error) {
				time.Sleep(time.Duration(roll(3000)) * time.Millisecond)
				switch roll(5) {
				case 0:
					return true, errors.New("the answer was lost")
				case 1:
					return false, errors.New("it did not arrive")
				}
				return true, nil
			}
			holders := map[string][]*lease{}
			var wg sync.WaitGroup
			for who := range 8 {
				wg.Go(func() {
					x, was, err := take(t, f.ledger(fmt.Sprint("process ", who)), 1+who%2)
					if err != nil {
						return
					}
					assert.Equal(t, "b1", was.Build)
					mu.Lock()
					defer mu.Unlock()
					holders[x.shard] = append(holders[x.shard], x)
				})
			}
			wg.Wait()
			for shard, all := range holders {
				assert.Len(t, all, 1, shard)
				for _, x := range all {
					assert.NoError(t, x.check())
					kill(x)
				}
			}
		})
	}
}

func TestALostAnswerOnTheWayToANewbornPool(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		shard string
		done  bool
	}{
		{"the first write is done", buildShard, true},
		{"the first write is not done", buildShard, false},
		{"the second write is done", "pool-1", true},
		{"the second write is not done", "pool-1", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := newFakeStore()
				f.newborn(t, 1)
				faults := 0
				f.fault = func(shard string) (bool, error) {
					if shard == tt.shard && faults == 0 {
						faults++
						return tt.done, errors.New("no answer")
					}
					return true, nil
				}
				x, was, err := take(t, f.ledger("alice"), 1)
				require.NoError(t, err)
				assert.Equal(t, 1, faults)
				assert.NotNil(t, was.Clean, "as it was before the write whose answer was lost")
				_, _, err = take(t, f.ledger("bob"), 1)
				require.ErrorContains(t, err, "held by alice")
				assert.Equal(t, 1, f.written("pool-1"))
				require.NoError(t, x.release(t.Context(), nil))
			})
		})
	}
}

func TestWhoDiesBetweenTheTwoWritesLosesNoPool(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeStore()
		f.newborn(t, 1)
		alice := f.ledger("alice")
		_, err := alice.bear(t.Context(), &lease{l: alice, shard: "pool-1", token: newToken()}, "TestA")
		require.NoError(t, err)
		_, _, err = take(t, f.ledger("bob"), 1)
		require.ErrorContains(t, err, "held by alice (TestA) since")
		assert.Equal(t, []int{1}, mustRead(t, f).pools())
		x, was, took := soon(t, f.ledger("bob"), 1)
		assert.InDelta(t, 360, took.Seconds(), 5, "her lease, and as long again, since her entry is missing")
		assert.Nil(t, was.Clean, "nothing is known of it")
		require.NoError(t, x.release(t.Context(), nil))
	})
}

func mustRead(t *testing.T, f *fakeStore) books {
	t.Helper()
	b, err := f.ledger("reader").read(t.Context())
	require.NoError(t, err)
	return b
}

func TestABuilderThatDiesLeavesItsNewbornPoolsToTheNext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeStore()
		b := f.builder(t, "builder", 3)
		mustClaim(t, b)
		kill(b.leases[0])

		x, was, took := soon(t, f.ledger("alice"), 1)
		assert.InDelta(t, 180, took.Seconds(), 2, "its claim holds until it is over")
		assert.Nil(t, was.Clean)
		next := f.builder(t, "next", 3)
		claimed := make(chan error)
		go func() { claimed <- next.claim(t.Context(), next.lost) }()
		time.Sleep(time.Minute)
		for n, by := range map[int]string{1: "alice (TestA)", 2: "next (being built)", 3: "next (being built)"} {
			_, _, err := take(t, f.ledger("bob"), n)
			assert.ErrorContains(t, err, "held by "+by)
		}
		require.NoError(t, x.release(t.Context(), nil))
		require.NoError(t, <-claimed)
		assert.Equal(t, map[int]bool{1: false, 2: true, 3: true}, next.covered)
		_, _, err := take(t, f.ledger("bob"), 1)
		assert.ErrorContains(t, err, "held by next (being built)")
		next.letAllGo(t.Context())
	})
}

// The claim is over, unnoticed, and a test has a pool since: what the builder writes at its end leaves that alone.
func TestALateBuilderDoesNotTakeANewbornPoolBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeStore()
		b := f.builder(t, "builder", 2)
		mustClaim(t, b)
		kill(b.leases[0])
		x, _, _ := soon(t, f.ledger("alice"), 1)
		_ = b.letGo(t.Context(), 1, func(now time.Time, e *entry) { e.Clean = &proof{At: now} })
		b.letAllGo(t.Context())
		e, err := decodeEntry(mustRead(t, f).Shards[buildShard].Values[poolKey(1)])
		require.NoError(t, err)
		require.NotNil(t, e.Lease)
		assert.Equal(t, "alice", e.Lease.Owner)
		e, err = decodeEntry(mustRead(t, f).Shards[buildShard].Values[poolKey(2)])
		require.NoError(t, err)
		assert.Empty(t, e.Building, "nobody has this one")
		require.NoError(t, x.release(t.Context(), nil))
	})
}

func TestTheShardOfWhoBuildsIsDestroyedByHand(t *testing.T) {
	t.Parallel()
	lose := func(f *fakeStore) { f.set(func() { delete(f.shards, buildShard) }) }
	t.Run("while it builds", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			f := newFakeStore()
			b := f.builder(t, "builder", 2)
			mustClaim(t, b)
			time.Sleep(10 * time.Minute)
			lose(f)
			for range 1200 { // longer than any block lasts
				_, _, err := take(t, f.ledger("bob"), 1)
				require.ErrorAs(t, err, new(*busyError))
				time.Sleep(time.Second)
			}
			_, _, err := f.ledger("bob").take(t.Context(), request{shard: buildShard, what: "building"})
			require.ErrorContains(t, err, "held by builder")
			require.NoError(t, b.leases[0].check())
			b.letAllGo(t.Context())
			x, _, took := soon(t, f.ledger("bob"), 2)
			assert.Less(t, took, time.Second)
			require.NoError(t, x.release(t.Context(), nil))
		})
	})
	t.Run("with newborn pools in it", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			f := newFakeStore()
			f.newborn(t, 2)
			lose(f)
			x, was, took := soon(t, f.ledger("bob"), 1)
			assert.InDelta(t, 180, took.Seconds(), 2, "somebody may have had it")
			assert.Nil(t, was.Clean)
			require.NoError(t, x.release(t.Context(), nil))
		})
	})
	t.Run("while a process waits that saw an empty vCenter", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			f := newFakeStore()
			late := f.builder(t, "late", 2)
			b := f.builder(t, "builder", 2)
			mustClaim(t, b)
			claimed := make(chan error)
			go func() { claimed <- late.claim(t.Context(), late.lost) }()
			time.Sleep(time.Minute + time.Second)
			lose(f)
			select {
			case err := <-claimed:
				t.Errorf("two build: %v", err)
			case <-time.After(time.Hour):
			}
			b.letAllGo(t.Context())
			require.NoError(t, <-claimed)
			late.letAllGo(t.Context())
		})
	})
}

func TestANewbornEntryOfANewerFormatIsLeftAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeStore()
		f.newborn(t, 1)
		b := f.builder(t, "builder", 1)
		f.shards[buildShard].Values[poolKey(1)] = `{"poolready":2}`
		_, _, err := take(t, f.ledger("bob"), 1)
		require.ErrorIs(t, err, errOtherForm)
		require.ErrorIs(t, b.look(t.Context(), "-"), errOtherForm)
		assert.Zero(t, f.written("pool-1"))
	})
}

// A builder waits for a pool in the line: else tests, of which the next waits already when one ends, would have it for ever.
func TestABuilderIsNotStarvedByTests(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeStore()
		x, _ := mustTake(t, f.ledger("alice"), "pool-1")
		b := f.builder(t, "builder", 1)
		claimed := make(chan error)
		go func() { claimed <- b.claim(t.Context(), b.lost) }()
		time.Sleep(time.Minute)
		line := mustRead(t, f).line()
		require.Len(t, line, 1)
		assert.Equal(t, "builder", line[0].Owner)
		assert.Zero(t, choose([]int{1}, line, "another", []int{1}), "it is the builder's turn")
		assert.Equal(t, 2, choose([]int{1, 2}, line, "another", []int{1, 2}))
		require.NoError(t, x.release(t.Context(), nil))
		require.NoError(t, <-claimed)
		assert.Empty(t, mustRead(t, f).line())
		b.letAllGo(t.Context())
	})
}

func TestATicketNamesThePoolsThatStillWillDo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeStore()
		l := f.ledger("alice")
		p := l.place("TestA", []int{1, 2})
		require.NoError(t, p.join(t.Context()))
		require.NoError(t, p.join(t.Context()))
		assert.Equal(t, 1, f.written("queue-1"))
		p.t.Pools = []int{2}
		require.NoError(t, p.join(t.Context()))
		line := mustRead(t, f).line()
		require.Len(t, line, 1)
		assert.Equal(t, []int{2}, line[0].Pools)
		assert.Equal(t, 1, choose([]int{1}, line, "bob", []int{1, 2}), "nobody waits for what alice no longer wants")
		require.NoError(t, p.leave(t.Context()))
	})
}

// Somebody else's lease, and then its entry, are gone: the first holder, who slept through it all, does not write a free pool there.
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

// A pool's shard goes between the reading and the write of whoever takes it: that it was free before says nothing any more.
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
