package pool_test

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/pool"
)

func (r *rig) status(spec pool.Spec) *pool.Status {
	r.t.Helper()
	st, err := pool.ReadStatus(r.t.Context(), spec)
	require.NoError(r.t, err)
	return st
}

func TestStatusSaysWhoUsesWhat(t *testing.T) {
	t.Parallel()
	r := newMemory(t)
	spec := r.shared(2, 20*time.Second)
	assert.False(t, r.status(spec).Pools[0].Ready, "before anything is there")

	set := r.open(spec)
	ft := testOf(t, "TestUser")
	p := ft.acquire(set)
	require.NotNil(t, p)
	n := r.calls()
	st := r.status(r.shared(2, 20*time.Second))
	assert.Empty(t, r.asked(n), "looking changes nothing")
	used, free := st.Pools[p.Number-1], st.Pools[2-p.Number]
	assert.Equal(t, pool.StateLeased, used.State)
	assert.Equal(t, "TestUser", used.Lease.Purpose)
	assert.Contains(t, used.Lease.Holder, " pid ")
	assert.Equal(t, pool.StateClean, free.State)
	assert.NotEmpty(t, free.Hosts[0].Fingerprint)
	assert.Contains(t, st.String(), "TestUser")
	assert.Contains(t, st.String(), pool.StateLeased)
	var back pool.Status
	require.NoError(t, json.Unmarshal([]byte(st.JSON()), &back))
	assert.Equal(t, st.Pools[0].Hosts, back.Pools[0].Hosts)
	ft.end()
	require.Eventually(t, func() bool {
		mine := r.status(spec).Pools[p.Number-1]
		return mine.State == pool.StateClean && mine.LastUser == "TestUser" && !mine.Cleaned.IsZero()
	}, 20*time.Second, 10*time.Millisecond)
}

func TestAPoolIsKeptForAPerson(t *testing.T) {
	t.Parallel()
	r := newMemory(t)
	spec := r.shared(2, 20*time.Second)
	spec.Keep = pool.KeepPolicy{When: "failed", For: time.Hour}
	set := r.open(spec)
	fail := func(name string) *pool.Pool {
		ft := testOf(t, name)
		p := ft.acquire(set)
		require.NotNil(t, p, "%v", ft.errs)
		p.Host("con").MustRun(t, "touch", "/var/evidence")
		ft.Errorf("it broke")
		ft.end()
		return p
	}
	p := fail("TestBroken")
	require.Eventually(t, func() bool { return r.status(spec).Pools[p.Number-1].State == pool.StateKept }, 20*time.Second, 50*time.Millisecond)
	assert.Contains(t, r.status(spec).Pools[p.Number-1].Reason, "TestBroken, which failed")
	look := "con" + string(rune('0'+p.Number)) + ": ssh -F "
	require.Eventually(t, func() bool { return strings.Contains(r.saying(), look) }, 20*time.Second, 10*time.Millisecond, "it says how to get in")

	q := fail("TestBrokenToo")
	assert.NotEqual(t, p.Number, q.Number)
	require.Eventually(t, func() bool { return r.status(spec).Pools[q.Number-1].State == pool.StateClean }, 20*time.Second, 50*time.Millisecond, "no more than Keep.Pools")
	set.Close()

	r.open(spec).Close()
	assert.Equal(t, pool.StateKept, r.status(spec).Pools[p.Number-1].State, "another run leaves it alone")
	require.NoError(t, pool.Release(t.Context(), only(spec, p.Number)))
	assert.Equal(t, pool.StateDirty, r.status(spec).Pools[p.Number-1].State)
	set = r.open(spec)
	for _, name := range []string{"TestA", "TestB"} {
		ft := testOf(t, name)
		p := ft.acquire(set)
		require.NotNil(t, p, "%v", ft.errs)
		defer ft.end()
		_, err := p.Host("con").Run(t.Context(), "test", "-e", "/var/evidence")
		assert.Error(t, err, "it is reset before it is lent")
	}
}

// tracked returns a spec of one pool whose tests track records, and which of those were cleaned up.
func (r *rig) tracked(limits pool.Limits) (spec func() pool.Spec, cleaned func() []string) {
	var mu sync.Mutex
	var refs []string
	spec = func() pool.Spec {
		spec := r.spec(1)
		spec.Limits = limits
		spec.Cleanups = map[string]func(context.Context, string) error{"record": func(_ context.Context, ref string) error {
			mu.Lock()
			defer mu.Unlock()
			refs = append(refs, ref)
			return nil
		}}
		return spec
	}
	return spec, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return refs
	}
}

func TestWhatATestMadeElsewhereIsCleanedUp(t *testing.T) {
	t.Parallel()
	r := newMemory(t)
	with, cleaned := r.tracked(pool.Limits{Lease: 20 * time.Second})
	set := r.open(with())
	ft := testOf(t, "TestMaker")
	p := ft.acquire(set)
	require.NotNil(t, p)
	require.ErrorContains(t, p.Track(t.Context(), "cloud", "x"), "no such kind")
	require.NoError(t, p.Track(t.Context(), "record", "a"))
	require.NoError(t, p.Track(t.Context(), "record", "b"))
	require.Len(t, r.status(with()).Pools[0].Tracked, 2)
	ft.end()
	set.Acquire(t)
	assert.Equal(t, []string{"b", "a"}, cleaned(), "newest first, before the next test")
}

