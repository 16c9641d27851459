package pool_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/pool"
)

// A bent is a Provider of which one thing, as long as it is bent, is not as it should be.
type bent struct {
	pool.Provider
	preflight func()

	mu     sync.Mutex // guards what follows
	on     bool
	full   bool // nothing is cloned
	cut    bool // the ledger does not answer
	clock  time.Duration
	revert func(ctx context.Context, p pool.Provider, id string) error
}

// bend changes how it is bent.
func (b *bent) bend(change func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	change()
}

func (b *bent) Ledger(ctx context.Context, set string, shards ...string) (*pool.Ledger, error) {
	l, err := b.Provider.Ledger(ctx, set, shards...)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.on && b.cut {
		return nil, errCut
	}
	if err == nil && b.on {
		l.Now = l.Now.Add(b.clock)
	}
	return l, err
}

func (b *bent) SetLedger(ctx context.Context, set, shard, revision string, values map[string]string) error {
	b.mu.Lock()
	cut := b.on && b.cut
	b.mu.Unlock()
	if cut {
		return errCut
	}
	return b.Provider.SetLedger(ctx, set, shard, revision, values)
}

func (b *bent) Revert(ctx context.Context, id, snapshot string) error {
	b.mu.Lock()
	on, revert := b.on, b.revert
	b.mu.Unlock()
	if revert != nil && on {
		return revert(ctx, b.Provider, id)
	}
	return b.Provider.Revert(ctx, id, snapshot)
}

func (b *bent) Clone(ctx context.Context, spec pool.CloneSpec) (string, error) {
	b.mu.Lock()
	full := b.on && b.full
	b.mu.Unlock()
	if full {
		return "", errFull
	}
	return b.Provider.Clone(ctx, spec)
}

var errCut = errors.New("no answer")

var errFull = errors.New("the datastore is full")

// failedRevert is the revert of a VM that has lost a disk.
func failedRevert(context.Context, pool.Provider, string) error {
	return errors.New("no file con1.vmdk")
}

func (b *bent) Preflight(ctx context.Context, clones []pool.CloneSpec) error {
	err := b.Provider.Preflight(ctx, clones)
	if b.preflight != nil {
		b.preflight()
	}
	return err
}

// A reset that only seems to have worked is found out, and the dirt is nobody's: the pool is built
// again.
func TestAPoolIsLentOnlyIfItIsProvedClean(t *testing.T) {
	t.Parallel()
	r := newMemory(t)
	spec := r.shared(1, time.Minute)
	b := &bent{Provider: spec.Provider}
	spec.Provider = b
	var broken atomic.Bool
	spec.Roles[1].AfterReset = []pool.Check{{Name: "served", Version: "1", Want: "yes", Do: func(context.Context, *pool.Host) (string, error) {
		return map[bool]string{true: "no", false: "yes"}[broken.Load()], nil
	}}}
	set := r.open(spec)
	for _, tt := range []struct {
		name, want string
		bend       func(on bool)
	}{
		{"the clock is off", "from the hypervisor's, more than Limits.ClockSkew (2s)", func(bool) { b.clock = 10 * time.Second }},
		{"the disk was not reverted", "prove clean: its disk was not reverted: it has /var/tmp/.poolready-dirty, which only a host has that a test used", func(bool) {
			b.clock, b.revert = 0, func(ctx context.Context, p pool.Provider, id string) error {
				_, err := p.ShutDown(ctx, id, 0)
				return err
			}
		}},
		{"nothing was done at all", "prove clean: it did not reboot: its boot ID is still ", func(bool) {
			b.revert = func(context.Context, pool.Provider, string) error { return nil }
		}},
		{"a check of the role fails", `check "served": want "yes", got "no"`, func(on bool) { b.revert = nil; broken.Store(on) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			first := testOf(t, "TestFirst")
			p := first.acquire(set)
			require.NotNil(t, p, "%v", first.errs)
			p.Host("con").MustRun(t, "touch", "/var/dirt")
			b.bend(func() { tt.bend(true); b.on = true })
			first.end()
			require.Eventually(t, func() bool { return strings.Contains(r.status(spec).Pools[0].LastFailure, tt.want) }, time.Minute, 50*time.Millisecond)
			b.bend(func() { tt.bend(false); b.on = false })
			second := testOf(t, "TestSecond")
			p = second.acquire(set)
			require.NotNil(t, p, "%v", second.errs)
			_, err := p.Host("con").Run(t.Context(), "test", "-e", "/var/dirt")
			require.Error(t, err)
			second.end()
			require.Eventually(t, func() bool { return r.status(spec).Pools[0].Failures == 0 }, time.Minute, 50*time.Millisecond)
		})
	}
}

