package pool_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/fault"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/poolready/poolready/pool"
)

// A bent is a Provider of which one thing, as long as it is bent, is not as it should be.
type bent struct {
	pool.Provider
	preflight func()

	mu     sync.Mutex // guards what follows
	on     bool
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
	if err == nil && b.on {
		l.Now = l.Now.Add(b.clock)
	}
	return l, err
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

func (b *bent) Preflight(ctx context.Context, clones []pool.CloneSpec) error {
	err := b.Provider.Preflight(ctx, clones)
	if b.preflight != nil {
		b.preflight()
	}
	return err
}

// A reset that only seems to have worked is found out, and the dirt is nobody's: the pool is built
// anew.
func TestAPoolIsLentOnlyIfItIsProvedClean(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
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
		{"the disk was not reverted", "prove clean: its disk was not reverted: /var/tmp/.poolready-lent, which only a lent host has, is there", func(bool) {
			b.clock, b.revert = 0, func(ctx context.Context, p pool.Provider, id string) error {
				_, err := p.ShutDown(ctx, id, 0)
				return err
			}
		}},
		{"nothing was done at all", "prove clean: it was not rebooted: its boot id is still ", func(bool) {
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

// onVM is a ledger as it must not be: what is to be known of pool 1 is in the ExtraConfig of its VM
// con1.
type onVM struct {
	pool.Provider
	vm *object.VirtualMachine
}

const onVMKey = "poolready.lease."

func (o *onVM) read(ctx context.Context) (vm mo.VirtualMachine, err error) {
	return vm, o.vm.Properties(ctx, o.vm.Reference(), []string{"config"}, &vm)
}

func (o *onVM) Ledger(ctx context.Context, set string, shards ...string) (*pool.Ledger, error) {
	l, err := o.Provider.Ledger(ctx, set, shards...)
	if err != nil || o.vm == nil || len(shards) > 0 && !slices.Contains(shards, "pool-1") {
		return l, err
	}
	vm, err := o.read(ctx)
	if err != nil {
		return nil, err
	}
	s := pool.Shard{ID: vm.Self.Value, Revision: vm.Config.ChangeVersion, Values: map[string]string{}}
	for _, x := range vm.Config.ExtraConfig {
		if key, ours := strings.CutPrefix(x.GetOptionValue().Key, onVMKey); ours {
			s.Values[key] = x.GetOptionValue().Value.(string)
		}
	}
	if len(s.Values) > 0 {
		l.Shards["pool-1"] = s
	}
	return l, nil
}

func (o *onVM) SetLedger(ctx context.Context, set, shard, revision string, values map[string]string) error {
	if o.vm == nil || shard != "pool-1" {
		return o.Provider.SetLedger(ctx, set, shard, revision, values)
	}
	spec := types.VirtualMachineConfigSpec{ChangeVersion: revision}
	for k, v := range values {
		spec.ExtraConfig = append(spec.ExtraConfig, &types.OptionValue{Key: onVMKey + k, Value: v})
	}
	task, err := o.vm.Reconfigure(ctx, spec)
	if err == nil {
		err = task.Wait(ctx)
	}
	if fault.Is(err, &types.ConcurrentAccess{}) {
		return errors.Join(pool.ErrChanged, err)
	}
	return err
}

// reverted says what a revert of a pool's VM, by whoever's hand, does to the lease on the pool.
func reverted(t *testing.T, r *rig, spec pool.Spec) (freed, resurrected bool) {
	t.Helper()
	set := r.open(spec)
	if o, ok := spec.Provider.(*onVM); ok {
		o.vm = r.vm("con1")
	}
	state := func() string { return r.status(spec).Pools[0].State }
	snapshot := func(name string) {
		r.byHand(func(ctx context.Context) (*object.Task, error) {
			return r.vm("con1").CreateSnapshot(ctx, name, "", false, false)
		})
	}
	revert := func(name string) {
		r.byHand(func(ctx context.Context) (*object.Task, error) {
			return r.vm("con1").RevertToSnapshot(ctx, name, false)
		})
	}
	before := testOf(t, "TestBefore")
	require.NotNil(t, before.acquire(set), "%v", before.errs)
	before.end()
	require.Eventually(t, func() bool { return state() == "clean" }, time.Minute, 50*time.Millisecond)
	snapshot("while it is free")
	holder := testOf(t, "TestHolder")
	require.NotNil(t, holder.acquire(set), "%v", holder.errs)
	require.Equal(t, "in use", state())
	snapshot("while it is held")
	revert("while it is free")
	freed = state() != "in use"
	holder.end()
	set.Close()
	require.NotEqual(t, "in use", state())
	revert("while it is held")
	return freed, state() == "in use"
}

func TestARevertNeitherFreesNorResurrectsALease(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	freed, resurrected := reverted(t, r, r.shared(1, time.Minute))
	assert.False(t, freed)
	assert.False(t, resurrected)
}

// The same, broken on purpose: with leases on the VMs themselves it does both.
func TestARevertWouldDoSoToALeaseOnTheVM(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	spec := r.shared(1, time.Minute)
	spec.Provider = &onVM{Provider: spec.Provider}
	freed, resurrected := reverted(t, r, spec)
	assert.True(t, freed)
	assert.True(t, resurrected)
}

// Between a plan and its claim, another process builds all of it.
func TestAPlanThatWasOvertakenIsNotCarriedOut(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	late := r.shared(2, time.Minute)
	late.Provider = &bent{Provider: late.Provider, preflight: func() { r.open(r.shared(2, time.Minute)).Close() }}
	set := r.open(late)
	assert.Len(t, set.Pools(), 2)
	for _, vm := range []string{"golden", "con1", "con2", "dis1", "dis2"} {
		assert.Equal(t, 1, r.count("VmCloned", vm), vm)
	}
	assert.Equal(t, "clean", r.status(late).Pools[1].State)
}

func (r *rig) shards() (all []string) {
	for _, e := range r.history() {
		if shard, ok := strings.CutPrefix(e, "VmCreated lab-ledger-"); ok {
			all = append(all, shard)
		}
	}
	return all
}

// Pools that nobody has held yet are in the ledger without a VM of their own; all that looks at
// pools, or removes them, knows them.
func TestNewbornPoolsAreSeenSweptAndDestroyed(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	two, one := r.shared(2, time.Minute), r.shared(1, time.Minute)
	set := r.open(two)
	assert.Equal(t, []string{"build"}, r.shards())
	for _, p := range r.status(two).Pools {
		assert.Equal(t, "clean", p.State)
		assert.False(t, p.Cleaned.IsZero())
	}
	require.NoError(t, pool.Release(t.Context(), two, 2), "there is nothing to free")

	ft := testOf(t, "TestFirst")
	p := ft.acquire(set)
	require.NotNil(t, p)
	assert.Equal(t, []string{"build", "pool-1"}, r.shards())
	assert.Equal(t, "in use", r.status(two).Pools[0].State)
	assert.Equal(t, "clean", r.status(two).Pools[1].State)
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
	assert.Equal(t, "not ready", r.status(two).Pools[0].State)
}

// The whole ledger is destroyed by hand while a pool is in use: until its holder has written its
// lease anew, nobody removes what may be somebody's.
func TestALostLedgerGivesNothingAway(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	spec := r.shared(2, time.Minute)
	set := r.open(spec)
	ft := testOf(t, "TestHolder")
	p := ft.acquire(set)
	require.NotNil(t, p)
	for _, shard := range r.shards() {
		r.Vanish("lab-ledger-" + shard)
	}
	_, err := pool.Destroy(t.Context(), spec)
	require.ErrorContains(t, err, "nothing was removed: building it is being recovered")
	require.ErrorContains(t, err, "pool 1 is being recovered")
	_, err = pool.Sweep(t.Context(), r.shared(1, time.Minute), pool.SweepOptions{Remove: true})
	require.ErrorContains(t, err, "being recovered")
	p.Host("con").MustRun(t, "true")
	require.NoError(t, p.Context().Err())
	assert.Equal(t, []string{"con1", "con2", "dis1", "dis2", "golden"}, r.names())
	ft.end()
	assert.Empty(t, ft.errs)
}
