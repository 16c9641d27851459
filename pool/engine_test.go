package pool_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/pool"
)

var seven = []string{"con1", "con2", "con3", "dis1", "dis2", "dis3", "golden"}

func TestOpenBuildsRoleByRole(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	set := r.open(r.spec(3))

	require.Len(t, set.Pools(), 3)
	for n, p := range set.Pools() {
		assert.Equal(t, n+1, p.Number)
		assert.Equal(t, fmt.Sprintf("served by con%d", n+1), p.Host("con").MustRun(t, "cat", "/etc/served"))
		assert.Equal(t, fmt.Sprintf("dis%d uses it", n+1), p.Host("dis").MustRun(t, "cat", "/etc/used"))
	}
	assert.Equal(t, seven, r.names())

	h := r.history()
	last := func(kind, role string) int {
		at := -1
		for i, e := range h {
			if strings.HasPrefix(e, kind+" "+role) {
				at = i
			}
		}
		require.GreaterOrEqual(t, at, 0, "no %q of %q in %q", kind, role, h)
		return at
	}
	first := func(kind, role string) int {
		at := slices.IndexFunc(h, func(e string) bool { return strings.HasPrefix(e, kind+" "+role) })
		require.GreaterOrEqual(t, at, 0, "no %q of %q in %q", kind, role, h)
		return at
	}
	assert.Less(t, first("VirtualMachine.createSnapshot", "golden"), first("VmCloned", "con"), "golden is ready before it is cloned")
	assert.Less(t, last("VmCloned", "con"), first("VmCloned", "dis"), "every con is cloned before the first dis")
	assert.Less(t, last("VmCloned", "dis"), first("VmStarting", "con"), "all clones are there before the first is configured")
	assert.Less(t, last("VirtualMachine.createSnapshot", "con"), first("VmStarting", "dis"), "no dis is configured before the last con is pool-ready")
	assert.Less(t, last("VmPoweredOn", "con"), first("VmStarting", "dis"), "nor before it runs again")
	for _, name := range seven {
		assert.Less(t, last("VmGuestShutdown", name), last("VirtualMachine.createSnapshot", name), "%s is shut down from inside before its snapshot", name)
	}
	for _, name := range seven {
		var clones int
		for _, e := range h {
			if e == "VmCloned "+name {
				clones++
			}
		}
		assert.Equal(t, 1, clones, "clones of %s", name)
	}
}

func TestOpenReusesWhatIsReady(t *testing.T) {
	t.Parallel()
	r := newMemory(t)
	r.open(r.spec(3)).Close()

	n := r.calls()
	set := r.open(r.spec(3))
	assert.Empty(t, r.asked(n), "reuse changes nothing")
	for _, vm := range seven {
		assert.Equal(t, "reuse", r.plan(r.spec(3))[vm])
	}
	for _, h := range set.Status() {
		assert.True(t, h.Ready)
	}
}

func TestChangedStepOfDisRebuildsDisOnly(t *testing.T) {
	t.Parallel()
	r := newMemory(t)
	r.open(r.spec(2)).Close()
	n := r.calls()
	spec := r.spec(2)
	spec.Roles[1].Steps = append(spec.Roles[1].Steps, pool.Script("more", "echo more > /etc/more"))
	assert.Equal(t, map[string]string{
		"golden": "reuse", "con1": "reuse", "con2": "reuse",
		"dis1": `rebuild: step "more" is new`, "dis2": `rebuild: step "more" is new`,
	}, r.plan(spec))
	set := r.open(spec)
	assert.Equal(t, "more", set.Pools()[1].Host("dis").MustRun(t, "cat", "/etc/more"))
	for _, asked := range r.asked(n) {
		assert.NotContains(t, asked, " con", "con is left alone")
		if strings.Contains(asked, "golden") {
			assert.Equal(t, "Clone golden", asked, "golden is only cloned from")
		}
	}
}

