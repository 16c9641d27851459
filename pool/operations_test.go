package pool_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/pool"
)

// factsScript tells of files, and of one thing that is there twice.
const factsScript = `cd /etc
for f in base served used left*; do [ ! -e "$f" ] || printf 'file\t/etc/%s\t%s\n' "$f" "$(cat "$f")"; done
printf 'port\t22\nport\t22\n'
`

// wired is a spec whose dis has a NIC that is unplugged when it is ready.
func (r *rig) wired(pools int) pool.Spec {
	spec := r.shared(pools, 10*time.Second)
	spec.Facts = factsScript
	vm := spec.Roles[1].VM
	spec.Roles[1].VM = func(n int) pool.VM {
		v := vm(n)
		v.NICs = append(v.NICs, pool.NIC{MAC: strings.Replace(v.NICs[0].MAC, ":01:", ":02:", 1), Unplugged: true})
		return v
	}
	return spec
}

func TestOperationsOnWhatIsNotBuiltDoNotBlockItsBuilder(t *testing.T) {
	t.Parallel()
	r := newMemory(t)
	spec := r.wired(2)
	require.ErrorContains(t, pool.Keep(t.Context(), only(spec, 2), pool.KeepOptions{}), "pool 2 of set \"lab\": it is not built yet")
	require.ErrorContains(t, pool.Reset(t.Context(), spec), "con1 is not ready: it is not built yet")
	for _, p := range r.status(spec).Pools {
		assert.Equal(t, pool.StateAbsent, p.State)
	}
	for _, call := range r.asked(0) {
		assert.NotContains(t, call, "SetLedger")
	}
	r.open(spec).Close()
}

