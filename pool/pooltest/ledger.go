package pooltest

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/pool"
)

// books are the promises about the ledger, by which processes agree on who holds what.
var books = []Case{
	{Name: "a set without a ledger has no shards, and the clock", test: func(f *fixture) {
		l, err := f.p.Ledger(f.ctx, f.env.Set+"-nobody")
		require.NoError(f, err)
		assert.Empty(f, l.Shards)
		assert.False(f, l.Now.IsZero())
		assert.GreaterOrEqual(f, l.Slack, time.Duration(0))
	}},
	{Name: "what is written to a shard is read, to the byte", test: func(f *fixture) {
		text := "{\"a\": \"<&>'é\\u2028\", \"long\": \"" + strings.Repeat("0123456789", 390) + "\"}"
		f.write("byte", "", map[string]string{"entry": text, "ticket.a-1": "x"})
		one := f.shard("byte")
		assert.Equal(f, map[string]string{"entry": text, "ticket.a-1": "x"}, one.Values)
		f.write("byte", one.Revision, map[string]string{"ticket.a-1": "", "other": "y"})
		two := f.shard("byte")
		assert.Equal(f, map[string]string{"entry": text, "other": "y"}, two.Values, "what is not in a write stays, and what is empty goes")
		assert.NotEqual(f, one.Revision, two.Revision)
		assert.Equal(f, one.ID, two.ID)
	}},
	{Name: "only the requested shards are read, and all without a name", test: func(f *fixture) {
		for _, shard := range []string{"one", "two"} {
			f.write(shard, "", map[string]string{"entry": shard})
		}
		all, err := f.p.Ledger(f.ctx, f.books())
		require.NoError(f, err)
		assert.Contains(f, all.Shards, "one")
		assert.Contains(f, all.Shards, "two")
		some, err := f.p.Ledger(f.ctx, f.books(), "two", "three")
		require.NoError(f, err)
		assert.Len(f, some.Shards, 1)
		assert.Equal(f, "two", some.Shards["two"].Values["entry"])
	}},
	{Name: "a write to a shard that was changed is ErrChanged, and changes nothing", test: func(f *fixture) {
		f.write("late", "", map[string]string{"entry": "a"})
		old := f.shard("late")
		f.write("late", old.Revision, map[string]string{"entry": "b"})
		now := f.shard("late")
		for _, revision := range []string{old.Revision, ""} {
			err := f.p.SetLedger(f.ctx, f.books(), "late", revision, map[string]string{"entry": "c", "more": "d"})
			require.ErrorIs(f, err, pool.ErrChanged, "revision %q", revision)
		}
		assert.Equal(f, now, f.shard("late"))
	}},
	{Name: "of racing writes to a shard one is made, and the others get ErrChanged", test: func(f *fixture) {
		for _, revision := range []func() string{
			func() string { return "" },
			func() string { return f.shard("race").Revision },
		} {
			at := revision()
			const racers = 5
			errs := make([]error, racers)
			var wg sync.WaitGroup
			for i := range racers {
				wg.Go(func() {
					errs[i] = f.p.SetLedger(f.ctx, f.books(), "race", at, map[string]string{"entry": fmt.Sprint(i)})
				})
			}
			wg.Wait()
			won := -1
			for i, err := range errs {
				if err != nil {
					assert.ErrorIs(f, err, pool.ErrChanged)
					continue
				}
				assert.Negative(f, won, "both %d and %d were made", won, i)
				won = i
			}
			assert.Equal(f, fmt.Sprint(won), f.shard("race").Values["entry"])
		}
	}},
	{Name: "a ledger is none of the set's VMs", test: func(f *fixture) {
		f.write("hidden", "", map[string]string{"entry": "a"})
		id := f.shard("hidden").ID
		assert.NotEmpty(f, id)
		inv, err := f.p.Inventory(f.ctx, f.books())
		require.NoError(f, err)
		assert.NotContains(f, byID(inv), id)
	}},
}

// books is the set whose ledger is written to.
func (s *Suite) books() string { return s.env.Set + "-books" }

func (f *fixture) write(shard, revision string, values map[string]string) {
	f.Helper()
	require.NoError(f, f.p.SetLedger(f.ctx, f.books(), shard, revision, values))
}

// shard reads one with the Suite's provider.
func (f *fixture) shard(name string) pool.Shard {
	f.Helper()
	l, err := f.base.Ledger(f.ctx, f.books(), name)
	require.NoError(f, err)
	require.Contains(f, l.Shards, name)
	return l.Shards[name]
}

// burn removes what was written.
func (s *Suite) burn(ctx context.Context, t pool.T) {
	l, err := s.base.Ledger(ctx, s.books())
	if !assert.NoError(t, err, "the ledger of set %q must be removed by hand", s.books()) {
		return
	}
	for name, shard := range l.Shards {
		assert.NoError(t, s.base.Destroy(ctx, shard.ID), "shard %q of set %q must be removed by hand", name, s.books())
	}
}