func TestARevertNeitherFreesNorResurrectsALease(t *testing.T) {
	t.Parallel()
	r := newMemory(t)
	spec := r.shared(1, time.Minute)
	set := r.open(spec)
	state := func() pool.State { return r.status(spec).Pools[0].State }
	snapshot := func(name string) {
		r.snapshot("con1", name)
	}
	revert := func(name string) {
		r.revert("con1", name)
	}
	before := testOf(t, "TestBefore")
	require.NotNil(t, before.acquire(set), "%v", before.errs)
	before.end()
	require.Eventually(t, func() bool { return state() == pool.StateClean }, time.Minute, 50*time.Millisecond)
	snapshot("while it is free")
	holder := testOf(t, "TestHolder")
	require.NotNil(t, holder.acquire(set), "%v", holder.errs)
	require.Equal(t, pool.StateLeased, state())
	snapshot("while it is held")
	revert("while it is free")
	assert.Equal(t, pool.StateLeased, state(), "freed")
	holder.end()
	set.Close()
	require.NotEqual(t, pool.StateLeased, state())
	revert("while it is held")
	assert.NotEqual(t, pool.StateLeased, state(), "resurrected")
}

// Between a plan and its claim, another process builds all of it.
func TestAPlanThatWasOvertakenIsNotCarriedOut(t *testing.T) {
	t.Parallel()
	r := newMemory(t)
	late := r.shared(2, time.Minute)
	late.Provider = &bent{Provider: late.Provider, preflight: func() { r.open(r.shared(2, time.Minute)).Close() }}
	set := r.open(late)
	assert.Len(t, set.Pools(), 2)
	for _, vm := range []string{"golden", "con1", "con2", "dis1", "dis2"} {
		assert.Equal(t, 1, r.count("Clone", vm), vm)
	}
	assert.Equal(t, pool.StateClean, r.status(late).Pools[1].State)
}

func TestPoolsThatNoTestHasHeldAreSeenSweptAndDestroyed(t *testing.T) {
	t.Parallel()
	r := newMemory(t)
	two, one := r.shared(2, time.Minute), r.shared(1, time.Minute)
	set := r.open(two)
	assert.ElementsMatch(t, []string{"build", "pool-1", "pool-2"}, slices.Collect(maps.Keys(r.shards())))
	for _, p := range r.status(two).Pools {
		assert.Equal(t, pool.StateClean, p.State)
		assert.False(t, p.Cleaned.IsZero())
	}
	require.NoError(t, pool.Release(t.Context(), two), "there is nothing to free")

	ft := testOf(t, "TestFirst")
	p := ft.acquire(set)
	require.NotNil(t, p)
	assert.Equal(t, pool.StateLeased, r.status(two).Pools[0].State)
	assert.Equal(t, pool.StateClean, r.status(two).Pools[1].State)
	list, err := pool.Sweep(t.Context(), one, pool.SweepOptions{Remove: true})
	require.NoError(t, err)
	assert.Len(t, list, 2)
	assert.Equal(t, []string{"con1", "dis1", "golden"}, r.names())
	_, err = pool.Destroy(t.Context(), one)
	require.ErrorContains(t, err, "pool 1 is held by")
	ft.end()
	set.Close()
	removed, err := pool.Destroy(t.Context(), one)
	require.NoError(t, err)
	assert.ElementsMatch(t, []string{"con1", "dis1", "golden"}, removed)
	assert.False(t, r.status(two).Pools[0].Ready)
}

// The whole ledger is destroyed by hand while a pool is in use: until its holder has written its
// lease again, nobody removes what may be somebody's.
func TestALostLedgerGivesNothingAway(t *testing.T) {
	t.Parallel()
	r := newMemory(t)
	spec := r.shared(2, time.Minute)
	set := r.open(spec)
	ft := testOf(t, "TestHolder")
	p := ft.acquire(set)
	require.NotNil(t, p)
	for _, shard := range r.shards() {
		require.NoError(t, r.mem.Destroy(t.Context(), shard.ID))
	}
	_, err := pool.Destroy(t.Context(), spec)
	require.ErrorContains(t, err, "nothing was removed: the claim to build is recovering")
	require.ErrorContains(t, err, "pool 1 is recovering")
	_, err = pool.Sweep(t.Context(), r.shared(1, time.Minute), pool.SweepOptions{Remove: true})
	require.ErrorContains(t, err, "recovering")
	p.Host("con").MustRun(t, "true")
	require.NoError(t, p.Context().Err())
	assert.Equal(t, []string{"con1", "con2", "dis1", "dis2", "golden"}, r.names())
	ft.end()
	assert.Empty(t, ft.errs)
}
