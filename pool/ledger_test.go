package pool

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A fakeStore is a ledger in memory that answers as slowly and loses as much as it is told to.
type fakeStore struct {
	mu     sync.Mutex
	skew   time.Duration // of its clock
	slack  time.Duration // how long that takes to answer
	shards map[string]Shard
	writes map[string]int
	n      int
	// conflicts counts the writes that came too late.
	conflicts int

	// fault is asked about every write, after a delay of its making: whether it is done, and what
	// is answered.
	fault func(shard string) (done bool, err error)
	// down, while true, answers nothing but errors, and deaf leaves writes without an answer.
	down, deaf bool
}

func newFakeStore() *fakeStore {
	return &fakeStore{shards: map[string]Shard{}, writes: map[string]int{}, skew: 3 * time.Hour}
}

func (f *fakeStore) Ledger(ctx context.Context, set string, shards ...string) (*Ledger, error) {
	if err := sleep(ctx, 5*time.Millisecond); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down {
		return nil, errors.New("no answer")
	}
	l := &Ledger{Now: time.Now().Add(f.skew - f.slack), Slack: f.slack, Shards: map[string]Shard{}}
	for name, s := range f.shards {
		if len(shards) > 0 && !slices.Contains(shards, name) {
			continue
		}
		s.Values = maps.Clone(s.Values)
		l.Shards[name] = s
	}
	return l, nil
}

func (f *fakeStore) SetLedger(ctx context.Context, set, shard, revision string, values map[string]string) error {
	if err := sleep(ctx, 20*time.Millisecond); err != nil {
		return err
	}
	done, answer := true, error(nil)
	f.mu.Lock()
	fault, deaf := f.fault, f.deaf
	f.mu.Unlock()
	if deaf {
		<-ctx.Done()
		return ctx.Err()
	}
	if fault != nil {
		done, answer = fault(shard)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down {
		return errors.New("no answer")
	}
	if !done {
		return answer
	}
	old, ok := f.shards[shard]
	if old.Revision != revision {
		f.conflicts++
		return ErrChanged
	}
	s := Shard{ID: shard, Values: map[string]string{}}
	if ok {
		maps.Copy(s.Values, old.Values)
	}
	for k, v := range values {
		if len(v) >= 4096 {
			return fmt.Errorf("the value of %q is too long", k)
		}
		if v == "" {
			delete(s.Values, k)
		} else {
			s.Values[k] = v
		}
	}
	f.n++
	s.Revision = fmt.Sprint(f.n)
	f.shards[shard] = s
	f.writes[shard]++
	return answer
}

func (f *fakeStore) written(shard string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.writes[shard]
}

func (f *fakeStore) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func (f *fakeStore) entry(t *testing.T, shard string) entry {
	f.mu.Lock()
	defer f.mu.Unlock()
	e, err := decodeEntry(f.shards[shard].Values[entryKey])
	require.NoError(t, err)
	return e
}

func (f *fakeStore) ledger(who string) *ledger {
	return &ledger{store: f, set: "lab", term: 3 * time.Minute, by: who}
}

func mustTake(t *testing.T, l *ledger, shard string) (*lease, entry) {
	t.Helper()
	x, was, err := l.take(t.Context(), request{shard: shard, what: "TestA", fresh: true})
	require.NoError(t, err)
	return x, was
}

func TestALeaseIsKeptAsLongAsItsHolderLives(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeStore()
		x, _ := mustTake(t, f.ledger("alice"), "pool-1")
		_, _, err := f.ledger("bob").take(t.Context(), request{shard: "pool-1", what: "TestB"})
		require.ErrorAs(t, err, new(*busyError))
		assert.ErrorContains(t, err, "held by alice (TestA) since")
		time.Sleep(time.Hour)
		require.NoError(t, x.check())
		_, _, err = f.ledger("bob").take(t.Context(), request{shard: "pool-1", what: "TestB"})
		require.ErrorAs(t, err, new(*busyError), "after an hour")
		assert.InDelta(t, 60, f.written("pool-1"), 2, "one write a minute: a third of the lease")

		require.NoError(t, x.release(t.Context(), func(_ books, e *entry) { e.Used = "TestA" }))
		require.ErrorIs(t, x.check(), ErrReturned)
		y, was, err := f.ledger("bob").take(t.Context(), request{shard: "pool-1", what: "TestB"})
		require.NoError(t, err)
		assert.Equal(t, "TestA", was.Used)
		require.NoError(t, y.release(t.Context(), nil))
	})
}

func TestALeaseWhoseHolderDiedIsOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeStore()
		x, _ := mustTake(t, f.ledger("alice"), "pool-1")
		x.end(errors.New("killed"))
		<-x.gone
		bob := f.ledger("bob")
		began := time.Now()
		var y *lease
		for y == nil {
			var err error
			if y, _, err = bob.take(t.Context(), request{shard: "pool-1", what: "TestB"}); err != nil {
				require.ErrorAs(t, err, new(*busyError))
				time.Sleep(time.Second)
			}
		}
		assert.InDelta(t, 180, time.Since(began).Seconds(), 2)
		require.ErrorIs(t, x.release(t.Context(), nil), errNotOurs, "what is no longer mine is not released")
		require.NoError(t, y.check())
		require.NoError(t, y.release(t.Context(), nil))
	})
}