func TestOperations(t *testing.T) {
	t.Parallel()
	r := newMemory(t)
	spec := r.wired(3)
	r.open(spec).Close()
	ctx := t.Context()
	states := func() (all []pool.State) {
		for _, p := range r.status(spec).Pools {
			all = append(all, p.State)
		}
		return all
	}
	only := func(n ...int) pool.Spec { return only(spec, n...) }
	mac := func(n int) string { return spec.Roles[1].VM(n).NICs[1].MAC }

	t.Run("verify finds nothing wrong, twice, and changes nothing", func(t *testing.T) {
		n := r.calls()
		for range 2 {
			report, err := pool.Verify(ctx, spec)
			require.NoError(t, err)
			require.NoError(t, report.Err())
			require.Len(t, report.Hosts, 6)
			assert.Len(t, report.Hosts[0].Checks, 2)
			assert.Contains(t, report.String(), "con1  2       0")
			var back pool.Report
			require.NoError(t, json.Unmarshal([]byte(report.JSON()), &back))
			assert.Equal(t, report.Hosts[0].Checks[1].Got, back.Hosts[0].Checks[1].Got)
		}
		for _, what := range r.asked(n) {
			assert.Regexp(t, "^SetLedger ", what, "leases are all that is written")
		}
		assert.Equal(t, []pool.State{"clean", "clean", "clean"}, states(), "it is still clean")
	})
	t.Run("a NIC that was plugged in by hand is found by plan, status, verify and reset", func(t *testing.T) {
		r.plug("dis2", mac(2), true)
		assert.Contains(t, r.plan(spec)["dis2"], "reset: NIC 2 ("+mac(2)+"), which was unplugged when it became ready, is connected")
		assert.Equal(t, "reuse", r.plan(spec)["dis1"])
		assert.False(t, r.status(spec).Pools[1].Ready)
		report, err := pool.Verify(ctx, spec)
		require.NoError(t, err)
		require.Len(t, report.Failed(), 1)
		assert.Equal(t, "dis2", report.Failed()[0].Host)
		assert.ErrorContains(t, report.Err(), "which was unplugged")
		st := r.status(spec).Pools[1]
		assert.Equal(t, 1, st.Failures)
		assert.Contains(t, st.LastFailure, "verify: dis2")

		set := r.open(spec)
		assert.Contains(t, r.saying(), "dis2: reset: NIC 2")
		set.Close()
		assert.Equal(t, "reuse", r.plan(spec)["dis2"])
		require.NoError(t, pool.Reset(ctx, only(2)))
		assert.Equal(t, []pool.State{"clean", "clean", "clean"}, states())
		assert.Zero(t, r.status(spec).Pools[1].Failures)
	})
	t.Run("a NIC that was pulled out by hand", func(t *testing.T) {
		r.plug("con3", spec.Roles[0].VM(3).NICs[0].MAC, false)
		assert.Contains(t, r.plan(spec)["con3"], "which was connected when it became ready, is disconnected")
		require.NoError(t, pool.Reset(ctx, only(3)))
		assert.Equal(t, "reuse", r.plan(spec)["con3"])
	})
	t.Run("verify never stops at a failure, and what failed is not lent", func(t *testing.T) {
		set := r.open(spec)
		_, err := set.Pools()[0].Host("con").Run(ctx, "rm", "/etc/base", "/etc/served")
		require.NoError(t, err)
		report, err := pool.Verify(ctx, only(1, 3))
		require.NoError(t, err)
		require.Len(t, report.Hosts, 4)
		require.Len(t, report.Failed(), 2)
		assert.Equal(t, []string{"base", "served"}, []string{report.Failed()[0].Name, report.Failed()[1].Name})
		assert.Equal(t, pool.StateDirty, states()[0])
		require.NoError(t, pool.Reset(ctx, only(1)))
		report, err = set.Verify(ctx)
		require.NoError(t, err)
		assert.NoError(t, report.Err())
		set.Close()
	})
	t.Run("a host that is off or gone fails as such", func(t *testing.T) {
		r.powerOff("dis3")
		report, err := pool.Verify(ctx, only(3))
		require.NoError(t, err)
		require.Len(t, report.Failed(), 1)
		assert.ErrorContains(t, report.Err(), "dis3: check \"ready\": power on: is off")
		require.NoError(t, pool.Reset(ctx, only(3)))
		assert.Equal(t, pool.StateClean, states()[2])
	})
	t.Run("what somebody holds is left alone, and they are named", func(t *testing.T) {
		set := r.open(spec)
		ft := testOf(t, "TestHolder")
		p := ft.acquire(set)
		require.NotNil(t, p)
		n := r.calls()
		for name, err := range map[string]error{
			"reset":   pool.Reset(ctx, spec),
			"rebuild": pool.Rebuild(ctx, only(p.Number), pool.RebuildOptions{Layer: ""}),
			"keep":    pool.Keep(ctx, only(p.Number), pool.KeepOptions{Reason: "a look", For: time.Hour}),
		} {
			busy, ok := errors.AsType[*pool.BusyError](err)
			if assert.True(t, ok, "%s: %v", name, err) && assert.NotNil(t, busy.Lease, name) {
				assert.Equal(t, p.Number, busy.Pool, name)
				assert.Equal(t, pool.StateLeased, busy.State, name)
				assert.Equal(t, "TestHolder", busy.Lease.Purpose, name)
			}
			assert.ErrorContains(t, err, "TestHolder", name)
			assert.ErrorContains(t, err, " pid ", name)
		}
		report, err := pool.Verify(ctx, only(p.Number))
		require.NoError(t, err)
		assert.NoError(t, report.Err(), "it is neither right nor wrong")
		assert.Contains(t, report.Hosts[0].Skipped, "TestHolder")
		assert.Contains(t, report.String(), "skipped: pool")
		for _, what := range r.asked(n) {
			assert.Contains(t, what, "SetLedger", "heartbeats")
		}
		assert.NoError(t, p.Verify(ctx).Err(), "its holder may look")
		ft.end()
		set.Close()
	})
	t.Run("keep and release", func(t *testing.T) {
		require.NoError(t, pool.Reset(ctx, spec))
		for _, d := range []time.Duration{time.Hour, 2 * time.Hour} {
			require.NoError(t, pool.Keep(ctx, only(2), pool.KeepOptions{Reason: "a look", For: d}))
			st := r.status(spec).Pools[1]
			assert.Equal(t, pool.StateKept, st.State)
			assert.Contains(t, st.Reason, "a look, by ")
			assert.Greater(t, time.Until(st.Until), d-10*time.Minute)
		}
		assert.ErrorContains(t, pool.Reset(ctx, spec), "nothing was touched: pool 2 is kept until")
		assert.ErrorContains(t, pool.Rebuild(ctx, spec, pool.RebuildOptions{Layer: "dis"}), "pool 2 is kept until")
		require.NoError(t, pool.Release(ctx, only(2)))
		require.NoError(t, pool.Release(ctx, only(2)), "twice")
		require.Error(t, pool.Keep(ctx, only(4), pool.KeepOptions{}))
		require.Error(t, pool.Keep(ctx, only(1), pool.KeepOptions{For: -1}))
	})
	t.Run("rebuild", func(t *testing.T) {
		made := func(f func() error) (all []string) {
			before := r.calls()
			require.NoError(t, f())
			for _, line := range r.asked(before) {
				if name, ok := strings.CutPrefix(line, "Clone "); ok {
					all = append(all, name)
				}
			}
			return all
		}
		assert.Equal(t, []string{"dis2"}, made(func() error { return pool.Rebuild(ctx, only(2), pool.RebuildOptions{Layer: "dis"}) }))
		assert.Equal(t, []string{"con1", "dis1"}, made(func() error { return pool.Rebuild(ctx, only(1), pool.RebuildOptions{Layer: "con"}) }), "dis needs con")
		assert.Equal(t, []string{"con3", "dis3"}, made(func() error { return pool.Rebuild(ctx, only(3), pool.RebuildOptions{Layer: ""}) }))
		assert.ErrorContains(t, pool.Rebuild(ctx, only(3), pool.RebuildOptions{Layer: "golden"}), "not only some")
		assert.ErrorContains(t, pool.Rebuild(ctx, spec, pool.RebuildOptions{Layer: "gold"}), `unknown layer "gold"; want one of "golden", "con", "dis"`)
		assert.Equal(t, []string{"con1", "con2", "con3", "dis1", "dis2", "dis3", "golden-g2"}, made(func() error { return pool.Rebuild(ctx, spec, pool.RebuildOptions{Layer: "golden"}) }))
		assert.NotContains(t, r.names(), "golden", "the old one went with its last clone")
		assert.Equal(t, []pool.State{"clean", "clean", "clean"}, states())
	})
}

