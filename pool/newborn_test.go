package pool

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

// A fakeProvider has a ledger, and an inventory without VMs; nothing else is asked of it before a
// claim is held.
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
			f.fault = unreliable(roll, 3*time.Second, 5)
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

// The claim is over, unnoticed, and a test has a pool since: what the builder writes at its end
// leaves that alone.
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

// A builder waits for a pool in the line: else tests, of which the next waits already when one
// ends, would have it for ever.
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
