package pool

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/pool/internal/lease"
	"github.com/poolready/poolready/pool/internal/wait"
)

// A fakeLedger is a LedgerStore in memory that answers as slowly and loses as much as it is told to.
type fakeLedger struct {
	mu     sync.Mutex
	shards map[string]Shard
	writes map[string]int
	n      int
	read   int // bytes of values

	// fault is asked about every write: whether it is done, and what is answered.
	fault func(shard string) (done bool, err error)
	down  bool // while true, it answers nothing but errors
}

func newFakeLedger() *fakeLedger {
	return &fakeLedger{shards: map[string]Shard{}, writes: map[string]int{}}
}

func (f *fakeLedger) Ledger(ctx context.Context, _ string, shards ...string) (*Ledger, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down {
		return nil, errors.New("no answer")
	}
	l := &Ledger{Now: time.Now(), Shards: map[string]Shard{}}
	for name, s := range f.shards {
		if len(shards) == 0 || slices.Contains(shards, name) {
			s.Values = maps.Clone(s.Values)
			l.Shards[name] = s
			for k, v := range s.Values {
				f.read += len(k) + len(v)
			}
		}
	}
	return l, nil
}

func (f *fakeLedger) AwaitLedger(ctx context.Context, _ string, revisions map[string]string) error {
	for {
		f.mu.Lock()
		for name, revision := range revisions {
			if f.shards[name].Revision != revision {
				f.mu.Unlock()
				return nil
			}
		}
		f.mu.Unlock()
		if err := wait.Sleep(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
}

func (f *fakeLedger) SetLedger(ctx context.Context, _, shard, revision string, values map[string]string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	f.mu.Lock()
	fault, down := f.fault, f.down
	f.mu.Unlock()
	done, answer := true, error(nil)
	if fault != nil {
		done, answer = fault(shard)
	}
	if down {
		return errors.New("no answer")
	}
	if !done {
		return answer
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	old := f.shards[shard]
	if old.Revision != revision {
		return ErrChanged
	}
	s := Shard{ID: shard, Values: maps.Clone(old.Values)}
	if s.Values == nil {
		s.Values = map[string]string{}
	}
	for k, v := range values {
		if s.Values[k] = v; v == "" {
			delete(s.Values, k)
		}
	}
	f.n++
	s.Revision = fmt.Sprint(f.n)
	f.shards[shard] = s
	f.writes[shard]++
	return answer
}

func (f *fakeLedger) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

// process is the ledger as another process keeps it.
func (f *fakeLedger) process(who string) *lease.Ledger {
	return lease.New(ledgerStore{f, "lab"}, 3*time.Minute, who)
}

func (f *fakeLedger) entry(t *testing.T, pool int) lease.Entry {
	t.Helper()
	s, err := f.process("reader").Read(context.WithoutCancel(t.Context()))
	require.NoError(t, err)
	e, err := s.Pool(pool)
	require.NoError(t, err)
	return e
}

// acquire leases a pool to another process.
func (f *fakeLedger) acquire(t *testing.T, who string, pool int) *lease.Held {
	t.Helper()
	x, _, err := f.process(who).Operate(t.Context(), lease.Request{Pool: pool, Purpose: "TestA"})
	require.NoError(t, err)
	return x
}

// built makes the shards of pools that are clean, of the builds that ready has.
func (f *fakeLedger) built(t *testing.T, pools int) {
	t.Helper()
	var all []int
	for n := range pools {
		all = append(all, n+1)
	}
	x, _, err := f.process("builder").TakeClaim(t.Context(), lease.ClaimRequest{
		Purpose: "building", Fresh: true, Covers: func(*lease.Snapshot) []int { return all },
	})
	require.NoError(t, err)
	for _, n := range all {
		build := hash(fmt.Sprint("build of con", n), fmt.Sprint("build of dis", n))
		require.NoError(t, x.Make(t.Context(), n, nil, lease.Built(build, &lease.Proof{At: time.Now()}, nil)))
	}
	require.NoError(t, x.ReleaseClaim(t.Context(), nil, all, nil))
}

// breakPool makes a pool one that must be rebuilt.
func (f *fakeLedger) breakPool(t *testing.T, pool int) {
	t.Helper()
	require.NoError(t, f.acquire(t, "alice", pool).Release(t.Context(), lease.ResetFailed(errors.New("no disk"), true)))
}

// planOf is the plan of a Spec for an inventory, in a set whose pools are all clean.
func planOf(t *testing.T, s Spec, inv *Inventory) (*Plan, error) {
	t.Helper()
	f := newFakeLedger()
	f.built(t, max(s.Pools, 1))
	if all, ok := accounts.Load(inv); ok {
		for n, values := range all.(map[int]map[string]string) {
			shard := "build"
			if n > 0 {
				shard = fmt.Sprint("pool-", n)
			}
			if s, ok := f.shards[shard]; ok {
				maps.Copy(s.Values, values)
			}
		}
	}
	snapshot, err := f.process("reader").Read(t.Context())
	require.NoError(t, err)
	o := &observation{ledger: snapshot, inv: inv, at: now}
	return o.plan(s.withDefaults(), nil)
}