func TestChangedStepOfGoldenIsANewGeneration(t *testing.T) {
	t.Parallel()
	r := newMemory(t)
	r.open(r.spec(2)).Close()
	spec := r.spec(2)
	spec.Golden.Steps[0] = pool.Script("base", "echo base > /etc/base # new")
	plan := r.plan(spec)
	assert.Equal(t, `rebuild: step "base" changed`, plan["golden-g2"])
	assert.Contains(t, plan["golden"], "remove")
	r.open(spec).Close()
	assert.Equal(t, []string{"con1", "con2", "dis1", "dis2", "golden-g2"}, r.names())
	h := r.done()
	gone := slices.Index(h, "Destroy golden")
	for _, vm := range []string{"con1", "con2", "dis1", "dis2"} {
		assert.Less(t, slices.Index(h, "Destroy "+vm), gone, "the old golden goes after its last clone")
	}
	for vm, got := range r.plan(spec) {
		assert.Equal(t, "reuse", got, vm)
	}
}

func TestOldGoldenStaysWhileSomebodysCloneHangsOnIt(t *testing.T) {
	t.Parallel()
	r := newMemory(t)
	r.open(r.spec(1)).Close()
	// A colleague's linked clone, outside of the set.
	golden := r.info("golden")
	id, err := r.mem.Clone(t.Context(), pool.CloneSpec{
		Set: "elsewhere", Source: golden.ID, Snapshot: golden.Snapshots[0].ID, VM: pool.VM{Name: "colleagues"},
	})
	require.NoError(t, err)
	spec := r.spec(1)
	spec.Golden.Steps[0] = pool.Script("base", "echo base > /etc/base # new")
	r.open(spec).Close()
	assert.Contains(t, r.names(), "golden")
	assert.Contains(t, strings.Join(r.said, "\n"), "disks of other VMs depend on its disks: /elsewhere/colleagues")

	require.NoError(t, r.mem.Destroy(t.Context(), id))
	r.open(spec).Close()
	assert.NotContains(t, r.names(), "golden")
}

func TestOneBadHostSpoilsItsOwnPoolOnly(t *testing.T) {
	t.Parallel()
	r := newMemory(t)
	bad := func() pool.Spec {
		spec := r.spec(3)
		vm := spec.Roles[0].VM
		spec.Roles[0].VM = func(n int) pool.VM {
			v := vm(n)
			if v.Env["WANT"] = "fine"; n == 2 {
				v.Env["WANT"] = "better"
			}
			return v
		}
		spec.Roles[0].Checks = append(spec.Roles[0].Checks, pool.ScriptCheck("health", "${WANT}", "echo a warning >&2; echo fine"), pool.ScriptCheck("loud", "", `test "$WANT" = fine || { echo this is broken >&2; exit 7; }`))
		return spec
	}
	_, err := pool.Open(t.Context(), bad())
	var notReady *pool.NotReadyError
	require.ErrorAs(t, err, &notReady)
	assert.Equal(t, 2, notReady.Ready)
	require.Len(t, notReady.Failed, 1)
	var host *pool.HostError
	require.ErrorAs(t, err, &host)
	assert.Equal(t, "con2", host.Host)
	assert.Equal(t, 2, host.Pool)
	assert.Equal(t, "ready con", host.Stage)
	var checks *pool.CheckError
	require.ErrorAs(t, err, &checks)
	assert.Len(t, checks.Failed, 2, "all checks are run and reported")
	for _, part := range []string{
		`pool: set "lab": 2 of the 3 pools wanted are ready`, "con2: ready con: 2 of 4 checks failed",
		`check "health": want "better", got "fine"`, `check "loud": `, "this is broken", "look: ssh -F ",
	} {
		assert.Contains(t, err.Error(), part)
	}
	plan := r.plan(bad())
	assert.Equal(t, map[string]string{
		"golden": "reuse", "con1": "reuse", "con3": "reuse", "dis1": "reuse", "dis3": "reuse",
		"con2": `rebuild: has no snapshot "pool-ready"`, "dis2": `rebuild: has no snapshot "pool-ready"`,
	}, plan, "the other pools are ready")

	spec := bad()
	spec.MinPools = 2
	set := r.open(spec)
	assert.Len(t, set.Pools(), 2)
	assert.Contains(t, set.Table(), "not ready: ")
}

