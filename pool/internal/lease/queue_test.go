package lease

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestTicketsAreServedInOrder(t *testing.T) {
	t.Parallel()
	queue := []Ticket{{token: "a", Pools: []int{1, 2}}, {token: "b", Pools: []int{2}}, {token: "c", Pools: []int{1, 2, 3}}}
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
		{"without a ticket one comes last", []int{1, 2}, "", 0},
		{"and takes what is left", []int{1, 2, 3, 4}, "", 4},
		{"nothing is free", nil, "a", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			assert.Equal(t, tt.want, choose(tt.free, queue, tt.token, []int{1, 2, 3, 4}))
		})
	}
}

func TestTicketsAreKeptAndExpire(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeStore()
		var waiters []*Waiter
		for n := range 10 {
			w := f.process(fmt.Sprint("process ", n)).Wait("Test", []int{1})
			require.NoError(t, w.Keep(t.Context(), f.read(t), []int{1}))
			waiters = append(waiters, w)
		}
		assert.Len(t, f.shards, 2, "eight lie in one shard")
		for range 10 {
			time.Sleep(50 * time.Second)
			for _, w := range waiters[1:] {
				require.NoError(t, w.Keep(t.Context(), f.read(t), []int{1}))
			}
		}
		queue := f.read(t).Queue()
		require.Len(t, queue, 9, "one was not kept")
		for i, tk := range queue {
			assert.Equal(t, fmt.Sprint("process ", i+1), tk.Holder, "in the order in which they came")
		}
		for _, w := range waiters {
			w.Leave(t.Context())
		}
		assert.Empty(t, f.read(t).Queue())
	})
}

func TestATicketNamesThePoolsThatStillWillDo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeStore()
		w := f.process("alice").Wait("TestA", []int{1, 2})
		require.NoError(t, w.Keep(t.Context(), nil, []int{1, 2}))
		require.NoError(t, w.Keep(t.Context(), nil, []int{1, 2}))
		assert.Equal(t, 1, f.written("queue-1"))
		require.NoError(t, w.Keep(t.Context(), nil, []int{2}))
		queue := f.read(t).Queue()
		require.Len(t, queue, 1)
		assert.Equal(t, []int{2}, queue[0].Pools)
		assert.Equal(t, 1, choose([]int{1}, queue, "bob", []int{1, 2}), "alice no longer waits for it")
		w.Leave(t.Context())
	})
}

func TestTicketsOfProcessesThatHaveEndedAreSkipped(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeStore()
		require.NoError(t, f.process("alice").Wait("TestA", []int{1}).Keep(t.Context(), nil, []int{1}))
		bob := f.process("bob")
		bob.ended = func(*Process) bool { return true }
		s, err := bob.Read(t.Context())
		require.NoError(t, err)
		assert.Empty(t, s.Queue())
	})
}

func TestHoldersWriteThreeTimesATerm(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeStore()
		f.make(t, in(Dirty), 60)
		claim := mustClaim(t, f.process("builder"), 1, 2, 3)
		x, _ := mustAcquire(t, f.process("alice"), 60)
		w := f.process("carol").Wait("TestC", []int{60})
		for range 3600 {
			require.NoError(t, w.Keep(t.Context(), nil, []int{60}))
			time.Sleep(time.Second)
		}
		for _, shard := range []string{claimShard, "pool-60", "queue-1"} {
			assert.InDelta(t, 60, f.written(shard), 2, "%s: one write a minute, for a lease of three", shard)
		}
		for shard := range f.writes {
			assert.False(t, strings.HasPrefix(shard, poolPrefix) && shard != "pool-60", "a pool that is built costs no writes: %s", shard)
		}
		mustRelease(t, x)
		w.Leave(t.Context())
		require.NoError(t, claim.ReleaseClaim(t.Context(), nil, nil, nil))
	})
}

// However many end at once, no more are kept than may be.
func TestNoMoreAreKeptThanMayBe(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeStore()
		f.make(t, in(Dirty), 1, 2, 3, 4, 5, 6, 7, 8)
		var faults atomic.Int32
		f.fault = func(shard string) (bool, error) {
			if shard == keptShard && faults.Add(1) <= 3 {
				return faults.Load()%2 == 1, errors.New("no answer")
			}
			return true, nil
		}
		l := f.process("process")
		var wg sync.WaitGroup
		for n := 1; n <= 8; n++ {
			wg.Go(func() {
				x, _ := mustAcquire(t, l, n)
				may, kept, now, err := x.MayKeep(t.Context(), 2)
				assert.NoError(t, err)
				time.Sleep(time.Duration(n) * time.Minute) // it takes its time to write so down
				if may {
					assert.NoError(t, x.Release(t.Context(), Keep("failed", now.Add(4*time.Hour), "")))
					return
				}
				assert.Equal(t, 2, kept)
				mustRelease(t, x)
			})
		}
		wg.Wait()
		kept := 0
		for n := 1; n <= 8; n++ {
			if f.entry(t, n).Stored == Kept {
				kept++
			}
		}
		assert.Equal(t, 2, kept)

		// What is no longer kept makes room.
		time.Sleep(5 * time.Hour)
		x, _ := mustAcquire(t, l, 1)
		may, _, _, err := x.MayKeep(t.Context(), 2)
		require.NoError(t, err)
		assert.True(t, may)
		mustRelease(t, x)
	})
}

func TestAKeptPoolIsKeptForLonger(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeStore()
		f.make(t, in(Dirty), 1)
		l := f.process("alice")
		require.ErrorAs(t, l.Prolong(t.Context(), 1, "to look", time.Hour), new(*BusyError))
		x, _ := mustAcquire(t, l, 1)
		require.NoError(t, x.Release(t.Context(), Keep("to look", f.read(t).Now.Add(time.Hour), "TestA")))
		require.NoError(t, l.Prolong(t.Context(), 1, "to look longer", 5*time.Hour))
		time.Sleep(2 * time.Hour)
		_, _, err := l.test(t, 1)
		busy, ok := errors.AsType[*BusyError](err)
		require.True(t, ok)
		assert.Equal(t, Kept, busy.State)
		assert.True(t, busy.State.Excluded())
		gone, err := l.Free(t.Context(), 1)
		require.NoError(t, err)
		assert.Nil(t, gone)
		y, was := mustAcquire(t, l, 1)
		assert.Equal(t, "TestA", was.LastUser)
		_, err = l.Free(t.Context(), 1)
		require.ErrorAs(t, err, new(*BusyError), "a pool that somebody holds is not taken away")
		mustRelease(t, y)
	})
}