func TestOnlySomePools(t *testing.T) {
	t.Parallel()
	r := newMemory(t)
	spec := r.wired(3)
	spec.Only = []int{1, 3}
	set := r.open(spec)
	assert.Equal(t, []string{"con1", "con3", "dis1", "dis3", "golden"}, r.names())
	assert.Len(t, set.Pools(), 2)
	ft := testOf(t, "TestOfSome")
	p := ft.acquire(set)
	require.NotNil(t, p)

	all := spec
	all.Only = nil
	st := r.status(all)
	assert.Equal(t, pool.StateLeased, st.Pools[p.Number-1].State, "pools keep their numbers, and so their leases")
	assert.False(t, st.Pools[1].Ready)
	left, err := pool.Sweep(t.Context(), func() pool.Spec { s := all; s.Only = []int{1}; return s }(), pool.SweepOptions{})
	require.NoError(t, err)
	assert.Empty(t, left, "the others are no leftovers")
	n := r.calls()
	r.open(all)
	for _, what := range r.asked(n) {
		assert.NotEqual(t, "Clone con1", what)
		assert.NotContains(t, what, "Destroy")
	}
	assert.Contains(t, r.names(), "dis2")
	ft.end()

	spec.Only = []int{0, 4}
	_, err = pool.MakePlan(t.Context(), spec)
	assert.ErrorContains(t, err, "Spec.Only[0]: is 0: the pools are 1 to 3")
	assert.ErrorContains(t, err, "Spec.Only[1]: is 4")
}

func TestWatchNamesWhatATestLeft(t *testing.T) {
	t.Parallel()
	r := newMemory(t)
	set := r.open(r.wired(1))
	use := func(script string, allow ...string) []string {
		ft := testOf(t, "TestLeaver")
		p := ft.acquire(set)
		require.NotNil(t, p)
		p.Watch(ft, allow...)
		_, err := p.Host("dis").Script(t.Context(), script)
		require.NoError(t, err)
		ft.end()
		return ft.errs
	}
	assert.Empty(t, use("true"))
	script := "cd /etc; echo mine > left; rm base; echo other > used"
	errs := use(script)
	require.Len(t, errs, 1)
	for _, want := range []string{
		"this test left 3 changes in pool 1:",
		"dis1: gone: file /etc/base base",
		"dis1: new: file /etc/left mine",
		"dis1: changed: file /etc/used: dis1 uses it -> other",
	} {
		assert.Contains(t, errs[0], want)
	}
	assert.Empty(t, use(script, "file"))
	errs = use(script, "file /etc/l*", "file /etc/used")
	require.Len(t, errs, 1)
	assert.Contains(t, errs[0], "left 1 changes")

	p := set.Acquire(t)
	golden, err := p.Host("con").FactsWhenReady(t.Context(), "golden")
	require.NoError(t, err)
	ready, err := p.Host("con").FactsWhenReady(t.Context(), "con")
	require.NoError(t, err)
	now, err := p.Host("con").Facts(t.Context())
	require.NoError(t, err)
	assert.Equal(t, ready, now)
	served := "served by con1"
	assert.Equal(t, []pool.Change{{Host: "con1", Kind: "file", Name: "/etc/served", Is: &served}}, pool.Diff("con1", golden, now))
	assert.Contains(t, now, pool.Fact{Kind: "port", Name: "22 (2)"}, "what is there twice is told twice")
	_, err = p.Host("con").FactsWhenReady(t.Context(), "dis")
	assert.ErrorContains(t, err, "when dis became ready")
}

// A node is a T with subtests that runs no testing.
type node struct {
	*fakeT
	subs *[]string
}

func (n node) Run(name string, f func(node)) bool {
	sub := node{&fakeT{T: n.T, name: n.name + "/" + name, ctx: n.ctx}, n.subs}
	f(sub)
	*n.subs = append(*n.subs, strings.TrimSpace(sub.name+" "+strings.Join(sub.errs, ";")))
	return !sub.failed
}

func (n node) Helper()                         {}
func (n node) Logf(format string, args ...any) { *n.subs = append(*n.subs, "log") }

func TestAReportIsShownAsSubtests(t *testing.T) {
	t.Parallel()
	var subs []string
	pool.Subtests(node{testOf(t, "V"), &subs}, &pool.Report{Hosts: []pool.HostStatus{
		{Host: "con1", Checks: []pool.CheckResult{{Host: "con1", Name: "a"}, {Host: "con1", Name: "b", Want: "1", Got: "2"}, {Host: "con1", Name: "c", Err: errors.New("cannot look")}}},
		{Host: "con2", Skipped: "held"},
	}})
	assert.Equal(t, []string{
		"V/con1/a", `V/con1/b con1: check "b": want "1", got "2"`, `V/con1/c con1: check "c": cannot look`, "V/con1", "log", "V/con2",
	}, subs)
}