func TestOpenCanBeInterruptedAndGoesOn(t *testing.T) {
	t.Parallel()
	r := newMemory(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	spec := r.spec(2)
	spec.Roles[0].Steps = append([]pool.Step{{Name: "stop", Version: "1", Do: func(context.Context, *pool.Host) error {
		cancel(fmt.Errorf("interrupt"))
		return nil
	}}}, spec.Roles[0].Steps...)
	_, err := pool.Open(ctx, spec)
	require.ErrorContains(t, err, `set "lab": interrupted: interrupt`)
	set := r.open(r.spec(2))
	assert.Len(t, set.Pools(), 2)
	assert.Equal(t, []string{"con1", "con2", "dis1", "dis2", "golden"}, r.names(), "nothing is left over")
}

func TestAcquireLendsPoolsAsTheyWereWhenReady(t *testing.T) {
	t.Parallel()
	r := newMemory(t)
	set := r.open(r.spec(1))
	for _, name := range []string{"first", "second"} {
		t.Run(name, func(t *testing.T) {
			p := set.Acquire(t)
			for _, h := range p.Hosts() {
				_, err := h.Run(t.Context(), "test", "-e", "/var/dirt")
				assert.Error(t, err, "%s is clean", h.Name)
				h.MustRun(t, "touch", "/var/dirt")
			}
		})
	}
	set.Close()

	again := r.open(r.spec(1))
	p := again.Acquire(t)
	_, err := p.Host("con").Run(t.Context(), "test", "-e", "/var/dirt")
	assert.Error(t, err, "what an earlier process used is reset before it is lent")
}

func TestReusedHostThatDoesNotAnswerIsReset(t *testing.T) {
	t.Parallel()
	r := newMemory(t)
	set := r.open(r.spec(2))
	// con2 loses its key: it is on, and lets nobody in.
	set.Pools()[1].Host("con").MustRun(t, "rm", "-rf", "/root/.ssh")
	set.Close()
	n := r.calls()
	set = r.open(r.spec(2))
	assert.Len(t, set.Pools(), 2)
	var reverted int
	for _, asked := range r.asked(n) {
		assert.NotContains(t, asked, "con1")
		assert.NotContains(t, asked, "dis1")
		if strings.HasPrefix(asked, "Revert") {
			reverted++
		}
	}
	assert.Equal(t, 2, reverted, "con2, and with it dis2: a pool is reset as a whole")
}

func TestNeedsAreAwaitedBeforeTheFirstStep(t *testing.T) {
	t.Parallel()
	r := newMemory(t)
	var mu sync.Mutex
	tries, early := map[int]int{}, 0
	spec := r.spec(2)
	spec.Roles[1].Needs[0].Timeout = 3 * time.Second
	spec.Roles[1].Needs[0].Do = func(_ context.Context, h, of *pool.Host) error {
		mu.Lock()
		defer mu.Unlock()
		tries[h.Pool]++
		if h.Pool == 2 || tries[h.Pool] < 3 {
			return fmt.Errorf("%s does not serve", of.Name)
		}
		return nil
	}
	spec.Roles[1].Steps = append([]pool.Step{{Name: "first", Version: "1", Do: func(_ context.Context, h *pool.Host) error {
		mu.Lock()
		defer mu.Unlock()
		if tries[h.Pool] < 3 {
			early++
		}
		return nil
	}}}, spec.Roles[1].Steps...)
	_, err := pool.Open(t.Context(), spec)
	require.ErrorContains(t, err, `dis2: ready dis: need "service" of con2: no answer within its timeout (3s): last answer: con2 does not serve`)
	assert.NotContains(t, err.Error(), "dis1")
	assert.Equal(t, 3, tries[1])
	assert.Zero(t, early)
}
