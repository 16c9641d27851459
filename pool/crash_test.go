package pool_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/pool"
)

// crashEnv, if set, has TestAKilledProcessIsReplaced kill at every moment; without, at some.
const crashEnv = "POOLREADY_CRASH"

func init() { pool.AddChild("crash", func(*testing.M) { crashChild() }) }

// A mortal is a Provider whose process is killed at one moment: right before or after a call of it.
type mortal struct {
	pool.Provider
	left int // moments until then
}

func (m *mortal) live() {
	if m.left--; m.left == 0 {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
}

func (m *mortal) Inventory(ctx context.Context, set string, templates ...string) (*pool.Inventory, error) {
	m.live()
	defer m.live()
	return m.Provider.Inventory(ctx, set, templates...)
}

func (m *mortal) Ledger(ctx context.Context, set string, shards ...string) (*pool.Ledger, error) {
	m.live()
	return m.Provider.Ledger(ctx, set, shards...)
}

func (m *mortal) SetLedger(ctx context.Context, set, shard, revision string, values map[string]string) error {
	m.live()
	defer m.live()
	return m.Provider.SetLedger(ctx, set, shard, revision, values)
}

func (m *mortal) Clone(ctx context.Context, spec pool.CloneSpec) (string, error) {
	m.live()
	defer m.live()
	return m.Provider.Clone(ctx, spec)
}

func (m *mortal) PowerOn(ctx context.Context, id string) error {
	m.live()
	defer m.live()
	return m.Provider.PowerOn(ctx, id)
}

func (m *mortal) Address(ctx context.Context, id, mac string, except netip.Addr, subnets ...netip.Prefix) (netip.Addr, error) {
	defer m.live()
	return m.Provider.Address(ctx, id, mac, except, subnets...)
}

func (m *mortal) ShutDown(ctx context.Context, id string, grace time.Duration) (bool, error) {
	m.live()
	defer m.live()
	return m.Provider.ShutDown(ctx, id, grace)
}

func (m *mortal) Snapshot(ctx context.Context, id, name, record string) (string, error) {
	m.live()
	defer m.live()
	return m.Provider.Snapshot(ctx, id, name, record)
}

func (m *mortal) Revert(ctx context.Context, id, snapshot string) error {
	m.live()
	defer m.live()
	return m.Provider.Revert(ctx, id, snapshot)
}

func (m *mortal) Destroy(ctx context.Context, id string) error {
	m.live()
	defer m.live()
	return m.Provider.Destroy(ctx, id)
}

// crashSpec is a set of one pool, made one after the other so that moments are always the same.
func crashSpec(spec pool.Spec, set string) pool.Spec {
	spec.Name, spec.Pools = set, 1
	spec.Limits.Clones, spec.Limits.Hosts = 1, 1
	for i, r := range spec.Roles {
		vm := r.VM
		spec.Roles[i].VM = func(n int) pool.VM {
			v := vm(n)
			v.NICs[0].MAC = "" // sets have VMs of the same names
			return v
		}
	}
	return spec
}

// crashChild is a process that does one thing to a set and is killed, unless it is done before.
func crashChild() {
	spec, provider := labSpec()
	spec = crashSpec(spec, os.Getenv("CHILD_SET"))
	left, err := strconv.Atoi(os.Getenv("CHILD_MOMENT"))
	must(err)
	spec.Provider = &mortal{provider, left}
	ctx := context.Background()
	switch os.Getenv("CHILD_DO") {
	case "build":
		var set *pool.Set
		if set, err = pool.Open(ctx, spec); err == nil {
			err = set.Close()
		}
	case "reset":
		err = pool.Reset(ctx, spec)
	case "rebuild":
		err = pool.Rebuild(ctx, spec, pool.RebuildOptions{})
	case "destroy":
		_, err = pool.Destroy(ctx, spec)
	}
	must(err)
	say("survived")
	os.Exit(0)
}

// However a process ends, the next one on the same machine goes on at once, and neither a VM nor a
// lease is left over.
func TestAKilledProcessIsReplaced(t *testing.T) {
	s := startLab(t)
	step := 17
	if os.Getenv(crashEnv) != "" {
		step = 1
	}
	for _, do := range []string{"build", "reset", "rebuild", "destroy"} {
		t.Run(do, func(t *testing.T) {
			t.Parallel()
			survived := false
			for moment := 1; !survived; moment += step {
				require.Less(t, moment, 1000, "it is never done")
				survived = s.crash(t, do, moment)
			}
		})
	}
}

// crash has a process do something to the set named for it and die at a moment, and makes the set ready
// from this process, for the next moment. It reports whether the process was done before.
func (s *standing) crash(t *testing.T, do string, moment int) (survived bool) {
	t.Helper()
	name := fmt.Sprintf("%s at moment %d", do, moment)
	var said []string
	spec, provider, err := s.spec(10*time.Minute, func(f string, a ...any) { said = append(said, fmt.Sprintf(f, a...)) })
	require.NoError(t, err)
	defer func() { assert.NoError(t, provider.Close(context.WithoutCancel(t.Context()))) }()
	spec = crashSpec(spec, do)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute) // less than a lease lasts
	defer cancel()
	if do != "build" && moment == 1 {
		set, err := pool.Open(ctx, spec)
		require.NoError(t, err, name)
		require.NoError(t, set.Close())
	}
	child := process(ctx, "crash", append(s.env(10*time.Minute), "CHILD_SET="+do, "CHILD_DO="+do, fmt.Sprint("CHILD_MOMENT=", moment))...)
	out, err := child.Output()
	survived = strings.Contains(string(out), "survived")
	require.True(t, survived || !child.ProcessState.Exited(), "%s: %v\n%s", name, err, out)

	said = nil
	set, err := pool.Open(ctx, spec)
	require.NoError(t, err, "%s:\n%s", name, strings.Join(said, "\n"))
	for _, host := range set.Status() {
		assert.True(t, host.Ready, "%s: %s: %s", name, host.Host, host)
	}
	ft := &fakeT{T: noT{}, name: "TestAfter", ctx: ctx}
	p := ft.acquire(set)
	require.NotNil(t, p, "%s: %v\n%s", name, ft.errs, strings.Join(said, "\n"))
	_, err = p.Host("dis").Run(ctx, "true")
	require.NoError(t, err, name)
	ft.end()
	require.NoError(t, set.Close())
	assert.NotContains(t, strings.Join(said, "\n"), "waiting for", "%s: nobody waits for a process that is gone", name)

	inv, err := spec.Provider.Inventory(ctx, do)
	require.NoError(t, err)
	seen := map[string]int{}
	for _, vm := range inv.VMs {
		if base, _, ok := strings.Cut(vm.Name, "-g"); ok { // another generation of golden
			vm.Name = base
		}
		seen[vm.Name]++
		assert.True(t, vm.On || vm.Name == "golden", "%s: %s is off", name, vm.Name)
	}
	assert.Equal(t, map[string]int{"golden": 1, "con1": 1, "dis1": 1}, seen, name)
	if do == "build" || survived {
		removed, err := pool.Destroy(ctx, spec)
		require.NoError(t, err, name)
		assert.Len(t, removed, 3, name)
	}
	return survived
}