func TestALostLeaseEndsItsHolderBeforeAnotherCanHaveIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeStore()
		x, _ := mustTake(t, f.ledger("alice"), "pool-1")
		began := time.Now()
		f.set(func() { f.down = true })
		<-x.ctx.Done()
		lost := time.Since(began)
		require.ErrorIs(t, context.Cause(x.ctx), ErrLeaseLost)
		require.ErrorIs(t, x.check(), ErrLeaseLost)
		assert.Less(t, lost, 163*time.Second, "nine tenths of the lease")
		f.set(func() { f.down = false })
		_, _, err := f.ledger("bob").take(t.Context(), request{shard: "pool-1", what: "TestB"})
		require.ErrorAs(t, err, new(*busyError), "by the ledger it is not over yet")
		require.ErrorIs(t, x.confirm(t.Context()), ErrLeaseLost, "lost is lost, though it could still be renewed")
		<-x.gone
	})
}

func TestAnOutageShorterThanTheLeaseIsSurvived(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeStore()
		x, _ := mustTake(t, f.ledger("alice"), "pool-1")
		for range 5 {
			f.set(func() { f.down = true })
			time.Sleep(90 * time.Second)
			f.set(func() { f.down = false })
			time.Sleep(time.Minute)
			require.NoError(t, x.check())
		}
		require.NoError(t, x.release(t.Context(), nil))
	})
}

// A process that was stopped (SIGSTOP, a laptop's lid) wakes after its lease: its timers have not
// fired yet, and it must notice all the same.
func TestAStalledHolderNoticesBeforeItTouchesAnything(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeStore()
		x, _ := mustTake(t, f.ledger("alice"), "pool-1")
		stalled := &lease{l: x.l, shard: x.shard, token: x.token, writing: make(chan struct{}, 1), ctx: x.ctx, end: x.end, gone: x.gone, last: x.last, ends: x.ends}
		x.end(errors.New("stopped")) // its heart stands still
		<-x.gone
		stalled.ctx, stalled.end = context.WithCancelCause(t.Context())
		time.Sleep(4 * time.Minute)
		y, _, err := f.ledger("bob").take(t.Context(), request{shard: "pool-1", what: "TestB"})
		require.NoError(t, err)

		require.NoError(t, stalled.ctx.Err(), "no timer has fired")
		require.ErrorIs(t, stalled.check(), ErrLeaseLost)
		require.ErrorIs(t, context.Cause(stalled.ctx), ErrLeaseLost)

		// Even if its clock stood still with it, the ledger says no.
		stalled.ctx, stalled.end = context.WithCancelCause(t.Context())
		stalled.ends = time.Now().Add(time.Hour)
		require.ErrorIs(t, stalled.confirm(t.Context()), ErrLeaseLost)
		require.ErrorIs(t, context.Cause(stalled.ctx), ErrLeaseLost)
		assert.Equal(t, "bob", f.entry(t, "pool-1").Lease.Owner)
		require.NoError(t, y.release(t.Context(), nil))
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
			var mu sync.Mutex
			roll := func(n int) int { mu.Lock(); defer mu.Unlock(); return rnd.IntN(n) }
			f.fault = unreliable(roll, 4*time.Second, 8)
			holding := map[string]*lease{}
			got := 0
			var wg sync.WaitGroup
			for who := range 8 {
				l := f.ledger(fmt.Sprint("process ", who))
				wg.Go(func() {
					for range 25 {
						shard := poolShard(1 + roll(3))
						x, _, err := l.take(t.Context(), request{shard: shard, what: "Test", fresh: true})
						if err != nil {
							time.Sleep(time.Duration(roll(20)) * time.Second)
							continue
						}
						mu.Lock()
						other := holding[shard]
						if other != nil {
							assert.Error(t, other.check(), "two hold %s", shard)
						}
						holding[shard] = x
						got++
						mu.Unlock()
						time.Sleep(time.Duration(roll(400)) * time.Second)
						mu.Lock()
						if holding[shard] == x {
							assert.NoError(t, x.check(), "kept as long as nobody else has it")
						}
						delete(holding, shard)
						mu.Unlock()
						if roll(4) == 0 {
							x.end(errors.New("killed"))
							<-x.gone
							continue
						}
						if err := x.release(t.Context(), nil); err != nil {
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
		n := 0
		f.fault = func(string) (bool, error) {
			if n++; n%2 == 1 {
				return true, errors.New("the answer was lost")
			}
			return true, nil
		}
		f.shards["pool-1"] = Shard{Revision: "0", Values: map[string]string{entryKey: `{"poolready":1,"used":"before"}`}}
		x, was, err := f.ledger("alice").take(t.Context(), request{shard: "pool-1", what: "TestA"})
		require.NoError(t, err)
		assert.Equal(t, "before", was.Used, "what the entry was before the write whose answer was lost")
		assert.Equal(t, 1, f.written("pool-1"))
		f.set(func() { n = 0 })
		require.NoError(t, x.release(t.Context(), func(_ books, e *entry) { e.Used = "after" }))
		assert.Equal(t, "after", f.entry(t, "pool-1").Used)
		assert.Nil(t, f.entry(t, "pool-1").Lease)
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
				x, _ := mustTake(t, f.ledger("alice"), "pool-1")
				require.NoError(t, x.set(t.Context(), func(_ time.Time, e *entry) { e.Used = "TestA" }))
				bob := f.ledger("bob")
				for range 3 {
					f.set(func() { tt.lose(f) })
					_, _, err := bob.take(t.Context(), request{shard: "pool-1", what: "TestB"})
					require.ErrorAs(t, err, new(*busyError))
					assert.ErrorContains(t, err, "being recovered")
					time.Sleep(61 * time.Second)
				}
				require.NoError(t, x.check())
				e := f.entry(t, "pool-1")
				assert.Equal(t, "alice", e.Lease.Owner, "the holder has written it anew")
				assert.Equal(t, "TestA", e.Used, "with all that was in it")
				require.NoError(t, x.release(t.Context(), nil))

				// With no holder left, it is free after as long as a lease lasts.
				f.set(func() { tt.lose(f) })
				began := time.Now()
				for {
					y, was, err := bob.take(t.Context(), request{shard: "pool-1", what: "TestB"})
					if err == nil {
						assert.Nil(t, was.Clean, "nothing is known of it")
						require.NoError(t, y.release(t.Context(), nil))
						break
					}
					time.Sleep(time.Second)
				}
				assert.InDelta(t, 180, time.Since(began).Seconds(), 2)
			})
		})
	}
}