func TestWhatADeadProcessMadeElsewhereIsCleanedUp(t *testing.T) {
	t.Parallel()
	r := newMemory(t)
	with, cleaned := r.tracked(pool.Limits{Lease: time.Minute, ClockSkew: -1})
	dying := with()
	off := &bent{Provider: dying.Provider}
	dying.Provider = off
	set := r.open(dying)
	ft := testOf(t, "TestDies")
	p := ft.acquire(set)
	require.NotNil(t, p)
	require.NoError(t, p.Track(t.Context(), "record", "left"))
	off.bend(func() { off.on, off.cut = true, true })
	later := with() // when the lease is over
	later.Provider = &bent{Provider: later.Provider, on: true, clock: time.Hour}
	next := r.open(later)
	ft2 := testOf(t, "TestNext")
	require.NotNil(t, ft2.acquire(next), "%v", ft2.errs)
	assert.Equal(t, []string{"left"}, cleaned())
	assert.Empty(t, r.status(with()).Pools[0].Tracked)
	ft2.end()
	ft.end()
}

func TestSweepRemovesWhatTheSpecNoLongerHas(t *testing.T) {
	t.Parallel()
	r := newMemory(t)
	r.open(r.shared(2, 20*time.Second)).Close()
	_, err := r.mem.Clone(t.Context(), pool.CloneSpec{ // as somebody does by hand
		Set: "lab", Source: "templates/rhel9", Template: true, VM: pool.VM{Name: "a-test-made-it", Folder: "pool2"},
	})
	require.NoError(t, err)
	one := r.shared(1, 20*time.Second)
	assert.Equal(t, []string{"pool2/a-test-made-it"}, r.status(one).Foreign, "it is found and reported")

	n := r.calls()
	list, err := pool.Sweep(t.Context(), one, pool.SweepOptions{})
	require.NoError(t, err)
	require.Len(t, list, 2)
	assert.Equal(t, "con2: to be removed: a con that the Spec no longer has", list[0].String())
	assert.Empty(t, r.asked(n), "listing removes nothing")

	list, err = pool.Sweep(t.Context(), one, pool.SweepOptions{Remove: true, OlderThan: time.Hour})
	require.NoError(t, err)
	for _, l := range list {
		assert.False(t, l.Gone)
		assert.Contains(t, l.Spared, "not known to be older than 1h")
	}

	two := r.open(r.shared(2, 20*time.Second))
	var fts []*fakeT
	for _, name := range []string{"TestOne", "TestTwo"} {
		ft := testOf(t, name)
		require.NotNil(t, ft.acquire(two))
		fts = append(fts, ft)
	}
	_, err = pool.Sweep(t.Context(), one, pool.SweepOptions{Remove: true})
	require.ErrorContains(t, err, "nothing was removed: pool 2 is held by")
	_, err = pool.Destroy(t.Context(), one)
	require.ErrorContains(t, err, "nothing was removed: pool 1 is held by")
	require.ErrorContains(t, err, "pool 2 is held by")
	for _, ft := range fts {
		ft.end()
	}
	two.Close()

	list, err = pool.Sweep(t.Context(), one, pool.SweepOptions{Remove: true})
	require.NoError(t, err)
	for _, l := range list {
		assert.True(t, l.Gone, "%s", l)
	}
	assert.Equal(t, []string{"a-test-made-it", "con1", "dis1", "golden"}, r.names())
	for vm, what := range r.plan(one) {
		assert.True(t, strings.HasPrefix(what, "reuse") || strings.HasPrefix(what, "power on"), "%s: %s", vm, what)
	}

	removed, err := pool.Destroy(t.Context(), one)
	require.NoError(t, err)
	assert.ElementsMatch(t, []string{"con1", "dis1", "golden"}, removed)
	assert.Equal(t, []string{"a-test-made-it"}, r.names())
	assert.Empty(t, r.shards(), "the ledger is gone, too")
	removed, err = pool.Destroy(t.Context(), one)
	require.NoError(t, err)
	assert.Empty(t, removed)
}

// What is refused since one pool is in use costs the others no reset.
func TestPoolsOfWhichNothingWasRemovedStayClean(t *testing.T) {
	t.Parallel()
	r := newMemory(t)
	three := r.shared(3, 20*time.Second)
	r.open(three).Close()
	r.open(only(three, 3)).Acquire(t)
	clean := func(when string) {
		t.Helper()
		for _, q := range r.status(three).Pools[:2] {
			assert.Equal(t, pool.StateClean, q.State, "pool %d, %s", q.Pool, when)
		}
	}
	clean("before")
	_, err := pool.Sweep(t.Context(), r.shared(1, 20*time.Second), pool.SweepOptions{Remove: true})
	require.ErrorContains(t, err, "nothing was removed: pool 3 is held by")
	clean("after a sweep that leased pool 2 first")
	_, err = pool.Destroy(t.Context(), three)
	require.ErrorContains(t, err, "nothing was removed: pool 3 is held by")
	clean("after a destroy")
}

// What no other process has is not said to be held.
func TestASweepThatCannotWriteTheLedgerSaysWhy(t *testing.T) {
	t.Parallel()
	r := newMemory(t)
	spec := r.shared(1, 20*time.Second)
	r.open(spec).Close()
	spec.Provider = &watched{Provider: spec.Provider, refuse: "sweep"}
	_, err := pool.Sweep(t.Context(), spec, pool.SweepOptions{Remove: true})
	require.ErrorContains(t, err, "nothing was removed: lease the claim to build: no space left")
}