func TestAnEntryOfANewerFormatIsLeftAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeStore()
		f.shards["pool-1"] = Shard{Revision: "x", Values: map[string]string{entryKey: `{"poolready":2}`}}
		_, _, err := f.ledger("bob").take(t.Context(), request{shard: "pool-1", what: "TestB", fresh: true})
		require.ErrorIs(t, err, errOtherForm)
		assert.ErrorContains(t, err, "use one version of poolready")
		assert.Zero(t, f.writes["pool-1"])
	})
}

func TestFiftyHoldersDoNotHinderEachOther(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeStore()
		var all []*lease
		for n := range 50 {
			x, _ := mustTake(t, f.ledger(fmt.Sprint("process ", n)), poolShard(n+1))
			all = append(all, x)
		}
		f.set(func() { // as slow as a busy vCenter
			f.fault = func(string) (bool, error) { time.Sleep(4 * time.Second); return true, nil }
		})
		time.Sleep(time.Hour)
		for n, x := range all {
			require.NoError(t, x.check())
			assert.LessOrEqual(t, f.written(poolShard(n+1)), 61)
			require.NoError(t, x.release(t.Context(), nil))
		}
		assert.Zero(t, f.conflicts)
	})
}

func TestTicketsAreServedInOrder(t *testing.T) {
	t.Parallel()
	line := []ticket{{token: "a", Pools: []int{1, 2}}, {token: "b", Pools: []int{2}}, {token: "c", Pools: []int{1, 2, 3}}}
	for _, tt := range []struct {
		name  string
		free  []int
		token string
		want  int
	}{
		{"the first takes the first that will do", []int{2, 1}, "a", 2},
		{"the second finds what it needs taken", []int{2}, "b", 0},
		{"the second finds another taken", []int{1, 2}, "b", 2},
		{"the third waits for both", []int{1, 2}, "c", 0},
		{"the third takes what the others cannot use", []int{3}, "c", 3},
		{"who has no ticket comes last", []int{1, 2}, "", 0},
		{"and takes what is left", []int{1, 2, 3, 4}, "", 4},
		{"nothing is free", nil, "a", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			assert.Equal(t, tt.want, choose(tt.free, line, tt.token, []int{1, 2, 3, 4}))
		})
	}
}

func TestTicketsAreKeptAndRunOut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeStore()
		var places []*place
		for n := range 10 {
			l := f.ledger(fmt.Sprint("process ", n))
			p := l.place("Test", []int{1})
			b, err := l.read(t.Context())
			require.NoError(t, err)
			require.NoError(t, p.keep(t.Context(), b))
			places = append(places, p)
		}
		assert.Len(t, f.shards, 2, "eight lie in one shard")
		for range 10 {
			time.Sleep(50 * time.Second)
			for _, p := range places[1:] {
				b, err := p.l.read(t.Context())
				require.NoError(t, err)
				require.NoError(t, p.keep(t.Context(), b))
			}
		}
		b, err := places[1].l.read(t.Context())
		require.NoError(t, err)
		line := b.line()
		require.Len(t, line, 9, "one was not kept")
		for i, tk := range line {
			assert.Equal(t, fmt.Sprint("process ", i+1), tk.Owner, "in the order in which they came")
		}
		for _, p := range places {
			require.NoError(t, p.leave(t.Context()))
		}
		b, err = places[1].l.read(t.Context())
		require.NoError(t, err)
		assert.Empty(t, b.line())
	})
}
